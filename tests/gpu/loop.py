"""The runners of an extraction on batches of noise: a backbone and its regions, without videos or a cache on disk."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.pipeline.extraction.arriving import Arriving
from kinegraph.stages.backbones.run import BackboneRunner
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.regions.run import RegionRunner
from kinegraph.stages.transfers import Transfers, transfers_on
from tests.gpu.checks import Check, apart
from tests.gpu.copies import no_waits

CLIPS, TOP = 2, 5
Rows = dict[tuple[str, int], np.ndarray]  # by array and number of the clip


def recipe_of(model: str, precision: str, frames: int, tap: str) -> Recipe:
    backbone = {
        "model": model,
        "weights": "random:0",
        "taps": [tap],
        "precision": precision,
        "store": ["maps", "pooled"],
    }
    sections = {
        "clips": {"num_frames": frames},
        "backbones": {"net": backbone},
        "proposals": {"source": "grid", "cells": [1, TOP]},
        "regions": {"backbones": ["net"]},
    }
    return Recipe.model_validate(sections)


@dataclass(kw_only=True)
class NoiseBatch:
    """A `StageBatch` whose results go to `written`, through transfers as in an extraction."""

    number: int
    size: int
    frames: int
    transfers: Transfers
    arriving: Arriving
    written: Rows
    maps: dict[str, Tensor] = field(default_factory=dict)
    is_last: bool = False

    def __post_init__(self) -> None:
        self.slots = list(range(CLIPS))
        row = ClipRow(
            clip_id="v:0:full", video_id="v", path="v", split="", start_seconds=0.0, end_seconds=1.0, labels=(),
            target_times=(0.0,), crop=(0, 0, 96, 96), frame_width=96, frame_height=96,
        )  # fmt: skip
        self.rows: Sequence[ClipRow] = [row] * CLIPS
        self.shard_rows, self.offset, self.batch_size = self.rows, 0, CLIPS

    def pixels(self, square: Square) -> np.ndarray:
        shape = (CLIPS, self.frames, self.size, self.size, 3)
        return np.random.default_rng(self.number).integers(0, 256, shape, np.uint8)

    def clip(self, slot: int) -> Any:
        raise AssertionError("no stage of this loop reads clips")

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        if array in self.maps:
            return self.maps[array][slot]
        rng = np.random.default_rng(100 * self.number + slot)
        if array == "proposals/count":
            return rng.integers(0, TOP + 1, self.frames).astype(np.int16)
        corners = np.sort(rng.random((self.frames, TOP, 2, 2), np.float32) * 96, 2)
        return corners.reshape(self.frames, TOP, 4)

    def stores(self, array: str) -> bool:
        return True

    def upload(self, values: "np.ndarray | Tensor") -> Tensor:
        return values if isinstance(values, Tensor) else self.transfers.upload(values)

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        def take(arrived: np.ndarray) -> None:
            for slot, row in zip(slots, arrived, strict=True):
                self.written[array, self.number * CLIPS + slot] = row.copy()

        assert isinstance(values, Tensor)
        self.arriving.expect(array, self.transfers.download(values), take)

    def write_batch(self, array: str, values: Tensor) -> None:
        self.write(array, self.slots, values)

    def hand_on(self, array: str, values: Tensor) -> None:
        self.maps[array] = values

    def fail(self, slot: int, reason: str, detail: str) -> None:
        raise AssertionError(f"slot {slot}: {reason}: {detail}")

    def fail_where(self, is_bad: Tensor, reason: str, detail: Callable[[int], str]) -> None:
        def take(arrived: np.ndarray) -> None:
            assert not arrived.any(), reason

        self.arriving.expect("", self.transfers.download(is_bad), take)

    def note_file(self, slot: int, path: str | None) -> None:
        return


def run(recipe: Recipe, device: torch.device, batches: int, *, waits_refused: bool = False) -> Rows:
    """All rows of all batches."""
    runners: list[BackboneRunner | RegionRunner] = [
        kind_of(key).open(recipe, key, device, compiled=False)  # type: ignore[misc]
        for key in ("features/net", "regions/net")
    ]
    written: Rows = {}
    transfers, arriving = transfers_on(device), Arriving()
    for number in range(batches):
        batch = NoiseBatch(
            number=number, size=recipe.size_of("net"), frames=recipe.clips.num_frames, transfers=transfers,
            arriving=arriving, written=written,
        )  # fmt: skip
        arriving.begin_batch()
        with no_waits() if waits_refused and number else nullcontext():
            for runner in runners:
                runner.run(batch)
        arriving.end_batch()
    arriving.take_all()
    return written


def part(device: torch.device, small: bool) -> Iterator[Check]:
    model, frames, tap = ("tiny_i3d", 8, "res4") if small else ("i3d_r50", 8, "res4")
    recipe = recipe_of(model, "fp32", frames, tap)
    expected = run(recipe, torch.device("cpu"), 3)
    found = run(recipe, device, 3, waits_refused=device.type == "cuda")
    yield Check(what=f"{model}: rows that differ in name", found=len(found.keys() ^ expected.keys()), allowed=0)
    for array in sorted({array for array, _ in expected}):
        rows = [(number, row) for (name, number), row in expected.items() if name == array]
        far = max(apart(torch.from_numpy(found[array, number]), torch.from_numpy(row)) for number, row in rows)
        yield Check(what=f"{array}: distance from the CPU, no wait in the loop", found=far, allowed=2e-3, unit="std")

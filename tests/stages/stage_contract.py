"""What every kind of stage must do: subclass one of the contracts here and give its fixtures.

`StageContract` is that of a kind without a runner, `RunnerContract` of one with a runner, `FailingContract` of a runner
that can find a clip unusable.

`BatchInMemory` is a batch without a cache: what a runner reads is given to it, what it writes is kept.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from kinegraph.cache_schemas.arrays import ARRAY_KINDS, MAY_HOLD_NAN
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.documents import StageDocument
from kinegraph.cache_schemas.ledger import Reason
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.kinds import KINDS, kind_of
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import Runner, StageKind
from kinegraph.stages.transfers import InPlace

SECONDS, SIDE = 0.125, 96
Damage = tuple[str, Callable[[np.ndarray], object], str]  # array, what is done to its rows, the kind of problem


def clip_row(number: int) -> ClipRow:
    video = f"left/v{number}.mp4"
    return ClipRow(
        clip_id=f"{video}:0:full", video_id=video, path=video, split="train", start_seconds=0.0, end_seconds=8.0,
        labels=(), target_times=(0.0,), crop=(0, 0, SIDE, SIDE), frame_width=SIDE, frame_height=SIDE,
    )  # fmt: skip


@dataclass(kw_only=True)
class BatchInMemory:
    """Slots 0 to 3, of which slot 1 cannot be used and the row of slot 2 is done: runners are to leave both alone.

    `reads`: rows [4, ...] of the arrays that the stage reads. `whole`: frames [T, h, w, 3] of each clip.
    """

    num_frames: int = 8
    reads: dict[str, "np.ndarray | Tensor"] = field(default_factory=dict)
    whole: np.ndarray | None = None
    rows: Sequence[ClipRow] = field(default_factory=lambda: [clip_row(number) for number in range(4)])
    slots: list[int] = field(default_factory=lambda: [0, 3])
    offset: int = 0
    is_last: bool = True
    written: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    handed_on: dict[str, Tensor] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)

    @property
    def shard_rows(self) -> Sequence[ClipRow]:
        return self.rows

    @property
    def batch_size(self) -> int:
        return len(self.rows)

    def pixels(self, square: Square) -> np.ndarray:
        shape = (len(self.rows), self.num_frames // square.every, square.size, square.size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def clip(self, slot: int) -> DecodedClip:
        assert slot in self.slots
        clip = DecodedClip.blank(self.num_frames)
        clip.frame_numbers[:] = np.arange(self.num_frames)
        clip.frame_times[:] = clip.frame_numbers * SECONDS
        clip.whole = self.whole
        return clip

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        assert slot in self.slots
        return self.reads[array][slot]

    def stores(self, array: str) -> bool:
        return True

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        assert len(slots) == len(values)
        for slot, row in zip(slots, values, strict=True):
            self.written[array, slot] = np.asarray(row)

    def upload(self, values: "np.ndarray | Tensor") -> Tensor:
        return values if isinstance(values, Tensor) else InPlace().upload(values)

    def write_batch(self, array: str, values: Tensor) -> None:
        assert len(values) == len(self.rows)
        self.write(array, self.slots, values[self.slots])

    def hand_on(self, array: str, values: Tensor) -> None:
        self.handed_on[array] = values

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        assert reason in get_args(Reason)
        assert detail
        self.failed.setdefault(slot, reason)

    def fail_where(self, is_bad: Tensor, reason: Reason, detail: Callable[[int], str]) -> None:
        assert is_bad.shape == (len(self.rows),)
        for slot in self.slots:
            if is_bad[slot]:
                self.fail(slot, reason, detail(slot))

    def note_file(self, slot: int, path: str | None) -> None:
        if path is not None:
            self.files[slot] = path


def declared(recipe: Recipe) -> dict[str, Stage]:
    """All stages of a recipe, as a plan declares them."""
    stages: dict[str, Stage] = {}
    for kind in KINDS.values():
        for key in kind.keys(recipe):
            stages[key] = kind.declare(recipe, key, stages, f"digest of {key}")
    return stages


class StageContract:
    """The fixtures `recipe`, with the section of the kind, and `key`. Without `damages` nothing of its rows is checked.

    `sound`: rows [n, ...] of clips that did not fail, by array. `damages`: what `verify` is to find in them.
    """

    @pytest.fixture
    def kind(self, key: str) -> StageKind:
        return kind_of(key)

    @pytest.fixture
    def stage(self, recipe: Recipe, key: str) -> Stage:
        return declared(recipe)[key]

    @pytest.fixture
    def damages(self) -> list[Damage]:
        return []

    def test_keys_and_arrays_are_named_after_it(self, kind: StageKind, key: str, stage: Stage) -> None:
        assert KINDS[kind.kind] is kind
        assert kind.kind in ARRAY_KINDS
        assert key in (kind.kind, f"{kind.kind}/{key.rpartition('/')[2]}")
        assert stage.key == key
        assert stage.arrays
        for spec in stage.arrays:
            assert (spec.stage, spec.name.startswith(f"{key}/")) == (key, True), spec.name
        StageDocument.model_validate_json(json.dumps(stage.document()))  # it can be read from a cache

    def test_it_is_declared_only_where_the_recipe_asks_for_it(self, kind: StageKind, recipe: Recipe, key: str) -> None:
        kind.check(recipe)
        kind.check(Recipe())
        assert key in kind.keys(recipe)
        assert kind.kind == "clips" or not kind.keys(Recipe())

    def test_it_reads_stages_that_are_declared_before_it(self, recipe: Recipe, key: str, stage: Stage) -> None:
        stages = declared(recipe)
        before = {other: stages[other].fingerprint for other in [*stages][: [*stages].index(key)]}
        assert stage.reads.items() <= before.items()
        assert stage.reads or key == "clips"
        assert stage.options["version"] >= 1

    def test_what_it_hands_on_are_arrays_of_its_own(self, kind: StageKind, recipe: Recipe, key: str) -> None:
        assert all(array.startswith(f"{key}/") for array in kind.handed_on(recipe, key))

    def test_what_it_wants_is_of_the_clips_of_the_recipe(self, kind: StageKind, recipe: Recipe, key: str) -> None:
        wanted = kind.wanted(recipe, key)
        assert wanted is None or wanted | recipe.wanted() == wanted

    def test_verify_finds_damaged_rows(
        self, kind: StageKind, sound: dict[str, np.ndarray], damages: list[Damage]
    ) -> None:
        assert [*kind.problems(sound)] == []
        for array, damage, problem in damages:
            rows = {name: values.copy() for name, values in sound.items()}
            damage(rows[array])
            assert (array, problem) in [*kind.problems(rows)], f"{array}: {problem}"


class RunnerContract(StageContract):
    """Besides, the fixture `batch`, in which nothing fails."""

    @pytest.fixture
    def runner(self, kind: StageKind, recipe: Recipe, key: str) -> Runner:
        runner = kind.open(recipe, key, torch.device("cpu"), compiled=False)
        assert runner is not None
        return runner

    @pytest.fixture
    def sound(self, runner: Runner, stage: Stage, batch: BatchInMemory) -> dict[str, np.ndarray]:
        runner.run(batch)
        return {spec.name: np.stack([batch.written[spec.name, slot] for slot in batch.slots]) for spec in stage.arrays}

    def test_it_fills_every_row_that_lacks(self, stage: Stage, sound: dict[str, np.ndarray]) -> None:
        for spec in stage.arrays:
            rows = sound[spec.name]
            assert (rows.shape[1:], rows.dtype) == (spec.shape, np.dtype(spec.dtype)), spec.name
            assert spec.name in MAY_HOLD_NAN or np.isfinite(rows).all(), spec.name

    def test_it_leaves_other_rows_alone(self, runner: Runner, batch: BatchInMemory) -> None:
        runner.run(batch)
        assert {slot for _, slot in batch.written} == {*batch.slots}
        assert not batch.failed

    def test_it_hands_on_what_it_says(
        self, kind: StageKind, recipe: Recipe, key: str, runner: Runner, batch: BatchInMemory
    ) -> None:
        runner.run(batch)
        assert batch.handed_on.keys() == {*kind.handed_on(recipe, key)}
        for array, values in batch.handed_on.items():
            for slot in batch.slots:
                assert np.array_equal(values[slot], batch.written[array, slot])

    def test_it_is_the_same_each_time(self, runner: Runner, batch: BatchInMemory, sound: dict[str, np.ndarray]) -> None:
        batch.written.clear()
        runner.run(batch)
        for array, rows in sound.items():
            again = np.stack([batch.written[array, slot] for slot in batch.slots])
            assert again.tobytes() == rows.tobytes(), array

    def test_its_digest_is_that_of_its_weights(self, runner: Runner, stage: Stage) -> None:
        assert bool(runner.digest) == bool(stage.weights)

    def test_it_reads_the_files_that_it_names(
        self, kind: StageKind, recipe: Recipe, key: str, runner: Runner, batch: BatchInMemory
    ) -> None:
        runner.run(batch)
        file_of = kind.file_of(recipe, key)
        expected = {} if file_of is None else {slot: file_of(batch.rows[slot].video_name) for slot in batch.slots}
        assert batch.files == expected


class FailingContract(RunnerContract):
    """Besides, the fixture `failing`: a batch in which the clip of slot 3 has to fail, for a reason of this stage."""

    def test_a_clip_that_fails_stops_no_other(self, runner: Runner, stage: Stage, failing: BatchInMemory) -> None:
        runner.run(failing)
        assert failing.failed.keys() == {3}
        assert {spec.name for spec in stage.arrays} == {array for array, slot in failing.written if slot == 0}

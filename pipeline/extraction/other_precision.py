"""Measures for `plan --calibrate` how much time a stage saves in another precision, on one batch. Needs torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.networks import open_runner
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.stage import Runner, StageBatch


@dataclass(frozen=True)
class KeptBatch:
    """A batch of an extraction, kept so that a network can run on it again for a measurement. It implements
    `stages.stage.StageBatch`, the input of a stage's network. All results are copied to the host and dropped.

    A network that takes batches gets the pixels of all clips of `batch`. A network that takes single clips gets one
    clip, `decoded`, and its position in `batch`, `slots`.
    """

    batch: StageBatch
    slots: list[int]
    decoded: DecodedClip
    is_last: bool = True  # so that a runner keeps no result of the clip

    @classmethod
    def of(cls, batch: StageBatch) -> "KeptBatch":
        slot = batch.slots[0]
        return cls(batch, [slot], replace(batch.clip(slot)))

    @property
    def rows(self) -> Sequence[ClipRow]:
        return self.batch.rows

    @property
    def shard_rows(self) -> Sequence[ClipRow]:
        return self.batch.shard_rows

    @property
    def offset(self) -> int:
        return self.batch.offset

    @property
    def batch_size(self) -> int:
        return self.batch.batch_size

    def pixels(self, square: Square) -> np.ndarray:
        return self.batch.pixels(square)

    def clip(self, slot: int) -> DecodedClip:
        return replace(self.decoded)  # a runner removes the pixels of a clip

    def read(self, array: str, slot: int) -> np.ndarray | Tensor:
        return self.batch.read(array, slot)

    def stores(self, array: str) -> bool:
        return self.batch.stores(array)

    def upload(self, values: np.ndarray | Tensor) -> Tensor:
        return self.batch.upload(values)

    def write(self, array: str, slots: Sequence[int], values: np.ndarray | Tensor) -> None:
        self.write_batch(array, torch.as_tensor(values))

    def write_batch(self, array: str, values: Tensor) -> None:
        values.cpu()

    def hand_on(self, array: str, values: Tensor) -> None:
        return

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        return

    def fail_where(self, is_bad: Tensor, reason: Reason, detail: Callable[[int], str]) -> None:
        is_bad.cpu()

    def note_file(self, slot: int, path: str | None) -> None:
        return


class KeepingRunner:
    """A Runner that passes all batches to `runner` and remembers the first batch as `first_batch`.

    `digest` is the digest of the weights of `runner`. `first_batch` is None until a batch has run.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner, self.digest = runner, runner.digest
        self.first_batch: KeptBatch | None = None

    def run(self, batch: StageBatch) -> None:
        if self.first_batch is None:
            self.first_batch = KeptBatch.of(batch)
        self.runner.run(batch)


def in_precision(config: Config, key: str, precision: str) -> Config:
    """Returns a copy of `config` in which the network of the stage `key` computes in `precision`: "fp32", "bf16" or
    "fp16".
    """
    kind, _, name = key.partition("/")
    if kind == "features":
        options = config.backbones[name].model_copy(update={"precision": precision})
        return config.model_copy(update={"backbones": config.backbones | {name: options}})
    assert config.proposals is not None
    return config.model_copy(update={"proposals": config.proposals.model_copy(update={"precision": precision})})


def saved_share(config: Config, key: str, keeping: KeepingRunner, precision: str, device: torch.device) -> float | None:
    """Returns which share of the time of the stage `key` the precision `precision` saves. The result is 0.5 if the
    stage becomes twice as fast, and negative if the stage becomes slower. Returns None if `keeping` has no batch.

    `keeping` has the network in the present precision and a batch to measure with. The network is loaded a second time,
    in `precision` ("fp32", "bf16" or "fp16").
    """
    if keeping.first_batch is None:
        return None
    other = open_runner(in_precision(config, key, precision), key, device)
    assert other is not None
    return 1 - _seconds(other, keeping.first_batch) / _seconds(keeping.runner, keeping.first_batch)


def _seconds(runner: Runner, batch: KeptBatch) -> float:
    """Returns the seconds that `runner` takes for `batch`, until the results are on the host. The batch runs twice, and
    the second run is measured.
    """
    runner.run(batch)
    begun = perf_counter()
    runner.run(batch)
    return perf_counter() - begun

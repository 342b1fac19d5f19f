"""A head that is trained on a GPU: as on the CPU, in half precision, and after an interruption."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import STATE_FILE, EpochRecord
from kinegraph.stages.training.train import seeded, train
from tests.gpu.checks import Check
from tests.stages.training.clips_in_memory import POOLED
from tests.stages.training.resuming import OPTIONS, clips

CPU = torch.device("cpu")
OnEpoch = Callable[[EpochRecord], None]


class CutOff(Exception):
    pass


def cut_off(record: EpochRecord) -> None:
    if record.epoch == 2:
        raise CutOff


def part(device: torch.device, small: bool) -> Iterator[Check]:
    on_cpu, _ = _losses(CPU, OPTIONS, dropout=0.0)
    on_device, _ = _losses(device, OPTIONS, dropout=0.0)
    yield Check(what="losses: largest relative distance from the CPU", found=_apart(on_device, on_cpu), allowed=1e-3)
    for precision in ("bf16", "fp16") if device.type == "cuda" and not small else ("bf16",):
        half, _ = _losses(device, OPTIONS.model_copy(update={"precision": precision}), dropout=0.0)
        yield Check(what=f"losses in {precision}: the same", found=_apart(half, on_cpu), allowed=0.1)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / STATE_FILE
        try:
            _losses(device, OPTIONS, dropout=0.5, state=state, on_epoch=cut_off)
        except CutOff:
            resumed, weights = _losses(device, OPTIONS, dropout=0.5, state=state)
    undisturbed, expected = _losses(device, OPTIONS, dropout=0.5)
    yield Check(what="losses after an interruption", found=_apart(resumed, undisturbed), allowed=1e-4)
    yield Check(what="weights after an interruption", found=float((weights - expected).abs().max()), allowed=1e-4)


def _losses(
    device: torch.device,
    options: TrainOptions,
    dropout: float,
    state: Path | None = None,
    on_epoch: OnEpoch = lambda record: None,
) -> tuple[list[float], torch.Tensor]:
    """The losses of all epochs, and the weights at the end."""
    with seeded(options.seed, CPU):
        head = build_head("lstm", {POOLED: (4, 8)}, 3, hidden=16, dropout=dropout)
    result = train(
        head, clips(0, 37), clips(1, 20), options, device=device, on_epoch=on_epoch, state_file=state
    )  # fmt: skip
    weights = torch.cat([values.flatten().cpu() for values in head.state_dict().values()])
    return [record.loss for record in result.history], weights


def _apart(found: list[float], expected: list[float]) -> float:
    assert len(found) == len(expected)
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))

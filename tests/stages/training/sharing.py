"""Under torchrun: a head trained in several processes, cut off and resumed; the first writes what came of it."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinegraph.stages.training import together
from kinegraph.stages.training.records import EpochRecord
from tests.stages.training.resuming import CPU, OPTIONS, run

# 37 clips: the last batch has a single one
PLAIN = OPTIONS.model_copy(update={"class_weights": "balanced", "batch_size": 6, "epochs": 3})


class CutOff(Exception):
    pass


def cut_off(record: EpochRecord) -> None:
    """After the second epoch's last steps, before its state is written."""
    if record.epoch == 2:
        raise CutOff


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


def plain() -> tuple[Tensor, list[float]]:
    """Without dropout, whose draws are those of a process: weights and losses."""
    weights, result = run(None, PLAIN, dropout=0.0)
    return flat(weights), [loss for record in result.history for loss in (record.loss, record.metrics["loss"])]


def main() -> None:
    folder, found = Path(sys.argv[1]), dict[str, Any]()
    with together.acquainted(CPU):
        found["weights"], found["losses"] = plain()
        found["undisturbed"] = flat(run(None)[0])
        with contextlib.suppress(CutOff):
            run(folder, on_epoch=cut_off)
        together.meet()
        found["resumed"] = flat(run(folder)[0])
        found_by_rank = together.gathered(found)
        if together.rank() == 0:
            torch.save(found_by_rank, folder / "found.pt")


if __name__ == "__main__":
    main()

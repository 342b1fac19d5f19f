"""Under torchrun: a head trained in several processes, cut off and resumed; the first writes what came of it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import Normalised
from kinegraph.stages.backbones.pixels import own_pixels
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.online import OnlineEntry, OnlineHead
from kinegraph.stages.training import together
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import EpochRecord
from kinegraph.stages.training.train import seeded, train
from tests.stages.training.clips_in_memory import POOLED, ClipsInMemory
from tests.stages.training.resuming import CPU, OPTIONS, clips, run

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


def candidates() -> tuple[Tensor, str | None, list[float | None]]:
    """The weights of the chosen candidate, its name, and the scores of all."""
    options = PLAIN.model_copy(update={"head": "linear_probe", "ema": None})
    with seeded(0, CPU):
        head = build_head("linear_probe", {POOLED: (4, 8)}, 3, learning_rates=[1e-3, 0.3], weight_decays=[0, 0.1])
    result = train(head, clips(0, 37), clips(1, 20), options, device=CPU)
    return flat(head.state_dict()), result.candidate, [*result.of_candidates.values()]


class PixelClips(ClipsInMemory):
    """Clips of noise. The labels have no meaning; the gradients of a backbone reach everything all the same."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        chosen = torch.tensor(indices)
        generator = torch.Generator().manual_seed(5)
        pixels = torch.randint(0, 256, (len(self), 4, 32, 32, 3), dtype=torch.uint8, generator=generator)
        return {"pixels/tiny": pixels[chosen], "labels": self.labels[chosen]}


def tuned() -> Tensor:
    """A backbone with frozen norms and its head, trained together: all weights and statistics."""
    with seeded(0, CPU):
        head = build_head("avg_pool", {"features/tiny/res4_pooled": (2, 96)}, 3, dropout=0.0)
    network = Normalised(build_backbone("tiny_i3d", "random:0", ["res4"]), own_pixels(entry("tiny_i3d")))
    known = OnlineEntry(
        name="tiny", taps=(entry("tiny_i3d").tap("res4"),), size=32, crop_array="clips/crop", regions=None
    )
    online = OnlineHead(head, [known], [network], clips_per_pass=2)
    online.unfreeze(None, "frozen", 1.0, None)
    some = clips(0, 10)
    videos = PixelClips(**vars(some))
    options = TrainOptions(batch_size=4, epochs=2, learning_rate=0.01, optimizer="sgd", val_split=None, threads=1)
    train(online, videos, None, options, device=CPU)
    return flat(online.state_dict())


def share(folder: Path) -> None:
    """The main function of each process."""
    found = dict[str, Any]()
    with together.connected_processes(CPU):
        found["weights"], found["losses"] = plain()
        found["candidates"] = candidates()
        found["tuned"] = tuned()
        found["undisturbed"] = flat(run(None)[0])
        with contextlib.suppress(CutOff):
            run(folder, on_epoch=cut_off)
        together.barrier()
        found["resumed"] = flat(run(folder)[0])
        found_by_rank = together.gathered(found)
        if together.rank() == 0:
            torch.save(found_by_rank, folder / "found.pt")

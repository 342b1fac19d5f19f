"""A run of a head with all that has a state, and one that is killed at given moments, one after the other."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.training import engine
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import STATE_FILE, EpochRecord, TrainResult
from kinegraph.stages.training.train import seeded, train
from tests.stages.training.clips_in_memory import POOLED, ClipsInMemory

CPU = torch.device("cpu")
OPTIONS = TrainOptions(
    head="lstm", seed=3, epochs=4, batch_size=8, learning_rate=0.02, warmup=1, ema=0.9, metric="loss", clip_grad_norm=1,
    checkpoint_steps=2, threads=1, optimizer="sgd",
)  # fmt: skip


def clips(seed: int, count: int) -> ClipsInMemory:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(count, 4, 8, generator=generator)
    labels = pooled.mean(1)[:, :3].argmax(1)
    return ClipsInMemory(
        pooled=pooled, labels=labels, num_classes=3, video_ids=[str(i) for i in range(count)], failed_labels=labels[:0]
    )


def run(
    folder: Path | None,
    options: TrainOptions = OPTIONS,
    dropout: float = 0.5,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> tuple[dict[str, Tensor], TrainResult]:
    """Five steps an epoch."""
    with seeded(options.seed, CPU):
        head = build_head("lstm", {POOLED: (4, 8)}, 3, hidden=16, dropout=dropout)
    state_file = folder / STATE_FILE if folder else None
    result = train(head, clips(0, 37), clips(1, 20), options, device=CPU, on_epoch=on_epoch, state_file=state_file)
    return head.state_dict(), result


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: str) -> None:
    """`step:3`: in the third step from now; `evaluate:2`, `save:2`: before or after the second such call is done."""
    what, number = moment.split(":")
    left = int(number)

    def counted(call: Callable[..., object], before: bool) -> Callable[..., object]:
        def dying(*arguments: object, **keywords: object) -> object:
            nonlocal left
            left -= 1
            if left == 0 and before:
                die()
            found = call(*arguments, **keywords)
            if left == 0:
                die()
            return found

        return dying

    if what == "step":
        torch.optim.SGD.step = counted(torch.optim.SGD.step, before=False)  # type: ignore[method-assign]
    else:
        name = {"evaluate": "evaluate", "save": "save_state"}[what]
        setattr(engine, name, counted(getattr(engine, name), before=what == "evaluate"))


def run_killed(folder: Path, moments: Sequence[str]) -> None:
    for moment in moments:
        child = os.fork()
        if child == 0:
            die_at(moment)
            run(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{moment}: training ended before"
        assert os.WTERMSIG(status) == signal.SIGKILL

"""Training a head on cached clips."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.heads.head import Head
from stages.training.clips import Clips, read_batches, require_finite
from stages.training.evaluation import evaluate
from stages.training.losses import clip_loss
from stages.training.options import TrainOptions

# progress in [0, 1) -> factor on the learning rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch, numbered from 1: mean training loss, validation metrics (empty without validation), seconds."""

    epoch: int
    loss: float
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The epoch whose weights the head now has; `metric` names what chose it, None where nothing did."""

    best_epoch: int
    best_metric: float | None
    metric: str | None
    history: tuple[EpochRecord, ...]
    seconds: float
    num_parameters: int


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators of the CPU and of `device` start from `seed`; after, they are as before."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def train(
    head: Head,
    train_clips: Clips,
    val_clips: Clips | None,
    options: TrainOptions,
    *,
    device: torch.device,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> TrainResult:
    """Train `head` in place; it ends in evaluation mode, on `device`, with the weights of the best epoch.

    The best epoch is the first with the highest top-1 or mAP on `val_clips`; without those it is the last. On a
    CPU, the same head, clips, options and number of threads give the same weights bit for bit. The caller seeds
    the head's first weights: `with seeded(options.seed, device): head = build_head(...)`.

    Raises ValueError without a clip or for a clip without a label; when the loss is not finite, FeaturesNotFinite if
    features are not, else TrainingDiverged.
    """
    _check(train_clips, options.train_split)
    with seeded(options.seed, device), _threads(options.threads):
        return _Training(head.to(device), train_clips, options, device).run(val_clips, on_epoch)


class _Training:
    """The state of one run: optimiser, order of clips, step."""

    def __init__(self, head: Head, clips: Clips, options: TrainOptions, device: torch.device) -> None:
        self.head, self.clips, self.options, self.device = head, clips, options, device
        self.optimizer = _optimizer(head, options)
        self.order = torch.Generator().manual_seed(options.seed)
        self.num_steps = options.epochs * math.ceil(len(clips) / options.batch_size)
        self.step = 0

    def run(self, val_clips: Clips | None, on_epoch: Callable[[EpochRecord], None]) -> TrainResult:
        started = time.perf_counter()
        metric = None if val_clips is None else "mAP" if self.clips.multi_label else "top1"
        best, best_epoch, best_weights = -math.inf, 0, self.head.state_dict()
        history: list[EpochRecord] = []
        for epoch in range(1, self.options.epochs + 1):
            record = self._epoch(epoch, val_clips)
            history.append(record)
            on_epoch(record)
            value = record.metrics[metric] if metric else epoch
            if value > best:
                best, best_epoch, best_weights = value, epoch, copy.deepcopy(self.head.state_dict())
            elif self.options.patience and epoch - best_epoch >= self.options.patience:
                break
        self.head.load_state_dict(best_weights)
        self.head.eval()
        return TrainResult(
            best_epoch=best_epoch,
            best_metric=best if metric else None,
            metric=metric,
            history=tuple(history),
            seconds=time.perf_counter() - started,
            num_parameters=sum(parameter.numel() for parameter in self.head.parameters()),
        )

    def _epoch(self, epoch: int, val_clips: Clips | None) -> EpochRecord:
        started = time.perf_counter()
        self.head.train()
        order = torch.randperm(len(self.clips), generator=self.order)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        names = (*self.head.reads, "labels")
        for batch in read_batches(self.clips, order, self.options.batch_size, names, self.device):
            total += self._step(batch).detach() * len(batch["labels"])
        loss = total.item() / len(order)  # the epoch's only wait for the device
        if not math.isfinite(loss):
            require_finite(self.clips, self.head.reads, self.options.batch_size)
            raise TrainingDiverged(
                f"The loss of epoch {epoch} is {loss}: lower train.learning_rate (now {self.options.learning_rate})."
            )
        metrics: dict[str, float] = {}
        if val_clips is not None:
            metrics = evaluate(self.head, val_clips, self.options, device=self.device).metrics
        return EpochRecord(epoch=epoch, loss=loss, metrics=metrics, seconds=time.perf_counter() - started)

    def _step(self, batch: dict[str, Tensor]) -> Tensor:
        factor = SCHEDULES[self.options.schedule](self.step / self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * factor * group["factor"]
        self.step += 1
        loss = clip_loss(self.head(batch), batch["labels"])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss


def _check(clips: Clips, split: str) -> None:
    if not len(clips):
        raise ValueError(f"There is no ok clip to train on in split {split!r}.")
    unlabelled = 0 if clips.multi_label else int((clips.labels < 0).sum())
    if unlabelled:
        raise ValueError(f"{unlabelled} of {len(clips)} clips in split {split!r} have no label to train on.")


def _optimizer(head: Head, options: TrainOptions) -> torch.optim.Optimizer:
    groups = _by_factor(head)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        groups, options.learning_rate, momentum=0.9, weight_decay=options.weight_decay, nesterov=True
    )


def _by_factor(head: Head) -> list[dict[str, Any]]:
    """Groups of parameters, each with a `factor` of its own on the learning rate."""
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in head.named_parameters():
        groups.setdefault(head.learning_rate_factor_of(name), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Runs the training of one head: the steps, the epochs, the choice of the best epoch, and the file with its state."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.documents import shortened
from kinegraph.stages.device import computing_in
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.candidates import CandidateHead, candidates_of
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training import together
from kinegraph.stages.training.best_epoch import BestEpoch, worth_of
from kinegraph.stages.training.candidates import (
    Validation,
    keep,
    losses_of,
    parameters_of_each,
    trained_form,
    validate_candidates,
    weights_of,
)
from kinegraph.stages.training.clips import (
    Batch,
    Clips,
    VideoLost,
    in_epoch,
    read_batches,
    require_finite,
)
from kinegraph.stages.training.epoch_clips import EpochClips, with_views_per_epoch
from kinegraph.stages.training.evaluation import ScoresNotFinite, evaluate
from kinegraph.stages.training.losses import class_weights, clip_weights
from kinegraph.stages.training.optimizers import build_ema, build_optimizer
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import EpochRecord, StepRecord, TrainResult
from kinegraph.stages.training.schedules import Schedule
from kinegraph.stages.training.state import (
    MISFITS,
    damaged_state,
    generators,
    identity,
    load_state,
    save_state,
    set_generators,
)

STEP_RECORD_SECONDS = 1.0
STATE_SECONDS = 5.0  # epochs that are shorter share a state: in a tiny run it took a fifth of the time


class TrainingDiverged(RuntimeError):
    """Raised if the loss or a score of the head becomes NaN or infinite, although the features are finite."""


OnEpoch = Callable[[EpochRecord], None]
OnStep = Callable[[StepRecord], None]


class Training:
    """One training run of a head. The method `run` trains. `resume_from` continues an interrupted run.

    - `head`: the network, on `device`. It is trained in place.
    - `clips`: the clips to train on.
    - `val_clips`: the clips on which the head is validated after each epoch, or None.
    - `options`: the options of the training.
    - `device`: the device that computes.
    """

    def __init__(
        self, head: Head, clips: Clips, val_clips: Clips | None, options: TrainOptions, device: torch.device
    ) -> None:
        self.head, self.clips, self.val_clips, self.device = head, clips, val_clips, device
        self.options = options = with_views_per_epoch(options, clips)
        self.epoch_clips = EpochClips(clips, options)
        self.schedule = Schedule(options=options, steps_per_epoch=math.ceil(len(self.epoch_clips) / options.batch_size))
        self.network = together.distributed(trained_form(head), device)
        self.optimizer, self.ema = build_optimizer(head, options), build_ema(head, options)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        weights = class_weights(clips, options)
        self.class_weights = None if weights is None else weights.to(device)
        self.weight_of_clip = clip_weights(clips, weights)
        self.metric = options.metric or ("mAP" if clips.multi_label else "top1")
        self.order = torch.Generator().manual_seed(options.seed)
        self.epoch_order = self.order.get_state()  # generator state before the present epoch's order was drawn
        self.step = self.step_of_epoch = 0
        num_candidates = max(1, len(candidates_of(head)))
        self.losses = torch.zeros(num_candidates, dtype=torch.float64, device=device)  # of the epoch, times clips
        self.history: list[EpochRecord] = []
        self.best = BestEpoch()
        self.state_file: Path | None = None
        self.has_state = False
        self.begun = self.saved = time.perf_counter()

    def resume_from(self, state_file: Path | None) -> None:
        """Loads the state of an interrupted run from `state_file`, so that `run` continues from it. Without this file,
        the run starts at the beginning.

        `run` writes later states to the same file. If `state_file` is None, no state is loaded or written. Raises
        StateError if the file is damaged or has the state of another run.
        """
        self.state_file = state_file
        if state_file is not None:
            self.identity = identity(self.head, self.clips, self.val_clips, self.options)
            if (state := load_state(state_file, self.identity)) is not None:
                try:
                    self._load(state)
                except torch.OutOfMemoryError:
                    raise
                except MISFITS as error:
                    raise damaged_state(state_file, shortened(f"{type(error).__name__} {error}", 300)) from error

    def run(self, on_epoch: OnEpoch, on_step: OnStep) -> TrainResult:
        """Trains the head until the last step, or until the option `patience` ends the training. Returns the
        TrainResult, which has the records of all epochs and the number of the best epoch. At the end, the head has the
        weights of the best epoch.

        `on_epoch` is called with an EpochRecord after each epoch. `on_step` is called with a StepRecord about once a
        second. A signal that stops the program raises KeyboardInterrupt between two batches.
        """
        while not self._finished():
            stopping.check()
            record = self._epoch(on_step)
            self.history.append(record)
            on_epoch(record)
            worth = self._worth(record)
            if worth > self.best.worth:
                chosen = record.candidate_index
                self.best = BestEpoch(worth, record.epoch, copy.deepcopy(weights_of(self._scored(), chosen)), chosen)
            if self._finished() or self._epoch_is_saved(time.perf_counter()):
                self._save()
        keep(self.head, self.best.candidate)
        self.head.load_state_dict(self.best.weights)
        self.head.eval()
        validated = self.val_clips is not None
        return TrainResult(
            best_epoch=self.best.epoch,
            best_metric=self.history[self.best.epoch - 1].metrics[self.metric] if validated else None,
            metric=self.metric if validated else None,
            history=tuple(self.history),
            seconds=time.perf_counter() - self.begun,
            num_parameters=sum(parameter.numel() for parameter in self.head.parameters()),
        )

    def _finished(self) -> bool:
        patience, waited = self.options.patience, len(self.history) - self.best.epoch
        return self.step >= self.schedule.num_steps or (patience is not None and waited >= patience)

    def _worth(self, record: EpochRecord) -> float:
        return worth_of(record, None if self.val_clips is None else self.metric)

    def _scored(self) -> Head:
        """Returns the network that is validated and whose weights the run keeps.

        With the option `ema`, it is the moving mean of the head. Without this option, it is the head itself.
        """
        return self.head if self.ema is None else self.ema.module

    def _epoch(self, on_step: OnStep) -> EpochRecord:
        """Trains for one epoch, validates the head, and returns the EpochRecord. Calls `on_step` with a StepRecord
        about once a second.

        If the run continues from a state that was saved within an epoch, only the remaining steps of this epoch are
        trained.
        """
        started = last_report = time.perf_counter()
        self.head.train()
        names, size, clips_done = (*self.head.reads, "labels"), self.options.batch_size, 0
        order = self._order()
        left = order[self.step_of_epoch * size :]
        own, own_size = together.own_share(left, size)
        batches = read_batches(in_epoch(self.clips, len(self.history) + 1), own, own_size, names, self.device)
        asked, waited = time.perf_counter(), 0.0
        for batch, indices in zip(self._until_lost(batches), torch.split(left, size), strict=True):
            waited += time.perf_counter() - asked
            self._step(batch, indices)
            clips_done += len(indices)
            now = time.perf_counter()
            if now - last_report >= STEP_RECORD_SECONDS:
                last_report = now
                on_step(self._step_record(clips_done / (now - started)))
            if self.step_of_epoch * size < len(order) and self._state_is_due(now):
                self._save()
            asked = time.perf_counter()
        losses = together.summed(self.losses).cpu() / len(order)  # the only wait for the device in an epoch
        seconds = time.perf_counter() - started
        record = self._record(losses, clips_done / seconds, waited / seconds, started)
        self.step_of_epoch, self.epoch_order = 0, self.order.get_state()
        self.losses.zero_()
        return record

    def _until_lost(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches of `batches`. If a video can no longer be read, saves the state of the run and raises
        VideoLost.
        """
        try:
            yield from batches
        except VideoLost:
            self._save()
            raise

    def _order(self) -> Tensor:
        """Returns the indices of the clips of the present epoch, in random order.

        If the run ends within this epoch, the result has only the clips up to the last step.
        """
        self.order.set_state(self.epoch_order)
        indices = self.epoch_clips.indices(len(self.history) + 1)
        order = indices[torch.randperm(len(indices), generator=self.order)]
        return order[: (self.schedule.num_steps - self.step + self.step_of_epoch) * self.options.batch_size]

    def _record(self, losses: Tensor, clips_per_second: float, waited: float, started: float) -> EpochRecord:
        """Validates the head after an epoch and returns the EpochRecord. For a head with candidates, the loss and the
        metrics are those of the best candidate.

        - `losses`: the mean training loss of each candidate, [candidates]. A head without candidates has one loss.
        - `waited`: the share of the training time, from 0 to 1, in which the network waited for clips.
        - `started`: the time.perf_counter() at the start of the epoch.

        Raises TrainingDiverged if no candidate has a finite loss and finite scores. Raises FeaturesNotFinite instead if
        the cause is a cached feature that is not finite.
        """
        epoch = len(self.history) + 1
        if not losses.isfinite().any():
            require_finite(self.clips, self.head.reads, self.options.batch_size)
            raise self._diverged(f"The loss of epoch {epoch} is {losses[0].item()}")
        best = together.from_first(self._validated(losses) if together.rank() == 0 else None)
        if best is None:
            raise self._diverged(f"Scores after epoch {epoch} are not finite")
        group = next(group for group in self.optimizer.param_groups if group.get("candidate", 0) == best.candidate)
        return EpochRecord(
            epoch=epoch,
            loss=losses[best.candidate].item(),
            metrics=best.metrics,
            seconds=time.perf_counter() - started,
            learning_rate=group["lr"] / group["factor"],
            clips_per_second=clips_per_second,
            waited=waited,
            candidate_index=best.candidate,
            of_candidates=best.of_candidates,
        )

    def _validated(self, losses: Tensor) -> Validation | None:
        """Validates the head after an epoch and returns the metrics, with the validation `loss`, as a Validation.
        Without validation clips, the metrics are empty.

        `losses` [candidates] are the training losses of the epoch. Returns None if no candidate has finite scores
        although all features are finite.
        """
        head = self._scored()
        if self.val_clips is None:
            return Validation(metrics={})
        try:
            if isinstance(head, CandidateHead):
                return validate_candidates(head, self.val_clips, self.options, self.metric, losses, self.device)
            result = evaluate(head, self.val_clips, self.options, device=self.device)
        except ScoresNotFinite:
            return None
        return Validation(metrics=result.metrics | {"loss": result.loss})

    def _diverged(self, seen: str) -> TrainingDiverged:
        rates = [candidate.learning_rate for candidate in candidates_of(self.head)]
        key, rate = ("learning_rates", min(rates)) if rates else ("learning_rate", self.options.learning_rate)
        # The largest fp16 number is 65504.
        instead = ", or use bf16 or fp32" if self.options.precision == "fp16" else ""
        return TrainingDiverged(f"{seen}: lower this run's {key} (now {rate}), of train or of its variant{instead}.")

    def _step_record(self, clips_per_second: float) -> StepRecord:
        last = self.history[-1].metrics.get(self.metric) if self.history else None
        clips = min(self.step_of_epoch * self.options.batch_size, len(self.epoch_clips))
        candidate = self.history[-1].candidate_index if self.history else 0
        return StepRecord(
            epoch=len(self.history) + 1,
            step=self.step,
            num_steps=self.schedule.num_steps,
            loss=self.losses[candidate].item() * together.num_processes() / clips,
            clips_per_second=clips_per_second,
            metric=None if last is None else (self.metric, last),
        )

    def _step(self, batch: dict[str, Tensor], indices: Tensor) -> None:
        """Computes the loss of one batch and updates the weights once.

        `batch` maps array names and "labels" to the values of this process's clips. `indices` are the indices of all
        clips of the step. If several processes train together, each has only some of these clips in its `batch`.
        """
        factor = self.schedule.factor(self.step, [self._worth(record) for record in self.history])
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("rate", self.options.learning_rate) * factor * group["factor"]
        with computing_in(self.options.precision, self.device):
            logits = self._logits(batch)
        reduction = self.options.loss_reduction
        losses = losses_of(logits, batch["labels"], self.class_weights, reduction)
        if reduction == "mean":
            losses = losses * together.factor_of_mean(self.weight_of_clip[indices])
        else:
            losses = losses * together.factor_of_sum(len(indices), len(logits))
        self.optimizer.zero_grad()
        self.scaler.scale(losses.sum()).backward()  # type: ignore[no-untyped-call]
        if self.options.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            for parameters in parameters_of_each(self.head):
                torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.head)
        self.step, self.step_of_epoch = self.step + 1, self.step_of_epoch + 1
        num_clips = len(indices) if reduction == "mean" else 1
        self.losses += losses.detach() * num_clips / together.num_processes()

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        try:
            logits: Tensor = self.network(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's words; its norms raise no specific error
                raise
            raise UsageError(
                f"Head {self.head.name} has a BatchNorm, which cannot train on one clip of one frame with one "
                f"position: give maps of more, or a `{self.options.section}.batch_size` that leaves no clip alone."
            ) from error
        return logits

    def _epoch_is_saved(self, now: float) -> bool:
        """Returns whether the state of the run is saved after an epoch that ended at `now` (time.perf_counter()).

        The state is saved if the run has none yet, or if the last one is STATE_SECONDS old. Several processes that
        train together have no common clock, so they save the state after each epoch.
        """
        return not self.has_state or together.num_processes() > 1 or now - self.saved >= STATE_SECONDS

    def _state_is_due(self, now: float) -> bool:
        if self.state_file is None:
            return False
        by_steps = self.options.checkpoint_steps and self.step_of_epoch % self.options.checkpoint_steps == 0
        alone = together.num_processes() == 1  # several processes have no common clock
        return bool(by_steps) or (alone and now - self.saved >= 60 * self.options.checkpoint_minutes)

    def _save(self) -> None:
        """Writes the state of the run to `state_file`: all values on which the next steps depend. Does nothing if
        `state_file` is None.
        """
        if self.state_file is None:
            return
        self.has_state, self.saved = True, time.perf_counter()
        generators_by_rank, losses = together.gathered(generators(self.device)), together.gathered(self.losses.cpu())
        if together.rank() > 0:
            return
        state = {
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "generators": generators_by_rank,
            "epoch_order": self.epoch_order,
            "step": self.step,
            "step_of_epoch": self.step_of_epoch,
            "losses": losses,
            "history": [asdict(record) for record in self.history],
            "best": dict(vars(self.best)),
            "seconds": self.saved - self.begun,
        }
        save_state(self.state_file, state, self.identity)

    def _load(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        set_generators(state["generators"][together.rank()], self.device)
        self.epoch_order = state["epoch_order"]
        self.step, self.step_of_epoch = state["step"], state["step_of_epoch"]
        self.losses.copy_(state["losses"][together.rank()])  # a number without an axis in states of earlier versions
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = BestEpoch(**state["best"])
        epochs = len(self.history)
        if self.best.epoch not in range(min(1, epochs), epochs + 1) or min(self.step, self.step_of_epoch) < 0:
            raise ValueError(f"step {self.step}, epoch {self.best.epoch} the best of {epochs}")
        if epochs and self.best.weights.keys() != weights_of(self.head, self.best.candidate).keys():
            raise ValueError("best epoch without its weights")
        self.begun -= state["seconds"]

"""The parts of a training run that training and fine-tuning share: the training with its logs, the results, and the
folder of the run.
"""

import fcntl
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from kinegraph.cache_schemas.files import remove_durably
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.advice import random_in_cache
from kinegraph.pipeline.clusters.wanted_run import RunPlace
from kinegraph.pipeline.machine.versions import versions
from kinegraph.pipeline.training.kept_predictions import remove_predictions
from kinegraph.pipeline.training.kept_runs import trained_on
from kinegraph.pipeline.training.results import RESULTS_FILE, RunResults, SplitCounts
from kinegraph.stages.heads.candidates import Candidate, candidates_of
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training import together
from kinegraph.stages.training.checkpoint import CODE_FILE, RunError
from kinegraph.stages.training.epoch_clips import EpochClips
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import RECORD_FILE, STATE_FILE, EpochRecord, StepRecord, TrainResult
from kinegraph.stages.training.schedules import Schedule
from kinegraph.stages.training.tensorboard import scalar_log
from kinegraph.stages.training.train import train
from kinegraph.stages.training.videos import Samples

LOG_FOLDER = "tensorboard"
log = logging.getLogger("kinegraph")
OnRunEpoch = Callable[[RunPlace, EpochRecord], None]
OnRunStep = Callable[[RunPlace, StepRecord], None]


def ignore_record(run: RunPlace, record: EpochRecord | StepRecord) -> None:
    """Does nothing. This function is the default of the callbacks `on_epoch` and `on_step`."""


def tell_of_absent_classes(clips: Samples, split: str) -> None:
    """Logs the names of the classes that no video in `clips` has, because the metric mAP leaves them out. `split` is
    the name of the split, for the message.

    Logs nothing if each video has only one label, because there is no mAP then.
    """
    if not clips.multi_label:
        return
    positives = clips.labels.sum(0) + clips.failed_labels.sum(0)
    if absent := [name for name, count in zip(clips.cache.classes, positives.tolist(), strict=True) if not count]:
        log.warning(
            "split %s has no positive of %d of %s, and its mAP leaves out: %s",
            split,
            len(absent),
            counted(clips.num_classes, "class"),
            ", ".join(absent),
        )


def run_training(
    folder: Path,
    head: Head,
    clips: Samples,
    val_clips: Samples | None,
    options: TrainOptions,
    device: torch.device,
    place: RunPlace,
    *,
    on_epoch: OnRunEpoch = ignore_record,
    on_step: OnRunStep = ignore_record,
) -> TrainResult:
    """Trains `head` in place on `clips` and returns the result. Continues from the state of an interrupted training, if
    `folder` has one.

    - `folder`: the folder of the run, for the state and the TensorBoard log.
    - `val_clips`: the clips of the validation split, or None.
    - `options`: the training options, as `with_views_per_epoch` returns them.
    - `place`: the place of the run among all runs of the command, for messages.
    - `on_epoch`, `on_step`: are called with `place` and the record of each epoch or step.
    """
    num_clips = len(EpochClips(clips, options))
    if num_clips < len(clips):
        log.info(
            "each epoch sees one clip of each video, drawn anew: %d of %d clips. `%s.views_per_epoch: all` shows all",
            num_clips,
            len(clips),
            options.section,
        )
    schedule = Schedule(options=options, steps_per_epoch=math.ceil(num_clips / options.batch_size))
    place = replace(place, num_epochs=schedule.num_epochs)
    logs = options.tensorboard and together.rank() == 0
    with scalar_log(folder / LOG_FOLDER) if logs else nullcontext(unlogged) as log_scalars:

        def heard(record: EpochRecord) -> None:
            log_scalars(record)
            on_epoch(place, record)

        offered = candidates_of(head)
        result = train(
            head, clips, val_clips, options, device=device, on_epoch=heard, on_step=partial(on_step, place),
            state_file=folder / STATE_FILE,
        )  # fmt: skip
        if together.rank() == 0:
            _tell_of_edge(place, offered, result)
        return result


def _tell_of_edge(place: RunPlace, offered: Sequence[Candidate], result: TrainResult) -> None:
    """Logs advice if validation chose the lowest or the highest of the learning rates that `offered`, the candidates of
    the head, have. A rate outside of this range may be better.
    """
    rates = [candidate.learning_rate for candidate in offered]
    chosen = next((candidate.learning_rate for candidate in offered if candidate.name == result.candidate), None)
    for edge, further, extreme in (("highest", "higher", max), ("lowest", "lower", min)):
        if len({*rates}) > 1 and chosen == extreme(rates):
            log.warning(
                "%s: validation chose the %s learning rate of the candidates, %g. Add %s ones to `learning_rates`.",
                place.title, edge, chosen, further,
            )  # fmt: skip


def unlogged(record: EpochRecord) -> None:
    """Does nothing. This function takes the place of the TensorBoard log if `train.tensorboard` is off."""


def results_of(
    name: str,
    options: TrainOptions,
    result: TrainResult,
    clips: Samples,
    val_clips: Samples | None,
    device: torch.device,
) -> RunResults:
    """Returns the results of a finished training as a RunResults, for results.json.

    - `name`: the name of the head or variant.
    - `options`: the training options.
    - `result`: the result that the training returned.
    - `clips`, `val_clips`: the clips of training and validation. `val_clips` is None without validation.
    - `device`: the device of the training.
    """
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    threads = options.threads or torch.get_num_threads()
    learnt = trained_on(clips.cache, clips, val_clips)
    split = str(options.val_split)
    validated = {split: result.history[result.best_epoch - 1].metrics} if result.metric else {}
    counts = {} if val_clips is None else {split: SplitCounts.of(val_clips, learnt["val"]["digest"])}
    return RunResults(
        name=name,
        seed=options.seed,
        cache=clips.cache.location,
        cache_fingerprint=clips.cache_fingerprint,
        recipe=options,
        trained_on=learnt,
        random_weights=tuple(random_in_cache(clips.cache, [*clips.specs])),
        environment=versions() | {"device": device_name, "threads": str(threads)},
        num_parameters=result.num_parameters,
        num_train_clips=len(clips),
        num_failed_videos=len(clips.failed_videos),
        metric=result.metric,
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        history=[asdict(record) for record in result.history],
        scores=validated,
        counts=counts,
        candidate=result.candidate,
        of_candidates=result.of_candidates,
    )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks the folder of a run during a `with` block, so that no other command on this machine trains the run. The
    lock ends with the process, also after kill -9.

    Raises RunError if another command on this machine holds the lock. On a file system that cannot lock folders, such
    as NFS, there is no lock and no error. Under torchrun only process 0 locks the folder.
    """
    with ExitStack() as opened:
        if together.rank() == 0:
            with suppress(OSError):  # a folder that cannot be made is told by what is written into it
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunError(
                        f"{folder} is being trained by another command now. Wait until it ends, or name another folder."
                    ) from None
        yield


def discard(folder: Path) -> None:
    """Removes the run in `folder`, finished or not. Removes run.json first, so that an incomplete run never counts as
    finished.
    """
    for name in (RECORD_FILE, RESULTS_FILE, STATE_FILE, CODE_FILE):
        remove_durably(folder / name)
    remove_predictions(folder)
    shutil.rmtree(folder / LOG_FOLDER, ignore_errors=True)

"""Trains a head on cached clips. An interrupted run continues from a file with its state."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kinegraph.cache_schemas.files import remove_durably
from kinegraph.stages.device import require_precision
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training import together
from kinegraph.stages.training.candidates import require_choice
from kinegraph.stages.training.clips import Clips, require_usable
from kinegraph.stages.training.engine import OnEpoch, OnStep, Training, TrainingDiverged
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import TrainResult

RANK_SEEDS = 2**32  # distance of the seeds of processes that train together, so that their dropout differs


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators of the CPU and of `device` with `seed` while the context is open.

    Sets the generators back to their former states at the end.
    """
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
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
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda record: None,
    state_file: Path | None = None,
) -> TrainResult:
    """Trains `head` in place on `train_clips` and returns the TrainResult. At the end, `head` has the weights of the
    best epoch. If the head has several candidates, validation also chooses one of them, and `head` has this one alone
    at the end.

    The best epoch is the first epoch with the best `options.metric` on `val_clips`. Without `val_clips`, the last epoch
    is the best. At the end, `head` is on `device` in evaluation mode. On a CPU, the same head, clips, options and
    number of threads lead to the same weights bit for bit. The caller seeds the head's first weights: `with
    seeded(options.seed, device): head = build_head(...)`.

    With a `state_file`, the run writes its state to this file after each epoch, but not again within STATE_SECONDS. The
    options `checkpoint_minutes` and
    `checkpoint_steps` say when it also does so within an epoch. If the file has a state at the start, the run continues
    from this state. The weights at the end are the same as without the interruption. The caller removes the file after
    the training. If the training diverges, `train` removes the file.

    `on_epoch` is called with an EpochRecord after each epoch, and `on_step` with a StepRecord about once a second.
    Under torchrun, the processes share each batch (`together.py`), and process 0 validates and writes.

    Raises UnusableClips if there are no clips, or if labels are missing or are not classes. Raises StateError if the
    state is damaged or is the state of another run. Raises UsageError if the metric does not fit the labels, if the
    precision does not fit the device, or if several candidates have no validation that chooses one. If the loss or a
    score is not finite, raises FeaturesNotFinite if a feature is not finite, else TrainingDiverged.
    """
    require_usable(train_clips, f"train on in split {options.train_split!r}")
    if val_clips is not None:
        require_usable(val_clips, f"validate on in split {options.val_split!r}", failed_too=True)
    _check_metric(options, train_clips)
    require_choice(head, options)
    if options.precision == "fp16" and device.type != "cuda":
        raise UsageError(f"{options.section}.precision: given 'fp16', allowed on {device.type}: fp32, bf16")
    require_precision(options.precision, device, f"{options.section}.precision")
    seed = options.seed + together.rank() * RANK_SEEDS
    with together.acquainted(device), seeded(seed, device), on_threads(options.threads):
        training = Training(head.to(device), train_clips, val_clips, options, device)
        training.resume_from(state_file)
        together.meet()
        try:
            return training.run(on_epoch, on_step)
        except TrainingDiverged:
            if state_file is not None and together.rank() == 0:
                remove_durably(state_file)  # a state with another learning rate would be refused as another run's
            raise


def _check_metric(options: TrainOptions, clips: Clips) -> None:
    allowed = ["mAP", "wAP", "loss"] if clips.multi_label else ["top1", "top5", "loss"]
    if options.metric and options.metric not in allowed:
        many = "many labels" if clips.multi_label else "one label"
        raise UsageError(
            f"{options.section}.metric: given {options.metric!r}, allowed where videos have {many}: "
            f"{', '.join(allowed)}"
        )


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Lets torch compute on `count` CPU threads for the time of a `with` block. None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

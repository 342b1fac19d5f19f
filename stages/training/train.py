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
    """Seeds torch's global random number generators of the CPU and of `device` with `seed` for a `with` block. At the
    end of the block, the generators get their former states back.
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
    best epoch, on `device`, in evaluation mode.

    - `head`: the network. The caller seeds its first weights: `with seeded(options.seed, device): head =
      build_head(...)`.
    - `val_clips`: the clips for validation. The best epoch is the first with the best `options.metric`. If `val_clips`
      is None, the last epoch is the best.
    - `on_epoch`: is called with an EpochRecord after each epoch.
    - `on_step`: is called with a StepRecord about once a second.
    - `state_file`: the file to which the training writes its state, at most every STATE_SECONDS. If the file exists at
      the start, the training continues from it, with the same result as without the interruption. The caller deletes
      the file after the training.

    On a CPU, the same head, clips, options and number of threads lead to the same weights bit for bit. If the head has
    several candidates, only the best one is left. Under torchrun, the processes share each batch.

    Raises UnusableClips if there are no clips, or labels are missing or wrong. Raises StateError if the state file is
    damaged or belongs to another run. Raises UsageError if an option does not fit the labels, the device or the head.
    Raises FeaturesNotFinite if a feature is NaN or infinite, and TrainingDiverged if only the loss or a score is.
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
    with together.connected_processes(device), seeded(seed, device), on_threads(options.threads):
        training = Training(head.to(device), train_clips, val_clips, options, device)
        training.resume_from(state_file)
        together.barrier()
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
    """Lets torch compute with `count` CPU threads for a `with` block. If `count` is None, the number of threads stays
    as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

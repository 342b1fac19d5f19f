"""The contract of data sets for training and evaluation, and a reader that reads ahead of the network."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import torch
import xxhash
from torch import Tensor

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import MAY_HOLD_NAN
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import UsageError

Batch = dict[str, Tensor]


class FeaturesNotFinite(RuntimeError):
    """A value that a head reads is NaN or infinite."""


class UnusableClips(UsageError):
    """The clips cannot be used to learn or to measure."""


class Clips(Protocol):
    """The ok clips of one split. `kinegraph.cache_schemas.reader.CachedClips` fulfils this contract."""

    @property
    def spec(self) -> Mapping[str, tuple[int, ...]]:
        """Returns array name -> shape of one clip."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def multi_label(self) -> bool: ...

    @property
    def cache_fingerprint(self) -> str: ...

    @property
    def video_ids(self) -> Sequence[str]:
        """Returns the video of each clip."""
        ...

    @property
    def labels(self) -> Tensor:
        """Returns the labels of each clip: int64 [clips], -1 for no label, or multi-hot [clips, num_classes]."""
        ...

    @property
    def videos(self) -> Sequence[str]:
        """Returns the videos of the split in the order of the data set's list.

        Videos without an ok clip are included.
        """
        ...

    @property
    def failed_videos(self) -> Sequence[str]:
        """Returns the videos of the split that have no ok clip."""
        ...

    @property
    def failed_labels(self) -> Tensor:
        """Returns the labels of `failed_videos`, in the form of `labels`."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], /) -> Batch:
        """Returns several clips: arrays by name, and `labels` (int64 [B], or multi-hot float32 [B, num_classes])."""
        ...


def read_batches(
    clips: Clips, order: Tensor, batch_size: int, names: Sequence[str], device: torch.device
) -> Iterator[Batch]:
    """Yields the named arrays of the clips in `order`, in batches on `device`. The last batch may be smaller.

    A thread reads the next batch while the present batch is used. A data set of earlier versions may lack `batch`. The
    batches of such a data set come from `__getitems__`.
    """
    read_together = clips.batch if hasattr(clips, "batch") else clips.__getitems__  # type: ignore[attr-defined]

    def read(indices: Tensor) -> Batch:
        batch = read_together(indices.tolist())
        chosen = {name: batch[name] for name in names}
        return {name: x.pin_memory() for name, x in chosen.items()} if device.type == "cuda" else chosen

    def move(reading: Future[Batch]) -> Batch:
        return {name: x.to(device, non_blocking=True) for name, x in stopping.result(reading).items()}

    pending: deque[Future[Batch]] = deque()
    with stopping.threads(1, "read-ahead") as reader:
        for indices in stopping.checked(torch.split(order, batch_size)):
            pending.append(reader.submit(read, indices))
            if len(pending) > 1:
                yield move(pending.popleft())
        yield move(pending.popleft())


def identified(clips: Clips) -> dict[str, Any]:
    """Returns what tells the videos and labels of two splits apart: counts for people, and a digest.

    Failed videos are included.
    """
    seen = xxhash.xxh3_64("\n".join([*clips.video_ids, "", *clips.failed_videos]).encode())
    for labels in (clips.labels, clips.failed_labels):
        seen.update(labels.numpy().tobytes())
    return {"clips": len(clips), "failed_videos": len(clips.failed_videos), "digest": seen.hexdigest()}


def is_labelled(clips: Clips) -> bool:
    """Returns whether any video of the split has a label, failed videos included."""
    return bool(_have_label(clips.labels).any() or _have_label(clips.failed_labels).any())


def _have_label(labels: Tensor) -> Tensor:
    """Returns which rows of `labels` have a label. `labels` has the form of `Clips.labels`."""
    return (labels > 0).any(1) if labels.ndim == 2 else labels >= 0


def require_clips(clips: Clips, purpose: str) -> None:
    """Raises UnusableClips where there is no clip. `purpose` completes the message: "train on ..."."""
    if not len(clips):
        failed = f": {counted(len(clips.failed_videos), 'video')}, all failed" if clips.failed_videos else ""
        raise UnusableClips(f"There is no ok clip to {purpose}{failed}.")


def require_usable(clips: Clips, purpose: str, *, failed_too: bool = False) -> None:
    """Raises UnusableClips where there is no clip, and where labels are missing or are no classes.

    Where videos may have several labels, some videos may have no label, but not all. failed_too: the labels of videos
    without an ok clip are needed too, because scores cover these videos. `purpose` completes the message: "train on
    ...".
    """
    require_clips(clips, purpose)
    labels, classes = clips.labels, clips.num_classes
    if len(labels) != len(clips) or (clips.multi_label and labels.shape[1] != classes):
        raise UnusableClips(
            f"{counted(len(clips), 'clip')} of {counted(classes, 'class')} to {purpose} have labels "
            f"{list(labels.shape)}."
        )
    videos = [*clips.video_ids]
    if failed_too:
        labels, videos = torch.cat([labels, clips.failed_labels]), [*videos, *clips.failed_videos]
    unlabelled = (~_have_label(labels)).nonzero()
    if len(unlabelled) > (len(labels) - 1 if clips.multi_label else 0):
        raise UnusableClips(
            f"{len(unlabelled)} of {len(labels)} clips to {purpose} have no label, the first is of "
            f"{videos[int(unlabelled[0])]}: add them to the annotations and run `kinegraph index` again."
        )
    if not clips.multi_label and int(labels.max()) >= classes:
        raise UnusableClips(
            f"A clip to {purpose} has label {int(labels.max())}; the data set has {counted(classes, 'class')}."
        )


def require_finite(clips: Clips, names: Sequence[str], batch_size: int) -> None:
    """Checks the inputs after a result was not a number, to find out whether the inputs caused it.

    Raises FeaturesNotFinite for the first clip with a value in one of the named arrays that is not finite.
    """
    for indices in stopping.checked(torch.split(torch.arange(len(clips)), batch_size)):
        batch = clips.batch(indices.tolist())
        for name in (name for name in names if name not in MAY_HOLD_NAN):
            bad = (~batch[name].isfinite()).flatten(1).any(1).nonzero()
            if len(bad):
                video = clips.video_ids[int(indices[bad[0, 0]])]
                raise FeaturesNotFinite(
                    f"{name} of a clip of {video} is not finite. An extraction never leaves such values. `kinegraph "
                    "verify` says whether the file is damaged. If it is not, look at the files of the import."
                )

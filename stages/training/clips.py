"""Defines what a data set for training and evaluation must offer, and reads its batches ahead of the network.

An ok clip is a clip that was extracted without a failure. A failed video is a video of which every clip failed.
"""

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
from kinegraph.stages.heads.head import MASK

Batch = dict[str, Tensor]


class FeaturesNotFinite(RuntimeError):
    """A cached value that a head reads is NaN or infinite."""


class VideoLost(RuntimeError):
    """A video that the training decodes can no longer be read. The message names the video."""


class UnusableClips(UsageError):
    """The split has no clip, or its labels are missing or wrong, so it cannot be used for training or evaluation."""


class Clips(Protocol):
    """The clips of one split that were extracted without a failure.

    `kinegraph.cache_schemas.reader.CachedClips` has all the methods of this interface. Labels are int64 with one class
    number per video, or multi-hot if a video may have several labels.
    """

    @property
    def spec(self) -> Mapping[str, tuple[int, ...]]:
        """Returns a dictionary of full array name -> shape of one clip (`{"features/i3d/res5_pooled": (16, 2048)}`)."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def multi_label(self) -> bool: ...

    @property
    def cache_fingerprint(self) -> str: ...

    @property
    def video_ids(self) -> Sequence[str]:
        """Returns one video id for each clip. Clips of one video have the same id."""
        ...

    @property
    def labels(self) -> Tensor:
        """Returns the labels of each clip. If a video may have several labels, they are multi-hot [clips, num_classes],
        else int64 [clips] with -1 for no label.
        """
        ...

    @property
    def videos(self) -> Sequence[str]:
        """Returns the ids of all videos of the split, in the order of the data set's list.

        Failed videos are included.
        """
        ...

    @property
    def failed_videos(self) -> Sequence[str]:
        """Returns the ids of those videos in the split that have only failed clips."""
        ...

    @property
    def failed_labels(self) -> Tensor:
        """Returns the labels of `failed_videos`, the videos of which every clip failed. There is one row for each
        video, in the form of `labels`.
        """
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], /) -> Batch:
        """Returns the B clips with the indices `indices`, from 0, as a dictionary of array name -> values [B, ...].

        The key `labels` has the labels: multi-hot float32 [B, num_classes] if a video may have several labels, else
        int64 [B].
        """
        ...


def in_epoch(clips: Clips, epoch: int) -> Clips:
    """Returns the clips as the network sees them in the epoch number `epoch`, counted from 1.

    Clips with random views (other parts of the video, mirrored, other colours) change from epoch to epoch. Other clips
    are returned unchanged.
    """
    seen: Clips = clips.in_epoch(epoch) if hasattr(clips, "in_epoch") else clips
    return seen


def read_batches(
    clips: Clips, order: Tensor, batch_size: int, names: Sequence[str], device: torch.device
) -> Iterator[Batch]:
    """Yields the clips with the indices `order` in batches of `batch_size` clips. The last batch may be smaller.

    A batch is a dictionary of the arrays `names`, on `device`. If samples are whole videos, it has their mask, too.
    While the caller uses a batch, threads read the next `clips.batches_ahead` batches, or one batch if `clips` has no
    such attribute. With 0, no thread reads, and a batch is read when the caller asks for it. For a GPU, one thread
    reads then, which also copies to pinned memory. A stop by a signal raises KeyboardInterrupt between two batches.
    """
    ahead: int = getattr(clips, "batches_ahead", 1)
    # data sets that were written for earlier versions have no `batch`
    read_together = clips.batch if hasattr(clips, "batch") else clips.__getitems__  # type: ignore[attr-defined]

    def read(indices: Tensor) -> Batch:
        batch = read_together(indices.tolist())
        chosen = {name: batch[name] for name in (*names, *([MASK] if MASK in batch else []))}
        return {name: x.pin_memory() for name, x in chosen.items()} if device.type == "cuda" else chosen

    parts = stopping.checked(torch.split(order, batch_size))
    if not ahead and device.type == "cpu":
        yield from map(read, parts)
        return

    def move(reading: Future[Batch]) -> Batch:
        return {name: x.to(device, non_blocking=True) for name, x in stopping.result(reading).items()}

    pending: deque[Future[Batch]] = deque()
    with stopping.threads(max(1, ahead), "read-ahead") as reader:
        for indices in parts:
            pending.append(reader.submit(read, indices))
            if len(pending) > max(1, ahead):
                yield move(pending.popleft())
        while pending:
            yield move(pending.popleft())


def identified(clips: Clips) -> dict[str, Any]:
    """Returns a dictionary by which splits with different videos or labels differ. It has the number of clips, the
    number of failed videos, and a digest of videos and labels.
    """
    ids = getattr(clips, "counted_ids", clips.video_ids)  # whole videos also differ by their windows
    seen = xxhash.xxh3_64("\n".join([*ids, "", *clips.failed_videos]).encode())
    for labels in (clips.labels, clips.failed_labels):
        seen.update(labels.numpy().tobytes())
    return {"clips": len(clips), "failed_videos": len(clips.failed_videos), "digest": seen.hexdigest()}


def is_labelled(clips: Clips) -> bool:
    """Returns whether at least one video of the split has a label. Failed videos count too."""
    return bool(_have_label(clips.labels).any() or _have_label(clips.failed_labels).any())


def _have_label(labels: Tensor) -> Tensor:
    """Returns a bool for each clip, which is true if the clip has a label.

    `labels` is int64 [clips] with -1 for no label, or multi-hot [clips, num_classes].
    """
    return (labels > 0).any(1) if labels.ndim == 2 else labels >= 0


def require_clips(clips: Clips, purpose: str) -> None:
    """Raises UnusableClips if `clips` has no clip, for example because all clips of the split failed.

    `purpose` says what the clips are needed for. It ends the sentence "There is no ok clip to ..." of the message, for
    example with "train on".
    """
    if not len(clips):
        failed = f": {counted(len(clips.failed_videos), 'video')}, all failed" if clips.failed_videos else ""
        raise UnusableClips(f"There is no ok clip to {purpose}{failed}.")


def require_usable(clips: Clips, purpose: str, *, failed_too: bool = False) -> None:
    """Raises UnusableClips if there is no clip in `clips`, if labels are missing, or if a label is not a class number.
    If each video has one label, every clip must have a label. If videos may have several labels, one clip with a label
    is enough.

    With `failed_too`, the labels of failed videos are checked too, because scores cover these videos. `purpose` is the
    part of the message after "to", such as "train on".
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
    """Reads all of `clips`, `batch_size` clips at a time. Raises FeaturesNotFinite if one of the arrays `names` has a
    value that is NaN or infinite. The message has the id of the first such video.

    The array `graphs/times` is not checked, because NaN has a meaning there.
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

"""Defines the interface of the clips for training and evaluation, reads their batches in threads, and checks their
labels.

An ok clip was extracted without a failure. A failed video has no ok clip.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
BYTES_TOGETHER = 2**21  # of clips in memory that one call reads


class FeaturesNotFinite(RuntimeError):
    """Raised if a cached value that a head reads is NaN or infinite."""


class VideoLost(RuntimeError):
    """Raised if a video that the training decodes can no longer be read. The message names the video."""


class UnusableClips(UsageError):
    """Raised if a split cannot be used for training or evaluation, because it has no clip, or because labels are
    missing or wrong.
    """


class Clips(Protocol):
    """The interface of the clips of one split, for training and evaluation. Clips whose extraction failed are left out.

    `kinegraph.cache_schemas.reader.CachedClips` implements this interface. Labels are int64 class numbers if each video
    has one label, and multi-hot if a video may have several labels.
    """

    @property
    def spec(self) -> Mapping[str, tuple[int, ...]]:
        """Returns {name of the array: shape of one clip}, such as {"features/i3d/res5_pooled": (16, 2048)}."""
        ...

    @property
    def num_classes(self) -> int: ...

    @property
    def multi_label(self) -> bool: ...

    @property
    def cache_fingerprint(self) -> str: ...

    @property
    def video_ids(self) -> Sequence[str]:
        """Returns the id of the video of each clip, in the order of the clips. Clips of one video have the same id."""
        ...

    @property
    def labels(self) -> Tensor:
        """Returns the labels of all clips: int64 [clips] with -1 for no label. If a video may have several labels, the
        result is multi-hot [clips, num_classes].
        """
        ...

    @property
    def videos(self) -> Sequence[str]:
        """Returns the ids of all videos of the split, in the order of the data set's list. Videos of which every clip
        failed are included.
        """
        ...

    @property
    def failed_videos(self) -> Sequence[str]:
        """Returns the ids of the videos of the split of which every clip failed."""
        ...

    @property
    def failed_labels(self) -> Tensor:
        """Returns the labels of `failed_videos`, the videos of which every clip failed. The result has one row for each
        video, int64 [videos] or multi-hot [videos, num_classes], as `labels` has for clips.
        """
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], /) -> Batch:
        """Returns the clips with the B indices `indices`, counted from 0, as {name of the array: values [B, ...]}.

        The key "labels" has the labels of the clips: int64 [B]. If a video may have several labels, they are multi-hot
        float32 [B, num_classes].
        """
        ...


def in_epoch(clips: Clips, epoch: int) -> Clips:
    """Returns the clips as the network sees them in the epoch with the number `epoch`, counted from 1.

    Clips that are decoded with random views (another part of the video, mirrored, other colours) differ from epoch to
    epoch. For all other clips, the result is `clips` itself.
    """
    seen: Clips = clips.in_epoch(epoch) if hasattr(clips, "in_epoch") else clips
    return seen


def read_batches(
    clips: Clips, order: Tensor, batch_size: int, names: Sequence[str], device: torch.device
) -> Iterator[Batch]:
    """Yields the clips with the indices `order` (int64 [clips]) in batches of `batch_size` clips. The last batch may be
    smaller. Threads read the next batches meanwhile, `clips.batches_ahead` of them.

    A batch is {name: tensor [B, ...]} on `device`, with the arrays `names`. If samples are whole videos, a batch also
    has "mask", bool [B, N], which is false for padding.

    A signal that stops the program raises KeyboardInterrupt between two batches.
    """
    ahead: int = getattr(clips, "batches_ahead", 1)
    # data sets that were written for earlier versions have no `batch`
    read_together = clips.batch if hasattr(clips, "batch") else clips.__getitems__  # type: ignore[attr-defined]

    def read(indices: Tensor) -> Batch:
        batch = read_together(indices.tolist())
        chosen = {name: batch[name] for name in (*names, *([MASK] if MASK in batch else []))}
        return {name: x.pin_memory() for name, x in chosen.items()} if device.type == "cuda" else chosen

    if not ahead and device.type == "cpu":
        yield from stopping.checked(_in_memory_batches(read, order, batch_size))
        return
    parts = stopping.checked(torch.split(order, batch_size))

    def move(reading: Future[Batch]) -> Batch:
        return {name: x.to(device, non_blocking=True) for name, x in stopping.result(reading).items()}

    # For a GPU, at least one thread reads, which also copies to pinned memory.
    pending: deque[Future[Batch]] = deque()
    with stopping.threads(max(1, ahead), "read-ahead") as reader:
        for indices in parts:
            pending.append(reader.submit(read, indices))
            if len(pending) > max(1, ahead):
                yield move(pending.popleft())
        while pending:
            yield move(pending.popleft())


def _in_memory_batches(read: Callable[[Tensor], Batch], order: Tensor, batch_size: int) -> Iterator[Batch]:
    """Yields the clips with the indices `order` (int64 [clips]) in batches of `batch_size` clips. `read` is a function:
    indices -> one batch.

    Each call of `read` reads several small batches, up to BYTES_TOGETHER, because a call takes longer than the copy of
    a small batch. Whole videos are read batch by batch, because a batch is as long as its longest video.
    """
    num_together, start = 1, 0
    while start < len(order):
        indices = order[start : start + num_together * batch_size]
        batch, start = read(indices), start + len(indices)
        for parts in zip(*(torch.split(x, batch_size) for x in batch.values()), strict=True):
            yield dict(zip(batch, parts, strict=True))
        if MASK not in batch:
            num_bytes = sum(x.nbytes for x in batch.values()) * batch_size // len(indices)
            num_together = max(1, BYTES_TOGETHER // max(1, num_bytes))


def clips_identity(clips: Clips) -> dict[str, Any]:
    """Returns a dictionary that identifies the videos and labels of `clips`, to store with a run. The keys are "clips"
    and "failed_videos", which are numbers, and "digest", a hash of the video ids and labels.
    """
    ids = getattr(clips, "counted_ids", clips.video_ids)  # whole videos also differ by their windows
    digest = xxhash.xxh3_64("\n".join([*ids, "", *clips.failed_videos]).encode())
    for labels in (clips.labels, clips.failed_labels):
        digest.update(labels.numpy().tobytes())
    return {"clips": len(clips), "failed_videos": len(clips.failed_videos), "digest": digest.hexdigest()}


def is_labelled(clips: Clips) -> bool:
    """Returns whether at least one video of the split has a label. A video of which every clip failed counts too."""
    return bool(_have_label(clips.labels).any() or _have_label(clips.failed_labels).any())


def _have_label(labels: Tensor) -> Tensor:
    """Returns bool [clips], true for clips that have a label. `labels` is int64 [clips] with -1 for no label, or
    multi-hot [clips, num_classes].
    """
    return (labels > 0).any(1) if labels.ndim == 2 else labels >= 0


def require_clips(clips: Clips, purpose: str) -> None:
    """Raises UnusableClips if `clips` has no clip, for example because all clips of the split failed.

    `purpose` says what the clips are needed for, such as "train on". The message is "There is no ok clip to train on".
    """
    if not len(clips):
        failed = f": {counted(len(clips.failed_videos), 'video')}, all failed" if clips.failed_videos else ""
        raise UnusableClips(f"There is no ok clip to {purpose}{failed}.")


def require_usable(clips: Clips, purpose: str, *, failed_too: bool = False) -> None:
    """Raises UnusableClips if `clips` cannot be used for training or evaluation: there is no clip, labels are missing,
    or a label is not a class number.

    If each video has one label, every clip must have a label. If videos may have several labels, one clip with a label
    is enough. If `failed_too` is true, videos of which every clip failed are checked too. `purpose` is for the message,
    such as "train on".
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
    """Reads all clips and raises FeaturesNotFinite if a value is NaN or infinite. The message names the array and the
    first video with such a value.

    `names` are the arrays to check. `graphs/times` is not checked, because NaN has a meaning there. `batch_size` clips
    are read at a time.
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

"""Reads a cache for training. Returns batches of clips, whose values are copied from the shards. The first batch
imports torch.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from kinegraph.cache_schemas.arrays import crop_array
from kinegraph.cache_schemas.box_frames import BOX_FRAMES
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable, crop_of
from kinegraph.cache_schemas.closure import features_fingerprint
from kinegraph.cache_schemas.crops import seen_rectangle
from kinegraph.cache_schemas.errors import CacheError, UnknownSplit
from kinegraph.cache_schemas.memory import available_bytes
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.store import Shard
from kinegraph.cache_schemas.words import counted

if TYPE_CHECKING:
    from pyarrow import Table
    from torch import Tensor

Sample: TypeAlias = "dict[str, Tensor]"  # one clip
Batch: TypeAlias = "dict[str, Tensor]"  # several clips, with an axis [B] in front
Indices = Sequence[int] | np.ndarray  # a tensor of integers works too
CROP = crop_array().name
CROP_COLUMNS = ["crop", "frame_width", "frame_height", "mirrored"]
MAX_OPEN = 4096  # mappings of shards; a mapping holds no descriptor, and Linux allows a process 65,530 mappings


class CachedClips:
    """Map-style data set for torch: the clips of one split whose features are in the cache. With `split=None` it has
    the clips of all splits.

    A clip is in the data set if all stages that write `arrays` have finished its shard, and the clip failed in none of
    them. `failed_videos` lists the videos whose clips all failed, and `num_failed_of_videos` counts the failed clips of
    all other videos.

    A sample is a dict: each array under its full name, `labels` (int64 [], or multi-hot float32 [num_classes]), and
    `clip_index`, the row in the cache (int64 []). `batch(indices)` returns a dict for B clips, whose tensors have an
    axis [B] in front. One call of `batch` is faster than B samples: `DataLoader(range(len(clips)), batch_size=8,
    collate_fn=clips.batch)`. Forked and spawned processes may use the data set.

    - `arrays`: names of arrays, such as `clips/crop`. The keys of `Cache.readable()` are all names.
    - `float32`: converts float16 arrays to float32. The heads of kinegraph take float16.
    - `preload`: reads all rows into memory at once. Batches are then several times faster if rows are compressed or
      small. Forked processes share the memory.

    Raises CacheError if the cache lacks an array or the split, or if rows do not fit in memory. Raises TypeError for a
    string in place of the list of arrays.
    """

    def __init__(
        self,
        cache: Cache | Path | str,
        arrays: Sequence[str],
        split: str | None = None,
        *,
        preload: bool = False,
        float32: bool = False,
    ) -> None:
        if isinstance(arrays, str):
            raise TypeError(f"CachedClips wants a list of arrays and got the string {arrays!r}: give [{arrays!r}].")
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.specs = {name: self.cache.array(name) for name in arrays}
        stages = sorted({spec.stage for spec in self.specs.values()})
        columns = ["clip_id", "video_id", "split", "labels", "list_index"]  # no times, which are most of a row's bytes
        crops = [name for name in self.specs if name.startswith(CROP)]
        columns += CROP_COLUMNS if crops else []
        clips = ClipsTable.read_columns(self.cache.storage, columns)
        self._labels = [tuple(labels) for labels in clips.column("labels").to_pylist()]
        self._videos: list[str] = clips.column("video_id").to_pylist()
        listed = "list_index" in clips.column_names  # tables of early versions lack this column
        self._list_index: list[int] = clips.column("list_index").to_pylist() if listed else [-1] * len(clips)
        self._crops = {name: self._crops_of(name, clips) for name in crops}
        self.num_classes = len(self.cache.classes)
        self.cache.require_labels_of_classes(self._labels)
        declared = self.cache.multi_label
        self.multi_label = any(len(labels) > 1 for labels in self._labels) if declared is None else declared
        self.cache_fingerprint = features_fingerprint(self.cache, arrays)
        in_split = self._in_split(split, clips.column("split").to_pylist())
        sealed, ok = self._sealed_and_ok(stages, clips.column("clip_id"))
        self.rows: np.ndarray = np.flatnonzero(in_split & ok)
        self._unsealed_rows = np.flatnonzero(in_split & ~sealed)
        self.num_unsealed = len(self._unsealed_rows)
        failed_rows = np.flatnonzero(in_split & sealed & ~ok).tolist()
        failed = {self._videos[row]: row for row in failed_rows}
        for row in self.rows:
            failed.pop(str(self._videos[row]), None)
        self.failed_videos: list[str] = sorted(failed)
        self.num_failed_of_videos = sum(self._videos[row] not in failed for row in failed_rows)
        self._failed_rows = [failed[video] for video in self.failed_videos]
        self._views: OrderedDict[tuple[str, int], Shard] = OrderedDict()
        self._of_video: dict[str, list[int]] = {}  # video_id -> clip numbers in the order of time; made when needed
        self._preload, self._float32 = False, float32
        self._preloaded: dict[str, np.ndarray] | None = None
        self.batches_ahead = 1
        if preload:
            self.preload()

    @cached_property
    def unsealed_videos(self) -> frozenset[str]:
        """Returns the ids of the videos of the split that are not completely extracted. Some of their clips are not in
        the cache yet.
        """
        return frozenset(self._videos[row] for row in self._unsealed_rows)

    def _crops_of(self, name: str, clips: "Table") -> np.ndarray:
        """Returns the values of the array `name` for each row of the cache: rectangles (x1, y1, x2, y2), float64 [rows,
        4], in pixels of the video. If a row is mirrored, x1 and x2 are exchanged.

        For `clips/crop`, they are the crops of the clips. For `clips/crop/<entry>`, they are the parts of the frame
        that the backbone `<entry>` sees. `clips` is the table of the rows.
        """
        entry = name.removeprefix(CROP).removeprefix("/")
        rectangles = np.array(clips.column("crop").to_pylist())
        if entry:
            framing, seen = self.cache.framing(entry), lru_cache(MAX_OPEN)(seen_rectangle)
            names = [crop_of(clip_id) for clip_id in clips.column("clip_id").to_pylist()]
            sizes = zip(*(clips.column(side).to_pylist() for side in ("frame_width", "frame_height")), strict=True)
            for row, (crop, (width, height)) in enumerate(zip(names, sizes, strict=True)):
                if width and framing.cuts(crop):
                    rectangles[row] = seen(crop, width, height, framing)
        if "mirrored" in clips.column_names:
            mirrored = np.array(clips.column("mirrored").to_pylist(), bool)
            rectangles[mirrored] = rectangles[mirrored][:, [2, 1, 0, 3]]
        return rectangles

    def _in_split(self, split: str | None, splits: list[str]) -> np.ndarray:
        """Returns a mask of the rows of the cache that are in `split`, bool [rows]. If `split` is None, it is true for
        all rows. `splits` has the split of every row. Raises UnknownSplit if no row is in `split`.
        """
        if split is not None and split not in splits:
            names = ", ".join(sorted(set(splits))) or "none"
            raise UnknownSplit(f"{self.cache.root} has no clip in split {split!r}; its splits are: {names}.")
        return np.array([split is None or name == split for name in splits], dtype=bool)

    def _sealed_and_ok(self, stages: Sequence[str], clip_ids: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns two masks, bool [rows]. The first is true for rows that are sealed in all of `stages`. The second is
        true for those sealed rows that failed in none of `stages`.

        `clip_ids` has the clip id of each row of the cache.
        """
        num_rows = len(clip_ids)
        sealed, ok = np.ones(num_rows, dtype=bool), np.ones(num_rows, dtype=bool)
        for key in stages:
            here = np.zeros(num_rows, dtype=bool)
            for record in sealed_records(self.cache, key):
                start = record.shard * self.cache.shard_clips
                here[start : start + record.num_rows] = True
                failed = {failure.clip_id for failure in record.failures}
                for row, clip_id in enumerate(clip_ids.slice(start, record.num_rows).to_pylist() if failed else ()):
                    ok[start + row] &= clip_id not in failed
            sealed &= here
        return sealed, ok & sealed

    @property
    def num_bytes(self) -> int:
        """Returns how many bytes of memory the values of all clips of the data set take."""
        return len(self) * sum(spec.row_bytes for spec in self.specs.values())

    def preload(self) -> None:
        """Reads the values of all clips into memory, which makes batches faster. The argument `preload` of the class
        does the same. Raises CacheError if the values do not fit in the free memory.
        """
        self._preload, self._preloaded, self.batches_ahead = True, self._in_memory(), 0

    def _in_memory(self) -> dict[str, np.ndarray]:
        """Returns array name -> values of all clips of the data set. Raises CacheError if they do not fit in the free
        memory.
        """
        needed, free = self.num_bytes, available_bytes()
        if free is not None and needed > free:
            raise CacheError(
                f"{self.cache.root}: {counted(len(self), 'clip')} of {', '.join(self.specs)} take {needed:,} "
                f"bytes, and {free:,} bytes of memory are free. Do without preload, or read fewer arrays or another "
                "split."
            )
        arrays = {name: self.read_rows(name, self.rows) for name in self.specs}
        self._views.clear()
        return arrays

    @property
    def spec(self) -> dict[str, tuple[int, ...]]:
        """Returns array name -> shape of one clip. Pass this dict to `build_head`."""
        return {name: spec.shape for name, spec in self.specs.items()}

    @property
    def video_ids(self) -> list[str]:
        """Returns the id of the video of each clip. A video with several clips occurs several times."""
        return [self._videos[row] for row in self.rows]

    @property
    def videos(self) -> list[str]:
        """Returns the ids of all videos, each once, including those in `failed_videos`. The ids have the order of the
        data set's list if the cache knows this order, else the order of the rows.
        """
        rows = sorted([*self.rows.tolist(), *self._failed_rows], key=lambda row: (self._list_index[row], row))
        return list(dict.fromkeys(self._videos[row] for row in rows))

    @property
    def labels(self) -> "Tensor":
        """Returns the labels of all clips. The tensor is multi-hot float32 [clips, num_classes] if `multi_label` is
        true, else int64 [clips] with -1 for a clip without a label.
        """
        return self._label_tensor(self.rows)

    @property
    def failed_labels(self) -> "Tensor":
        """Returns the labels of the videos in `failed_videos`. The tensor is multi-hot float32 [videos, num_classes] if
        `multi_label` is true, else int64 [videos] with -1 for a video without a label.
        """
        return self._label_tensor(self._failed_rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"CachedClips({self.cache.root!r}, {counted(len(self), 'clip')}, {list(self.specs)})"

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> "Sample | list[Sample]":
        """Returns the sample of clip number `index`, or a list of samples if `index` is a slice or a sequence of
        numbers. Clips are numbered from 0. Negative numbers count from the end. Raises IndexError if a number is out of
        range.
        """
        chosen = self._chosen(index)
        return self.__getitems__(chosen) if chosen.ndim else self.__getitems__(chosen[None])[0]

    def __getitems__(self, indices: Indices) -> list[Sample]:
        """Returns one sample for each clip number in `indices`. A sample maps array names to tensors of one clip.
        torch's DataLoader calls this method.
        """
        batch = self.batch(indices)
        columns = [tensor.unbind() for tensor in batch.values()]
        return [dict(zip(batch, sample, strict=True)) for sample in zip(*columns, strict=True)]

    def batch(self, indices: Indices, names: Sequence[str] | None = None) -> Batch:
        """Returns B clips as one dict of array name -> tensor [B, ...]. `indices` are the numbers of the clips in this
        data set, from 0.

        The dict has the arrays `names`, or all arrays of the data set if `names` is None. It also has `labels` and
        `clip_index`. Raises IndexError if a number is out of range.
        """
        import torch

        chosen = self._chosen(indices)
        rows = self.rows[chosen]
        if self._preload and self._preloaded is None:
            self._preloaded = self._in_memory()
        values = self._preloaded
        batch: Batch = {
            name: torch.from_numpy(self.read_rows(name, rows) if values is None else values[name].take(chosen, 0))
            for name in (self.specs if names is None else names)
        }
        if self._float32:
            batch = {name: x.float() if x.dtype == torch.float16 else x for name, x in batch.items()}
        batch["labels"] = self._label_tensor(rows)
        batch["clip_index"] = torch.from_numpy(rows)
        return batch

    def video(self, video_id: str) -> Batch:
        """Returns all N clips of one video in the order of time, as a dict {array name: tensor [N, ...]}.

        The dict also has `start_seconds` and `end_seconds` of each clip (float64 [N], seconds from the first frame).
        Failed clips are left out. Raises CacheError if the video is not in the data set, is not completely extracted,
        or has only failed clips.
        """
        import torch

        clips = self.clips_of(video_id)
        times = torch.from_numpy(self._spans[self.rows[clips]])
        return self.batch(clips) | {"start_seconds": times[:, 0], "end_seconds": times[:, 1]}

    def clips_of(self, video_id: str) -> np.ndarray:
        """Returns the numbers of the N clips of one video in this data set, in the order of time, int64 [N].

        Raises CacheError if the video is not in the data set, is not completely extracted, or has only failed clips.
        """
        if not self._of_video:
            spans = ClipsTable.read_columns(self.cache.storage, ["start_seconds", "end_seconds"])
            self._spans = np.stack([spans.column(name).to_numpy() for name in spans.column_names], 1)
            for clip in np.argsort(self._spans[self.rows, 0], kind="stable").tolist():
                self._of_video.setdefault(self._videos[self.rows[clip]], []).append(clip)
        if video_id in self.unsealed_videos:
            raise CacheError(f"{video_id} is not extracted to its end. Go on with `kinegraph extract CONFIG`.")
        if video_id not in self._of_video:
            is_known = video_id in self.failed_videos
            reason = "every clip of it failed; `kinegraph status CACHE --failed` says why" if is_known else "unknown"
            raise CacheError(f"{self!r} has no clip of the video {video_id!r}: {reason}.")
        return np.array(self._of_video[video_id])

    def _chosen(self, index: int | slice | Indices) -> np.ndarray:
        """Returns the clip numbers that `index` chooses, int64 [n]. For a single number, the array has no axis.
        Negative numbers count from the end.

        Raises IndexError if a number is out of range, and TypeError if a value is no number.
        """
        clip_numbers = np.arange(len(self))
        if isinstance(index, slice):
            return clip_numbers[index]
        chosen = np.asarray(index)
        if not chosen.size:
            return clip_numbers[:0]
        if chosen.dtype.kind not in "iub":
            raise TypeError(f"{self!r}: index {index!r} is neither an integer, a slice nor a list of integers.")
        try:
            return np.asarray(clip_numbers[chosen])
        except IndexError as error:
            raise IndexError(f"{self!r}: {error}") from error

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns the values of the array `name` as a numpy array [len(rows), ...]. `rows` are row numbers of the
        cache.

        Values of `clips/crop...` and `clips/box_frames/...` are computed. All other values are copied from the shards.
        """
        if name in self._crops:
            return np.asarray(self._crops[name][rows])
        if name.startswith(BOX_FRAMES):
            return np.tile(np.array(self.specs[name].frame_index, np.int64), (len(rows), 1))
        filled: np.ndarray = np.empty((len(rows), *self.specs[name].shape), self.specs[name].dtype)
        for start in range(0, len(rows), MAX_OPEN):
            places = [divmod(row, self.cache.shard_clips) for row in rows[start : start + MAX_OPEN].tolist()]
            views = self._opened({(name, shard) for shard, _ in places})
            values = self.cache.store.rows([(views[name, shard], within) for shard, within in places])
            for position, row in enumerate(values, start):
                filled[position] = row
        return filled

    @cached_property
    def _first_labels(self) -> np.ndarray:
        """Returns the first label of each row of the cache, int64 [rows], with -1 for no label."""
        return np.array([labels[0] if labels else -1 for labels in self._labels], np.int64)

    def _label_tensor(self, rows: Sequence[int] | np.ndarray) -> "Tensor":
        """Returns the labels of the row numbers `rows` of the cache. The tensor is multi-hot float32 [rows,
        num_classes] if `multi_label` is true, else int64 [rows] with -1 for no label.
        """
        import torch

        if not self.multi_label:
            return torch.from_numpy(self._first_labels[rows])
        chosen = [self._labels[row] for row in rows]
        hot = torch.zeros(len(chosen), self.num_classes)
        for position, labels in enumerate(chosen):
            hot[position, list(labels)] = 1.0
        return hot

    def _opened(self, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], Shard]:
        """Returns (array name, shard number) -> opened shard, for each pair in `wanted`. The MAX_OPEN shards that were
        used last stay open for later calls.
        """
        missing = sorted(wanted - self._views.keys())
        shards = self.cache.store.open_shards([(self.specs[name], shard) for name, shard in missing]) if missing else ()
        self._views.update(zip(missing, shards, strict=True))
        for key in wanted:
            self._views.move_to_end(key)
        views = {key: self._views[key] for key in wanted}
        while len(self._views) > MAX_OPEN:
            self._views.popitem(last=False)
        return views

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_views": OrderedDict(), "_preloaded": None}

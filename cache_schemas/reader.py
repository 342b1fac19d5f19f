"""The training-side reader: whole batches copied from shards, torch imported at the first batch."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schemas.cache import Cache
from cache_schemas.errors import CacheError
from cache_schemas.fingerprint import fingerprint
from cache_schemas.store import Shard

if TYPE_CHECKING:
    from torch import Tensor

MAX_OPEN = 4096  # Linux allows a process 65,530 mappings


class CachedClips:
    """Map-style data set of the clips of one split whose features are sealed and ok.

    Frozen on the shards sealed when it was opened: a growing cache does not change it. Clips that failed in a
    stage that `arrays` needs are left out; a video without a single ok clip is counted in `failed_videos`.
    Safe under fork and spawn: shards are opened lazily, per process. Of a cache at a URL, a batch fetches side by side
    the indexes of shards that it meets first, then all its rows. A batch is a dict of the arrays by full
    name [B, ...], `labels` (int64 [B], or multi-hot float32 [B, num_classes]) and `clip_index` (int64 [B], the
    row in the cache).

    Raises CacheError for an array the cache does not have or a split it does not know.
    """

    def __init__(self, cache: Cache | Path | str, arrays: Sequence[str], split: str | None = None) -> None:
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self.specs = {name: self.cache.array(name) for name in arrays}
        stages = sorted({spec.stage for spec in self.specs.values()})
        clips = self.cache.clips
        self._labels = [tuple(labels) for labels in clips.table.column("labels").to_pylist()]
        self._videos: list[Any] = clips.column("video_id")
        self.num_classes = len(self.cache.classes)
        self.multi_label = any(len(labels) > 1 for labels in self._labels)
        self.cache_fingerprint = fingerprint({key: self.cache.stage(key).fingerprint for key in stages})
        in_split = self._rows_of(split)
        sealed, ok = self._sealed_and_ok(stages)
        self.rows: np.ndarray = np.flatnonzero(in_split & ok)
        self.num_unsealed = int((in_split & ~sealed).sum())
        failed = {str(self._videos[row]): int(row) for row in np.flatnonzero(in_split & sealed & ~ok)}
        for row in self.rows:
            failed.pop(str(self._videos[row]), None)
        self.failed_videos: list[str] = sorted(failed)
        self._failed_rows = [failed[video] for video in self.failed_videos]
        self._views: OrderedDict[tuple[str, int], Shard] = OrderedDict()

    def _rows_of(self, split: str | None) -> np.ndarray:
        splits = np.array(self.cache.clips.column("split"), dtype=object)
        if split is None:
            return np.ones(len(splits), dtype=bool)
        if split not in splits:
            known = ", ".join(sorted({str(name) for name in splits})) or "none"
            raise CacheError(f"{self.cache.root} has no clip in split {split!r}; its splits are: {known}.")
        found: np.ndarray = splits == split
        return found

    def _sealed_and_ok(self, stages: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Per row: is it sealed in every stage, and ok in every stage?"""
        num_rows = len(self.cache.clips)
        sealed, ok = np.ones(num_rows, dtype=bool), np.ones(num_rows, dtype=bool)
        number = {clip_id: row for row, clip_id in enumerate(self.cache.clips.column("clip_id"))}
        for key in stages:
            here = np.zeros(num_rows, dtype=bool)
            for record in self.cache.ledger.records(key):
                rows = self.cache.shard_rows(record.shard)
                here[rows.start : rows.stop] = True
                ok[[number[failure.clip_id] for failure in record.failures]] = False
            sealed &= here
        return sealed, ok & sealed

    @property
    def spec(self) -> dict[str, tuple[int, ...]]:
        """Array name -> shape of one clip, as `build_head` wants it."""
        return {name: spec.shape for name, spec in self.specs.items()}

    @property
    def video_ids(self) -> list[str]:
        return [self._videos[row] for row in self.rows]

    @property
    def num_failed_videos(self) -> int:
        return len(self.failed_videos)

    @property
    def labels(self) -> "Tensor":
        """Labels of every clip, in order."""
        return self._label_tensor(self.rows)

    @property
    def failed_labels(self) -> "Tensor":
        """Labels of the videos in `failed_videos`."""
        return self._label_tensor(self._failed_rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"CachedClips({self.cache.root!r}, {len(self)} clips, {list(self.specs)})"

    def __getitem__(self, index: int) -> "dict[str, Tensor]":
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> "dict[str, Tensor]":
        import torch

        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        places = [divmod(row, self.cache.shard_clips) for row in rows.tolist()]
        views = self._opened({(name, shard) for name in self.specs for shard, _ in places})
        found = iter(self.cache.store.rows([(views[n, shard], within) for n in self.specs for shard, within in places]))
        batch: dict[str, Tensor] = {}
        for name, spec in self.specs.items():
            batch[name] = torch.empty((len(rows), *spec.shape), dtype=getattr(torch, spec.dtype))
            for empty, row in zip(batch[name].numpy(), found, strict=False):
                empty[...] = row
        batch["labels"] = self._label_tensor(rows)
        batch["clip_index"] = torch.from_numpy(rows)
        return batch

    def _label_tensor(self, rows: Sequence[int] | np.ndarray) -> "Tensor":
        import torch

        chosen = [self._labels[row] for row in rows]
        if not self.multi_label:
            return torch.tensor([labels[0] if labels else -1 for labels in chosen], dtype=torch.int64)
        hot = torch.zeros(len(chosen), self.num_classes)
        for position, labels in enumerate(chosen):
            hot[position, list(labels)] = 1.0
        return hot

    def _opened(self, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], Shard]:
        """Shards by (array, number); the last `MAX_OPEN` are kept open."""
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
        return self.__dict__ | {"_views": OrderedDict()}

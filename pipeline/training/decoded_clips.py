"""Reads the clips of a split for fine-tuning. Pixels are decoded from the videos. All other arrays come from the cache.

A view is a random change of a clip: another rectangle of the frame, mirrored pixels, or other colours.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable, crop_of
from kinegraph.cache_schemas.crops import directed
from kinegraph.cache_schemas.reader import CROP, CachedClips, Indices
from kinegraph.cache_schemas.words import counted, first_of
from kinegraph.pipeline.caches.changes import changed_videos
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.feed import decode_at_hand
from kinegraph.stages.clips.views import View, ViewOptions, view_of
from kinegraph.stages.decode.clips import ClipResults
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.torchcodec_check import require_decoder
from kinegraph.stages.decode.wanted import Square, Wanted
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.inputs import BOXES, COUNT
from kinegraph.stages.heads.online import PIXELS
from kinegraph.stages.regions.geometry import overlaps
from kinegraph.stages.remote.staging import LocalVideo, Staging
from kinegraph.stages.remote.urls import is_url
from kinegraph.stages.training.clips import Batch, VideoLost

log = logging.getLogger("kinegraph")

NUM_NAMED = 5  # videos that an error names
OF_BOXES = {"proposals/": 0.0, "tracks/id": -1}  # prefix of arrays with one value for each box -> value of no box


class VideosChanged(UsageError):
    """Raised if videos are missing, or differ from the videos from which the cache was made."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The threads and limits for decoding, which all splits of a run share."""

    pool: ThreadPoolExecutor  # the threads that decode
    staging: Staging  # copies videos at URLs to this machine
    timeout_seconds: float  # the time limit for decoding one video
    device: torch.device  # the device of the networks
    # A lock to hold while several copies of videos at URLs are begun
    order: threading.Lock


@contextmanager
def decoding(config: Config, device: torch.device) -> Iterator[Decoding]:
    """Starts the threads that decode and yields them as a Decoding. Stops the threads at the end of the `with` block.

    If `clips.decoder` of the config asks for a GPU, the threads decode on `device`. Raises UsageError if this machine
    cannot decode as `clips.decoder` says.
    """
    require_decoder(config.clips.decoder, config.clips.torchcodec_device, device)
    count = config.finetune.decode_threads or config.run.worker_threads
    with stopping.threads(count, "decode") as pool, Staging(config.run.staging) as staging:
        yield Decoding(
            pool=pool,
            staging=staging,
            timeout_seconds=config.run.video_timeout_seconds,
            device=device,
            order=threading.Lock(),
        )


class DecodedClips(CachedClips):
    """The clips of a split for fine-tuning. A batch has pixels, which are decoded from the videos, and arrays from the
    cache. Several threads may call `batch`.

    - `arrays`: the arrays that a clip must have. A clip is left out if it failed in the stage of one of them.
    - `names`: the cached arrays that a batch contains.
    - `squares`: {name of a backbone: how its input frames are cut and resized}. A batch has these frames as the array
      `pixels/<name of the backbone>`.
    - `wanted`: which frames of a clip are decoded.
    - `decoding`: the threads that decode.
    - `views`: options of random views, or None. A view shows another part of the frame, mirrored pixels or other
      colours. Boxes outside of the view are removed.
    - `seed`: the seed of the views, which also change with each epoch (`in_epoch`).
    """

    batches_ahead = 2

    def __init__(
        self,
        cache: Cache,
        arrays: Sequence[str],
        split: str,
        *,
        names: Sequence[str],
        squares: Mapping[str, Square],
        wanted: Wanted,
        decoding: Decoding,
        views: ViewOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(cache, arrays, split)
        self.names, self.seed, self.epoch, self._decoding = [*names], seed, 1, decoding
        self.views = None if views is None or views.is_off else views
        cuts = self.views is not None and self.views.short_side is not None
        self.squares = {name: cut_first(name, square) if cuts else square for name, square in squares.items()}
        self.wanted = replace(wanted, squares=frozenset(self.squares.values()))
        self._table = cache.clips.table.take(self.rows)
        self._reading = threading.Lock()

    def in_epoch(self, epoch: int) -> "DecodedClips":
        """Returns a copy of this data set for the epoch number `epoch`, counted from 1. The clips of the copy have the
        random changes of this epoch, for example mirrored pixels.

        If the constructor got no `views`, the clips are equal in all epochs.
        """
        other = copy(self)
        other.epoch = epoch
        return other

    def as_cached(self) -> "DecodedClips":
        """Returns a copy of this data set without random views. The copy has the crops and the boxes of the cache."""
        other = copy(self)
        other.views = None
        return other

    def batch(self, indices: Indices, names: Sequence[str] | None = None) -> Batch:
        """Returns B clips as a dict {array name: values}. `indices` are the positions of the B clips in the split.

        The pixels for the backbone `<entry>` are `pixels/<entry>`, RGB uint8 [B, T, S, S, 3], with T frames of S x S
        px. `names` are the cached arrays in the result, by default those of the constructor. Raises VideoLost if a
        video cannot be decoded.
        """
        rows = [*ClipsTable(self._table.take(np.asarray(indices))).rows()]
        views = [self._view(row) for row in rows]
        under_way = self._begun([_viewed(row, view) for row, view in zip(rows, views, strict=True)])
        with self._reading:
            batch = super().batch(indices, self.names if names is None else names)
        for number, (row, view) in enumerate(zip(rows, views, strict=True)):
            _apply(view, row, batch, number)
        decoded = [clip for path, future in under_way for clip in _pixels(path, stopping.result(future))]
        for name, square in self.squares.items():
            clips = [_coloured(torch.from_numpy(one[square]), view) for one, view in zip(decoded, views, strict=True)]
            batch[f"{PIXELS}{name}"] = torch.stack(clips)
        return batch

    def _view(self, row: ClipRow) -> View:
        if self.views is None:
            return View()
        return view_of(row, self.view_size, self.views, self.seed, self.epoch)

    @property
    def view_size(self) -> int:
        """Returns the side in px of the largest square that a backbone takes as input."""
        return max(square.size for square in self.squares.values())

    @property
    def path_of(self) -> dict[str, str]:
        """Returns a dict {video id: path or URL of the video}."""
        return dict(zip(self.video_ids, self._table.column("path").to_pylist(), strict=True))

    @property
    def crop_names(self) -> list[str]:
        """Returns the sorted names of all crops that occur in the clips of this split, each name once."""
        return sorted({crop_of(clip) for clip in self._table.column("clip_id").to_pylist()})

    def _begun(self, rows: Sequence[ClipRow]) -> list[tuple[str, Future[ClipResults]]]:
        """Begins to decode `rows` in threads. Returns a pair for each group of neighbouring rows of one video: the path
        of the video, and a future with the decoded clips.
        """
        groups = [[*group] for _, group in groupby(rows, key=lambda row: row.path)]
        with self._decoding.order:
            files = [self._decoding.staging.begin(group[0].path) for group in groups]
            return [
                (group[0].path, self._decoding.pool.submit(self._decode, file, group))
                for file, group in zip(files, groups, strict=True)
            ]

    def _decode(self, file: AbstractContextManager[LocalVideo], rows: Sequence[ClipRow]) -> ClipResults:
        try:
            with file as at_hand:
                return decode_at_hand(at_hand, rows, self.wanted, self._decoding.timeout_seconds, OpenVideos())
        except DecodeError as error:  # the video could not be copied
            return [error.detached() for _ in rows]


def _pixels(path: str, clips: ClipResults) -> Iterator[Mapping[Square, np.ndarray]]:
    for clip in clips:
        if isinstance(clip, DecodeError):
            raise VideoLost(
                f"{path} can no longer be decoded ({clip.reason}: {clip.detail}). No other video takes its place. The "
                "state of the run is kept: put the video back and give the same command. Or run `kinegraph index` and "
                "`kinegraph extract` again, so that it counts as failed, and begin anew with --overwrite."
            )
        yield clip.squares


def cut_first(name: str, square: Square) -> Square:
    """Returns a copy of `square` for random views: the frame is cut first and then resized. `name` is the name of the
    backbone.

    `resize: swscale` can only resize whole frames. Pillow then takes its place, and a warning is logged.
    """
    if square.resize != "swscale":
        return replace(square, resize_short=None)
    log.warning(
        "finetune.views.short_side: Pillow resizes the random squares of %s, because `resize: swscale` resizes whole "
        "frames only. Validation without random squares is resized as the config says",
        name,
    )
    return replace(square, resize_short=None, resize="pillow")


def _viewed(row: ClipRow, view: View) -> ClipRow:
    """Returns a copy of `row` with the rectangle and the frame times of `view`. If the view has no rectangle or no
    times, those of `row` stay. If the view is mirrored, a mirrored row becomes unmirrored, and any other row becomes
    mirrored.
    """
    seen = replace(row, crop=view.rectangle or row.crop, mirrored=row.mirrored != view.mirrored)
    return seen if view.times is None else replace(seen, target_times=view.times, target_frames=None)


def _apply(view: View, row: ClipRow, batch: Batch, number: int) -> None:
    """Changes the arrays of clip number `number` in `batch` in place, so that they fit the pixels of `view`. `row` is
    the row of the clip in clips.parquet.

    If the view has a rectangle, this becomes the crop of the clip, and boxes outside of the rectangle are removed.
    """
    for name in (name for name in batch if name.startswith(CROP)):
        if view.rectangle is not None:
            batch[name][number] = torch.tensor(directed(view.rectangle, mirrored=row.mirrored != view.mirrored))
        elif view.mirrored:
            batch[name][number] = batch[name][number][[2, 1, 0, 3]]
    if view.rectangle is None or BOXES not in batch:
        return
    boxes, count = batch[BOXES][number], batch[COUNT][number]
    inside = overlaps(boxes, view.rectangle) & (torch.arange(boxes.shape[1]) < count[:, None])  # [T, N]
    order = (~inside).int().argsort(stable=True, dim=1)  # the best boxes stay first
    kept = inside.gather(1, order)
    for name, fill in ((name, fill) for name in batch for start, fill in OF_BOXES.items() if name.startswith(start)):
        if name != COUNT:
            values = batch[name][number]
            trailing = (...,) + (None,) * (values.ndim - 2)
            moved = values.gather(1, order[trailing].expand_as(values))
            batch[name][number] = torch.where(kept[trailing], moved, torch.full_like(moved, fill))
    count.copy_(inside.sum(1))


def _coloured(clip: Tensor, view: View) -> Tensor:
    """Returns `clip` with its brightness, contrast and saturation multiplied by the factors of `view`. `clip` is RGB
    uint8 [T, S, S, 3], with T frames of S x S px.
    """
    frames = clip.movedim(3, 1)
    for change, factor in (
        (transforms.adjust_brightness, view.brightness),
        (transforms.adjust_contrast, view.contrast),
        (transforms.adjust_saturation, view.saturation),
    ):
        frames = frames if factor == 1 else change(frames, factor)
    return frames.movedim(1, 3)


def require_same_videos(clips: Sequence[DecodedClips]) -> None:
    """Raises VideosChanged if a video of `clips` is missing, or differs from the video from which the cache was made. A
    video at a URL is not checked for being missing.
    """
    cache = clips[0].cache
    path_of = {video: path for split in clips for video, path in split.path_of.items()}
    shards = {row // cache.shard_clips for split in clips for row in split.rows.tolist()}
    changed = {video for videos in changed_videos(cache, shards).values() for video in videos if video in path_of}
    gone = [
        path for path in stopping.checked(path_of.values()) if not is_url(path) and not Path(on_disk(path)).exists()
    ]
    for videos, has, have, how in (
        (gone, "is", "are", "gone"),
        (sorted(path_of[video] for video in changed), "has", "have", "changed since the cache was made"),
    ):
        if videos:
            named = first_of(videos, NUM_NAMED)
            raise VideosChanged(
                f"{counted(len(videos), f'video {has}', f'videos {have}')} {how}: {named}. Paths are relative to "
                "the folder in which `kinegraph index` ran. Put them back, or run `kinegraph index` and `kinegraph "
                "extract` again."
            )

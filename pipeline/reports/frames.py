"""Decodes the frames of clips that a report or a figure shows. Torch-free."""

from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import numpy as np

from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.pipeline.caches.clip_rules import rules_of
from kinegraph.pipeline.caches.videos_at_hand import VideosAtHand, change_of
from kinegraph.stages.decode.clips import decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from kinegraph.stages.pictures.strips import shown_size
from kinegraph.stages.remote.urls import is_url

NO_LIMIT = float("inf")
WITHOUT_VIDEOS = "Name the folder of the videos by --videos ROOT."


class FramesMissingError(Exception):
    """The frames of a clip cannot be shown. The message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ClipPictures:
    """F decoded frames of one clip, each of H rows and W columns of pixels."""

    row: ClipRow  # the row number of the clip
    pixels: np.ndarray  # uint8 RGB [F, H, W, 3]. The short side has at most SHORT_PX px.
    times: np.ndarray  # [F], the times of the frames in seconds
    # [F], the time step of each frame, from 0. If every second frame of the clip is a time step, time step 3 is frame 6
    # of the clip.
    steps: np.ndarray
    # True if the video file has changed since the extraction. Cached boxes then do not fit the frames.
    has_changed: bool


class FrameFinder:
    """Decodes frames of the clips of a cache.

    - `videos`: a folder in which the videos are looked for first, or None.
    - `seconds`: the largest number of seconds that all calls of `clip` together may decode.

    Raises UsageError if `videos` is no folder.
    """

    def __init__(self, cache: Cache, videos: Path | str | None = None, seconds: float = NO_LIMIT) -> None:
        self.cache = cache
        self.at_hand = VideosAtHand(None if videos is None else Path(videos))
        self._seconds_left = seconds

    def clip(self, row_index: int, frame_step: int, most: int) -> ClipPictures:
        """Decodes every `frame_step`-th frame of the clip in row `row_index`. Returns at most `most` of these frames,
        evenly spread, as ClipPictures.

        Raises FramesMissingError if the video is missing or cannot be decoded, or if the time for decoding is used
        up.
        """
        shard, within = divmod(row_index, self.cache.shard_clips)
        row = self.cache.rows(shard)[within]
        if not row.is_probed:
            raise FramesMissingError(f"{row.clip_id} has no times: its video could not be opened, or was imported.")
        if self._seconds_left <= 0:
            raise FramesMissingError(f"{row.clip_id}: the time for frames is up.")
        begun = monotonic()
        try:
            path = self.at_hand.path(row)
            if is_url(path):
                raise FramesMissingError(f"{path} is at a URL, and no video is fetched for a picture. {WITHOUT_VIDEOS}")
            return self._decoded(replace(row, path=path), frame_step, most, self._changed(shard, row, path))
        except DecodeError as error:
            raise FramesMissingError(f"{row.clip_id} has no frames to show: {error.detail}") from error
        finally:
            self._seconds_left -= monotonic() - begun

    def _changed(self, shard: int, row: ClipRow, path: str) -> bool:
        record = self.cache.ledger.read(CLIPS, shard)
        return bool(change_of(path, record.sources.get(row.video_id) if record is not None else None))

    def _decoded(self, row: ClipRow, frame_step: int, most: int, changed: bool) -> ClipPictures:
        wanted = Wanted(
            num_frames=len(row.target_times),
            whole=WholeFrame(network_size=shown_size, every=frame_step),
            may_repeat=True,
        )
        (clip,) = decode_clips(row.path, [row], wanted, self._seconds_left, rules_of(self.cache))
        if isinstance(clip, DecodeError):
            raise clip
        assert clip.whole is not None
        steps = np.unique(np.linspace(0, len(clip.whole) - 1, min(most, len(clip.whole))).round().astype(int))
        return ClipPictures(
            row=row,
            pixels=clip.whole[steps],
            times=clip.frame_times[::frame_step][steps],
            steps=steps,
            has_changed=changed,
        )

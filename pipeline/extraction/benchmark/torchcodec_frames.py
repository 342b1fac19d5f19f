"""Decodes the frames of clips with torchcodec, an optional package. Frames are tensors."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import Tensor
from torchvision.transforms.v2.functional import resize, resized_crop, to_dtype

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import Rectangle

END_SECONDS = 1e-3  # torchcodec refuses times at or after the end of a video


class TorchcodecFrames:
    """A FrameSource of the plain loop that decodes with torchcodec and resizes tensors with antialiasing. torchcodec
    seeks to the frames of the clips.

    `threads` is the number of threads that decode a video. The constructor raises ImportError if torchcodec is not
    installed, and RuntimeError or OSError if torchcodec does not find the libraries of FFmpeg.
    """

    def __init__(self, threads: int) -> None:
        decoders: Any = import_module("torchcodec.decoders")
        self._open = decoders.VideoDecoder
        self.threads = threads

    def of_clips(self, path: str, rows: Sequence[ClipRow]) -> list[list[Tensor]]:
        """Returns a list of decoded frames, RGB uint8 [3, H, W], for each clip in `rows`. All clips belong to the video
        at `path`.
        """
        video = self._open(path, num_ffmpeg_threads=self.threads)
        clips = [self._places(video.metadata, row) for row in rows]
        wanted = sorted({place for places in clips for place in places})
        if rows[0].target_frames is not None:
            found = video.get_frames_at(indices=wanted)
        else:
            found = video.get_frames_played_at(seconds=wanted)
        frame_at = dict(zip(wanted, found.data, strict=True))
        return [[frame_at[place] for place in places] for places in clips]

    def _places(self, metadata: Any, row: ClipRow) -> list[Any]:
        """Returns which frames of the video the clip `row` needs. If `row.target_frames` is set, returns frame numbers,
        from 0. Otherwise returns times in seconds on the clock of the file.

        `metadata` is torchcodec's description of the video stream.
        """
        if row.target_frames is not None:
            return [min(number, metadata.num_frames - 1) for number in row.target_frames]
        begin, end = metadata.begin_stream_seconds, metadata.end_stream_seconds
        return [min(begin + seconds, end - END_SECONDS) for seconds in row.target_times]

    def square(self, frame: Tensor, rectangle: Rectangle, size: int) -> Tensor:
        x1, y1, x2, y2 = (round(side) for side in rectangle)
        cut = resized_crop(frame, y1, x1, y2 - y1, x2 - x1, [size, size], antialias=True)
        pixels: Tensor = to_dtype(cut, scale=True)
        return pixels

    def whole(self, frame: Tensor, height: int, width: int) -> Tensor:
        pixels: Tensor = resize(frame, [height, width], antialias=True)
        return pixels

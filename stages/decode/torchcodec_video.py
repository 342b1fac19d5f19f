"""Decodes videos with torchcodec, on the CPU or on a GPU. Torch is imported at the first use.

PyAV reads the packets of the file and computes which frame is shown at which time, without decoding. torchcodec decodes
the chosen frames. PyAV decodes a file itself if torchcodec might show other pictures. `read_table` lists these cases.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from threading import get_ident
from time import monotonic
from typing import Any

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode.counting import has_whole_pictures
from kinegraph.stages.decode.durations import TRUNCATED_SECONDS
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.open_videos import Identity, file_identity
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.seeking import CODECS, codec_name, starts_anew
from kinegraph.stages.decode.stream import OpenVideo, TimedFrame, open_video
from kinegraph.stages.errors import UsageError

log = logging.getLogger("kinegraph")

FORMATS = frozenset({"yuv420p", "yuvj420p"})  # 8 bits. torchcodec converts others to other colours than PyAV
THREADS_KEPT = 64
TABLES_KEPT = 16  # tables of videos that are read again soon, as by the next shard


class LeftToPyAVError(Exception):
    """Raised if torchcodec might show other pictures of the video `path` than PyAV. The caller then decodes the video
    with PyAV.

    `reason` says why, in words. `detail` is the message of torchcodec, or "".
    """

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        self._path, self._reason, self._detail = path, reason, detail.strip().partition("\n")[0]
        super().__init__(f"{path}: {reason} {detail}".strip())

    def log_once(self) -> None:
        """Logs the error. Only the first error with a given reason in a process is logged."""
        if self._reason in _logged:
            return
        _logged.add(self._reason)
        log.warning(
            "PyAV decodes %s, because %s%s. Other such videos are not named",
            self._path,
            self._reason,
            f": {self._detail}" if self._detail else "",
        )


_logged: set[str] = set()  # reasons


def decoders() -> Any:
    """Returns the module `torchcodec.decoders`. Raises UsageError if torchcodec is not installed, or if torchcodec does
    not find the libraries of FFmpeg.
    """
    try:
        return import_module("torchcodec.decoders")
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("torchcodec"):
            raise
        words = "clips.decoder: torchcodec is not installed. Run pip install 'kinegraph[torchcodec]', with the release"
        raise UsageError(f"{words} of torchcodec that belongs to your torch, or use clips.decoder: pyav") from None
    except (RuntimeError, OSError) as error:
        words = "clips.decoder: torchcodec cannot be loaded. It needs the shared libraries of FFmpeg (Debian's package"
        advice = f"{words} ffmpeg, conda's ffmpeg) and the release that belongs to your torch"
        raise UsageError(f"{advice}: {str(error).strip().partition(chr(10))[0]}") from error


@dataclass(frozen=True, kw_only=True)
class FrameTable:
    """The times of all frames of one video file, in the order in which the frames are shown."""

    times: list[float]  # the time of each frame in seconds from the first frame
    stamps: list[int]  # the time stamp of each frame in the file, in ticks of the file's clock
    tick_seconds: float  # the length of one tick
    mapping: str  # the table of frames in the form that torchcodec takes, a JSON text
    size: tuple[int, int]  # (width, height) of a frame as a player shows it, in px
    stream: int  # the index of the video stream in the file
    frame_period: float  # the time from one frame to the next, in seconds
    slack_seconds: float  # the tolerance in seconds with which times are compared
    stated_duration: float | None  # the duration in seconds that the container states, or None


@lru_cache(TABLES_KEPT)
def _kept_table(path: str, identity: Identity | None) -> list[FrameTable | None]:
    """Returns a list that this process keeps for the video at `path`. The list is empty at first. The caller stores the
    result of `read_table` in the list, so that later calls find it. `identity` identifies the content of the file, so a
    file that was replaced gets a new list.
    """
    return []


def read_table(path: str, deadline: float = float("inf")) -> FrameTable | None:
    """Reads all packets of the video at `path` and returns its FrameTable. Returns None if torchcodec might show other
    pictures than PyAV.

    torchcodec decodes only mp4, mov, mkv and webm files with 8 bits in 4:2:0, even sides and no mirroring. Each packet
    must hold one picture with its own time. The file must begin with a key frame and be undamaged.

    Raises DecodeError if the video cannot be opened, or if time.monotonic() passes `deadline` (`timeout`).
    """
    with open_video(path) as video:
        first = next(video.frames(deadline), None)
        if first is None or not _is_plain(video, first):
            return None
    with open_video(path) as video:
        codec, extradata = codec_name(video.stream), bytes(video.stream.codec_context.extradata or b"")
        packets: list[tuple[int, int, bool]] = []
        for packet in video.later_packets():
            if monotonic() > deadline:
                read = counted(len(packets), "frame")
                raise DecodeError("timeout", f"the table of its frames had {read} when the time for the video was up")
            if packet.pts is None or packet.is_corrupt:
                return None
            is_first = packet.pts == first.frame.pts
            is_key = packet.is_keyframe and (
                is_first or (codec in CODECS and starts_anew(codec, extradata, bytes(packet)))
            )
            packets.append((packet.pts, packet.duration or 1, is_key))
        packets.sort()
        stamps = [pts for pts, _, _ in packets]
        is_straight = not video.complaints and not video.packets.jumps and all(a < b for a, b in pairwise(stamps))
        if not is_straight or not stamps or stamps[0] != first.frame.pts or not packets[0][2]:
            return None
        zero = float(stamps[0] * first.frame.time_base)
        times = [float(pts * first.frame.time_base) - zero for pts in stamps]
        stated = video.stated_duration
        if stated is not None and stated - (times[-1] + video.frame_period) > TRUNCATED_SECONDS:
            return None
        return FrameTable(
            times=times,
            stamps=stamps,
            tick_seconds=float(first.frame.time_base),
            mapping=_mapping(packets),
            size=video.size(first.frame),
            stream=video.stream.index,
            frame_period=video.frame_period,
            slack_seconds=video.slack_seconds,
            stated_duration=stated,
        )


def _is_plain(video: OpenVideo, first: TimedFrame) -> bool:
    """Returns whether torchcodec may decode this video, as far as its header and its first frame show. `read_table`
    checks the other properties.
    """
    frame, timeline = first.frame, video.timeline
    turn = video.rules.orientation(frame)
    is_mirrored = turn.is_transposed ^ turn.flips_x ^ turn.flips_y
    is_even = frame.width % 2 == 0 and frame.height % 2 == 0
    has_stamps = frame.pts is not None and not timeline.is_raw and not timeline.has_decode_times
    return (
        has_whole_pictures(video)
        and has_stamps
        and is_even
        and not is_mirrored
        and frame.format.name in FORMATS
        and not video.complaints
    )


def _mapping(packets: list[tuple[int, int, bool]]) -> str:
    """Returns the table of frames in the form that torchcodec takes, a JSON text. `packets` has (time stamp, duration,
    is key frame) of each frame, in the order of time.
    """
    frames = [{"pts": pts, "duration": duration, "key_frame": int(is_key)} for pts, duration, is_key in packets]
    return json.dumps({"frames": frames})


class TorchcodecVideo:
    """A video that torchcodec decodes, with the methods of `stream.OpenVideo` that decoding of clips needs. A frame is
    its number in the video, an int from 0. `device` is "cpu", "cuda" or "cuda:<index>".

    Raises DecodeError if the video cannot be opened, or if time.monotonic() passes `deadline` before all packets were
    read (`timeout`). Raises LeftToPyAVError if PyAV has to decode the video.
    """

    complaints = ""
    latest: TimedFrame | None = None
    sizes: tuple[tuple[float, tuple[int, int]], ...] = ()

    def __init__(self, path: str, device: str, deadline: float = float("inf")) -> None:
        open_decoder, self.path = decoders().VideoDecoder, path
        kept = _kept_table(path, file_identity(path))
        if not kept:
            kept.append(read_table(path, deadline))
        table = kept[0]
        if table is None:
            raise LeftToPyAVError(path, "torchcodec may show other pictures of such a file (docs/gpu.md)")
        self._table, self._stream = table, _stream_on(device)
        self.frame_period, self.slack_seconds = table.frame_period, table.slack_seconds
        self.stated_duration = table.stated_duration
        try:
            self._decoder = open_decoder(
                on_disk(path),
                stream_index=table.stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device=device,
                custom_frame_mappings=table.mapping,
            )
        except (RuntimeError, ValueError) as error:
            raise LeftToPyAVError(path, "torchcodec cannot open it", str(error)) from error

    def frames(self, deadline: float = float("inf")) -> Iterator[TimedFrame]:
        """Yields one TimedFrame for each frame of the video, without decoding it. The field `frame` of a TimedFrame is
        the number of the frame.

        Raises DecodeError (`timeout`) once time.monotonic() is later than `deadline`.
        """
        reached = 0.0
        for number, seconds in enumerate(self._table.times):
            if monotonic() > deadline:
                raise DecodeError("timeout", f"decoding had reached {reached:.1f} s of the video when its time was up")
            yield TimedFrame(seconds, number, number, number)
            reached = seconds

    def rgb(self, number: Any) -> np.ndarray:
        """Returns frame number `number` as RGB pixels in host memory, uint8 [height, width, 3], turned as its metadata
        says.

        Raises LeftToPyAVError if torchcodec returns no frame, another frame or a frame of another size.
        """
        table = self._table
        try:
            with self._stream:
                decoded = self._decoder.get_frame_at(number)
                pixels: np.ndarray = decoded.data.cpu().numpy()
        except (RuntimeError, IndexError, ValueError) as error:
            raise LeftToPyAVError(self.path, "torchcodec cannot decode it", f"frame {number}: {error}") from error
        if round(decoded.pts_seconds / table.tick_seconds) != table.stamps[number]:
            raise LeftToPyAVError(self.path, "torchcodec returned another frame", f"not frame {number}")
        if pixels.shape != (table.size[1], table.size[0], 3):
            raise LeftToPyAVError(self.path, "its frame size changes", f"at frame {number}")
        return np.ascontiguousarray(pixels)


def _stream_on(device: str) -> AbstractContextManager[object]:
    """Returns a context in which a decoder on the GPU `device` uses its own CUDA stream. So the decoder need not wait
    for the networks. On the CPU the context does nothing. The context can be entered several times.
    """
    if device == "cpu":
        return nullcontext()
    import torch

    return torch.cuda.stream(_stream_of(device, get_ident()))


@lru_cache(THREADS_KEPT)
def _stream_of(device: str, thread: int) -> Any:
    """Returns the CUDA stream in which the thread number `thread` decodes on the GPU `device`."""
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

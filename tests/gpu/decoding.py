"""Frames that torchcodec decodes on the device against those of PyAV: times and pixels."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.decode.torchcodec_check import MAX_MEAN_LEVELS, require_decoder
from kinegraph.stages.decode.torchcodec_video import TorchcodecVideo, decoders
from kinegraph.stages.errors import UsageError
from tests.coded_videos import write
from tests.gpu.checks import Check

CODECS = {
    "h264": ("v.mp4", "libx264", {}),
    "hevc": ("v.mp4", "libx265", {"x265-params": "log-level=none"}),
    "vp9": ("v.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": ("v.mkv", "libsvtav1", {"preset": "12"}),
}
SIZE = (640, 360)


def part(device: torch.device, small: bool) -> Iterator[Check]:
    try:
        decoders()
    except UsageError as error:
        raise ModuleNotFoundError(str(error), name="torchcodec with FFmpeg's libraries") from error
    decoder, where = ("torchcodec", "cpu") if device.type == "cpu" else ("torchcodec_cuda", "cuda")
    require_decoder(decoder, where, device)
    for codec in ("h264",) if small else CODECS:
        name, encoder, options = CODECS[codec]
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder) / name, 60, codec=encoder, size=SIZE, key_every=15, b_frames=2, options=options)
            others, levels = _compared(path, str(device))
            yield Check(what=f"{codec}: frames at other times than PyAV's", found=others, allowed=0)
            yield Check(
                what=f"{codec}: pixels, distance from PyAV", found=levels, allowed=MAX_MEAN_LEVELS, unit="levels"
            )


def _compared(path: Path, device: str) -> tuple[int, float]:
    """The number of frames with another time, and the largest mean difference of the pixels of a frame."""
    found, levels = TorchcodecVideo(str(path), device), [0.0]
    times = [shown.seconds for shown in found.frames()]
    with open_video(str(path)) as video:
        expected = [(shown.seconds, video.rgb(shown.frame)) for shown in video.frames()]
    for number in range(0, len(expected), 7):
        pixels = expected[number][1].astype(np.int16)
        levels.append(float(np.abs(found.rgb(number).astype(np.int16) - pixels).mean()))
    others = sum(a != b for a, (b, _) in zip(times, expected, strict=False)) + abs(len(times) - len(expected))
    return others, max(levels)

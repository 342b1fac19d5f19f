"""Videos whose grey level is the frame number, and rows that ask for given times."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow

LEVELS = 12  # grey levels between neighbouring frames: more than any codec here is off by


def counting_frames(num_frames: int, width: int = 48, height: int = 32) -> np.ndarray:
    """[T, H, W, 3] uint8: frame n is of grey level 16 + 12 n."""
    levels = 16 + LEVELS * np.arange(num_frames, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def numbers(pixels: np.ndarray) -> list[int]:
    """Frame numbers of [T, h, w, 3] that show the grey level of a frame number."""
    return [round((float(level) - 16) / LEVELS) for level in pixels.mean((1, 2, 3))]


def write_at(
    path: Path,
    frames: np.ndarray,
    times_ms: Sequence[int],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode frames [T, H, W, 3], the n-th shown at `times_ms[n]`."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=1000, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if codec in ("mpeg4", "mjpeg"):
            stream.codec_context.qmin = stream.codec_context.qmax = 2
        for pixels, at in zip(frames, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def clip_row(path: Path, times: Sequence[float], *, clip: int = 0, crop_name: str = "full", **values: Any) -> ClipRow:
    """A row of a 48 x 32 px video that asks for the frames at `times`, whole unless `values` say otherwise."""
    known: dict[str, Any] = {
        "clip_id": f"{path.name}:{clip}:{crop_name}",
        "video_id": path.name,
        "path": str(path),
        "split": "train",
        "start_seconds": 0.0,
        "end_seconds": 1.0,
        "labels": (),
        "target_times": tuple(times),
        "crop": (0.0, 0.0, 48.0, 32.0),
        "frame_width": 48,
        "frame_height": 32,
    }
    return ClipRow(**known | values)

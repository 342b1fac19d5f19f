"""Tries torchcodec on a small video before an extraction begins. Torch is imported only if torchcodec is used."""

import io
import logging
from typing import Any

import av
import numpy as np

from kinegraph.stages.decode.torchcodec_video import decoders
from kinegraph.stages.errors import UsageError

log = logging.getLogger("kinegraph")

MAX_MEAN_LEVELS = 2.0  # mean difference of the pixels of torchcodec and PyAV, of 255
SIDE_PX, NUM_FRAMES = 256, 4


def require_decoder(decoder: str, torchcodec_device: str | None, device: Any) -> None:
    """Raises UsageError if this machine cannot decode with `decoder`, the value of the option `clips.decoder`.

    `torchcodec_device` is "cpu" or "cuda", or None for PyAV, which needs no check. `device` is the torch.device of the
    networks. For the check, torchcodec decodes a small video. Raises UsageError also if its pixels differ from the
    pixels of PyAV by more than MAX_MEAN_LEVELS levels of 255 on average.
    """
    if torchcodec_device is None:
        return
    given = f"clips.decoder: given {decoder!r}"
    if torchcodec_device == "cuda" and device.type != "cuda":
        words = f"which needs a GPU, but run.device is {device} here; use a GPU, or torchcodec or pyav in another cache"
        raise UsageError(f"{given}, {words}")
    where = "cpu" if torchcodec_device == "cpu" else str(device)
    open_decoder, video = decoders().VideoDecoder, _small_video()
    try:
        tried = open_decoder(video, dimension_order="NHWC", device=where)
        found = np.stack([tried.get_frame_at(number).data.cpu().numpy() for number in range(NUM_FRAMES)])
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        advice = "" if where == "cpu" else "; torchcodec must be built with CUDA, and the driver must have NVDEC"
        raise UsageError(f"{given}, but torchcodec cannot decode on {where}: {reason}{advice}") from error
    if where != "cpu" and getattr(tried, "cpu_fallback", False):
        log.warning("torchcodec decodes on the CPU, not on %s: %s", where, tried.cpu_fallback)
    with av.open(io.BytesIO(video), "r") as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    levels = float(np.abs(found.astype(np.int16) - expected.astype(np.int16)).mean())
    if levels > MAX_MEAN_LEVELS:
        words = f"whose pixels on {where} differ from PyAV's by {levels:.1f} levels of 255 on average"
        raise UsageError(f"{given}, {words}; allowed: {MAX_MEAN_LEVELS:g}. Use another release of torchcodec, or pyav")


def _small_video() -> bytes:
    """Returns the bytes of a small mp4 file. Its frames have all hues, which change slowly from pixel to pixel."""
    across = np.linspace(0, 255, SIDE_PX)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for number in range(NUM_FRAMES):
            planes = np.broadcast_arrays(across[:, None], across[None], 255.0 * number / NUM_FRAMES)
            frame = av.VideoFrame.from_ndarray(np.stack(planes, -1).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()

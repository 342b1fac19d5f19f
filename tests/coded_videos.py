"""Videos whose every frame shows its own number, so that a test sees which frame was taken.

The number is written as bars, black or white, over the whole height but the lowest quarter, least bit first.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

import kinegraph

BITS, WIDTH, HEIGHT = 9, 144, 64
USER_DATA, PICTURE = b"\x00\x00\x01\xb2", b"\x00\x00\x01\xb6"  # start codes of MPEG-4


def drawn(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """[H, W, 3] uint8 that shows a number."""
    bits = (number >> (np.arange(width) * BITS // width)) & 1
    image = np.zeros((height, width, 3), np.uint8)
    image[: 3 * height // 4] = (bits * 230)[None, :, None]
    return image


def read(pixels: np.ndarray) -> int:
    """The number that [H, W, 3] shows."""
    height, width = pixels.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    levels = pixels[height // 8 : height // 2].mean((0, 2))
    return int(sum(1 << bit for bit, x in enumerate(middles) if levels[x - 2 : x + 3].mean() > 115))


def write(
    path: Path,
    num_frames: int = 50,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    *,
    b_frames: int = 0,
    first: int = 0,
    start: Fraction | float = 0,
    clock: Fraction | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    key_every: int = 12,
    sound_seconds: float = 0.0,
    **how: Any,
) -> Path:
    """Frames that show the numbers from `first` on, at `rate`, the first at `start` seconds, perhaps with sound."""
    is_vpx = codec.startswith("libvpx")
    options = {"g": str(key_every)} | ({} if is_vpx else {"bf": str(b_frames)})
    options |= how.pop("options", {"deadline": "realtime", "cpu-used": "8"} if is_vpx else {})
    with av.open(str(path), "w", **how) as out:
        stream: Any = out.add_stream(codec, rate=Fraction(rate), options=options)
        sound: Any = out.add_stream("libopus" if codec == "libvpx" else "aac", rate=48000) if sound_seconds else None
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        clock = clock or 1 / Fraction(rate)
        stream.codec_context.time_base = clock
        heard = 0
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(drawn(first + index, *size), format="rgb24")
            seconds = Fraction(start) + index / Fraction(rate)
            frame.pts, frame.time_base = round(seconds / clock), clock
            out.mux(stream.encode(frame))
            last = index == num_frames - 1
            while sound and heard < 48000 * (sound_seconds if last else min(sound_seconds, index / rate)):
                silence = av.AudioFrame.from_ndarray(np.zeros((2, 960), np.float32), format="fltp", layout="stereo")
                silence.sample_rate, silence.pts, silence.time_base = 48000, heard, Fraction(1, 48000)
                heard += 960
                out.mux(sound.encode(silence))
        out.mux(stream.encode(None))
        if sound:
            out.mux(sound.encode(None))
    return path


def write_packed(path: Path, num_frames: int = 50) -> Path:
    """MPEG-4 as DivX and XviD wrote it into avi: in one packet a P-frame and its B-frame, in the next one a void."""
    packets = _coded(num_frames)
    packed: list[tuple[bytes, bool]] = []
    while packets:
        pts, content, is_key = packets.pop(0)
        if is_key:
            at = content.find(PICTURE)
            content = content[:at] + USER_DATA + b"DivX503b1393p" + content[at:]
        follows = bool(packets) and packets[0][0] < pts
        packed.append((content + packets.pop(0)[1] if follows else content, is_key))
        if follows:
            packed.append((_void(len(packed)), False))
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        for number, (content, is_key) in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), is_key
            packet.pts = packet.dts = number
            out.mux(packet)
    return path


def _coded(num_frames: int) -> list[tuple[int, bytes, bool]]:
    """(pts, content, whether a key frame) in decode order, of MPEG-4 with a B-frame between any two others."""
    with av.open("none", "w", format="null") as sink:
        stream: Any = sink.add_stream("mpeg4", rate=25, options={"bf": "1", "g": "12", "b_strategy": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        packets = []
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        return [(packet.pts, bytes(packet), packet.is_keyframe) for packet in packets]


def _void(tick: int) -> bytes:
    """A P-picture of 25 ticks a second that is not coded."""
    bits = f"0101{tick % 25:05b}100"  # P, the same second, marker, the tick, marker, not coded, and the first 0 to fill
    bits += "1" * (-len(bits) % 8)
    return PICTURE + int(bits, 2).to_bytes(len(bits) // 8, "big")


def cut_by_edit_list(path: Path, start: float, seconds: float) -> Path:
    """Make the edit list of an mp4 begin `start` seconds later and last so long, as cutting without encoding does."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        base = file.streams.video[0].time_base
    assert base is not None
    (movie_ticks,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)
    at = content.index(b"elst") + 12
    (media_time,) = struct.unpack_from(">i", content, at + 4)
    struct.pack_into(">Ii", content, at, round(movie_ticks * seconds), media_time + round(Fraction(start) / base))
    path.write_bytes(content)
    return path


def orient_mp4(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix into an mp4: a point (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *values)
    path.write_bytes(content)
    return path


def copied(path: Path, source: Path) -> Path:
    """The video of another file in another container, not encoded anew."""
    with av.open(str(source)) as file, av.open(str(path), "w") as out:
        video: Any = out.add_stream_from_template(file.streams.video[0])
        for packet in file.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def taken(path: Path, times: Sequence[float] | None = None, **clips: Any) -> list[int]:
    """The numbers of the frames at these times, or of a clip: of 8 frames, uniform, unless `clips` say otherwise."""
    (frames,) = kinegraph.decode(str(path), times=times, clips=None if times is not None else clip_options(**clips))
    assert isinstance(frames, kinegraph.Frames), frames
    assert frames.warning == ""
    return [read(pixels) for pixels in frames.pixels]


def clip_options(**clips: Any) -> dict[str, Any]:
    return {"num_frames": 8, "sampling": "uniform", "crops": ["full"]} | clips


def middles(num_frames: int, rate: float = 25) -> list[float]:
    """The middle of the time for which each frame is shown."""
    return [(number + 0.5) / rate for number in range(num_frames)]

"""What tests share: small videos made with PyAV, and a config on them that needs no weights."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

if TYPE_CHECKING:
    from distributed import LocalCluster

    from tests.s3_server import Server

VideoWriter = Callable[..., Path]
VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"


def moving_square(num_frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """[T, H, W, 3] uint8: a bright square that moves over a smooth ground; frame t has red level t."""
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, height, width, 3), rng.integers(40, 90, 3), np.uint8)
    x0, y0 = rng.integers(0, width // 2), rng.integers(0, height // 2)
    for t, frame in enumerate(frames):
        x = int(x0 + t * width / 4 / num_frames)
        frame[y0 : y0 + height // 4, x : x + width // 4] = rng.integers(150, 255, 3) if t == 0 else frames[0].max()
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = 8,
    codec: str = "mpeg4",
    pts: list[int] | None = None,
    options: dict[str, str] | None = None,
    audio_only: bool = False,
) -> Path:
    """Encode frames [T, H, W, 3]; `pts` in units of 1/fps makes the frame rate variable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        if audio_only:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            sound.rate = 8000
            container.mux([*stream.encode(sound), *stream.encode(None)])
            return path
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = pts[number] if pts else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rotate_mp4(path: Path, degrees_clockwise: int) -> None:
    """Write a rotation into the mp4's track header, as phones do."""
    turn = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees_clockwise]
    a, b, c, d = (value << 16 for value in turn)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix starts 40 bytes into the box
    data[at : at + 36] = struct.pack(">iiiiiiiii", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def six_videos(root: Path) -> Path:
    """Six good videos in two class folders."""
    for number in range(6):
        label = "left" if number % 2 else "right"
        write_video(root / label / f"v{number}.mp4", moving_square(12 + number, 96, 80, seed=number))
    return root


def tiny_stages(cache: Path, videos: Path) -> dict[str, Any]:
    """A config, as a dictionary, that runs all stages on `videos` with tiny random networks, 2 clips a shard."""
    return {
        "cache": str(cache),
        "dataset": {"kind": "folder", "root": str(videos)},
        "clips": {"num_frames": 8, "sampling": "uniform", "crops": ["center"]},
        "backbones": {
            "tiny": {
                "model": "tiny_i3d",
                "weights": "random:0",
                "taps": ["res4"],
                "size": 64,
                "store": ["maps", "pooled"],
                "precision": "fp32",
            }
        },
        "proposals": {"source": "tiny", "weights": "random:0", "every": 2, "top": 4},
        "regions": {"backbones": ["tiny"]},
        "store": {"shard_clips": 2},
        "run": {"threads": 1, "batch_size": 2},
    }


@pytest.fixture
def video_folder(tmp_path: Path) -> Path:
    return six_videos(tmp_path / "videos")


@pytest.fixture
def tiny_document(tmp_path: Path, video_folder: Path) -> dict[str, Any]:
    return tiny_stages(tmp_path / "cache", video_folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator["Server"]:
    from tests.s3_server import running

    with running() as server:
        yield server


@pytest.fixture
def s3(s3_server: "Server", monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket on a server of our own, also for processes that a test starts."""
    from tests.s3_server import used

    with used(s3_server, monkeypatch) as bucket:
        yield bucket


@pytest.fixture(scope="session")
def dask_cluster() -> Iterator["LocalCluster"]:
    """Two worker processes of this machine."""
    from tests.dask_cluster import running

    with running(workers=2) as cluster:
        yield cluster

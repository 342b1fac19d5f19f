"""What tests share: small videos made with PyAV, a config on them that needs no weights, and a fresh machine's PATH."""

import gc
import os
import shutil
import signal
import struct
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from tests import fresh_machine, warm_processes

if TYPE_CHECKING:
    from distributed import LocalCluster

    from tests.command_server import Run
    from tests.s3_server import Server

VideoWriter = Callable[..., Path]
SHARED = Path(__file__).resolve().parents[2] / "shared"
VIDEOS = SHARED / "videos"
# Markers of tests that run only with `-m`, as `make test-<marker>` does; `make gpu` does for gpu.
OWN_TARGETS = ("browser", "faults", "gpu", "install", "notebook", "parity", "slurm")
# What CI may skip, besides tests of the folder SHARED: it cannot install these.
ALLOWED_SKIPS = (
    "no GPU",
    "mounting a file system is not allowed here",
    "other users cannot read the Python of this machine",
)
ORDER = ("faults", "end_to_end", "pipeline", "cli", "cache_schemas", "stages")  # folders; other files come first
MACHINE_PATH, FRESH_PATH = pytest.StashKey[str](), pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Give this process the environment of a fresh machine; workers of pytest-xdist inherit it."""
    gc.disable()  # until all is imported and collected, which is no garbage; passes over it take seconds
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a job in a shell's background; what tests start would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python's readline, which pytest imports, sets these behind the back of os.environ.
    for name in ("COLUMNS", "LINES"):
        os.unsetenv(name)
        os.environ.pop(name, None)
    if hasattr(config, "workerinput"):
        machine_path = config.workerinput["machine_path"]
    else:
        machine, folder = dict(os.environ), Path(tempfile.mkdtemp(prefix="kinegraph-tests-"))
        machine_path = machine.get("PATH", os.defpath)
        config.add_cleanup(lambda: shutil.rmtree(folder))
        config.add_cleanup(lambda: fresh_machine.replace_environment(machine))
        fresh_machine.replace_environment(fresh_machine.environment(folder, machine))
    warm_processes.install()
    config.stash[MACHINE_PATH], config.stash[FRESH_PATH] = machine_path, os.environ["PATH"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Returns two processes more than there are cores, up to 4: tests wait for processes, timers and disks."""
    return min(4, len(os.sched_getaffinity(0)) + 2)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist the PATH of the machine."""
    node.workerinput["machine_path"] = node.config.stash[MACHINE_PATH]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of OWN_TARGETS that `-m` does not name."""
    unwanted = [marker for marker in OWN_TARGETS if marker not in config.getoption("markexpr")]
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    # Files of few but slow tests come first, the many quick ones of stages/ last, so that no process ends long after
    # the others. pytest-xdist by itself begins with the files of most tests.
    folders = {item: [*item.nodeid.split("/"), ""][1] for item in items}
    items.sort(key=lambda item: ORDER.index(folders[item]) if folders[item] in ORDER else -1)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_report_header() -> str:
    return f"left out unless -m names them: tests marked {', '.join(OWN_TARGETS)} (make test-<marker>, make gpu)"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: the PATH that the test sees; a test of the folder SHARED is skipped where there is none."""
    sees_machine = any(item.get_closest_marker(marker) for marker in fresh_machine.MACHINE_MARKERS)
    os.environ["PATH"] = item.config.stash[MACHINE_PATH if sees_machine else FRESH_PATH]
    if _lacks_shared(item):
        pytest.skip(f"there is no folder {SHARED}, which is not part of the repository")


def _lacks_shared(item: pytest.Item) -> bool:
    return item.get_closest_marker("shared") is not None and not SHARED.is_dir()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail") and not _lacks_shared(item):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI, make a failure of a skip that is not among ALLOWED_SKIPS."""
    if not report.skipped or os.environ.get("CI") != "true":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"CI skips nothing that it could run. {reason}. Install what is missing (.ci/run)."


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
            track = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            sound.rate = 8000
            container.mux([*track.encode(sound), *track.encode(None)])
            return path
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
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


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator["LocalCluster"]:
    """Two worker processes of this machine. Idle ones compute a little all the time, so they end with the module."""
    from tests.dask_cluster import running

    with running(workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def run() -> Iterator["Run"]:
    """Run a kinegraph command in a process of its own, forked from one that has loaded torch."""
    from tests.command_server import running

    with running() as run:
        yield run

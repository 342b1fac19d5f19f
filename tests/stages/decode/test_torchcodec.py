"""torchcodec on the CPU gives the frames that PyAV gives, and leaves to PyAV what it may decode otherwise."""

import itertools
import shutil
import struct
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.stage import clips_options
from kinegraph.stages.decode import torchcodec_check, torchcodec_video
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.decode.torchcodec_check import MAX_MEAN_LEVELS, require_decoder
from kinegraph.stages.decode.torchcodec_video import LeftToPyAVError, TorchcodecVideo
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from kinegraph.stages.errors import UsageError
from tests.coded_videos import HEIGHT, WIDTH, cut_by_edit_list, drawn, read, write
from tests.conftest import VIDEOS, rotate_mp4, write_video
from tests.stages.decode.conftest import clip_row

NUM_FRAMES = 150  # 6 s at 25 a second
BY_PYAV = Wanted(num_frames=6, whole=WholeFrame(network_size=lambda height, width: (height, width), every=1))
BY_TORCHCODEC = BY_PYAV.__class__(**vars(BY_PYAV) | {"torchcodec_device": "cpu"})
OPEN_GROUPS = {"b_frames": 3, "options": {"x264-params": "open-gop=1:b-adapt=0:bframes=3:scenecut=0:keyint=30"}}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=30:bframes=3"}
Results = list[DecodedClip | DecodeError]
Left = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _has_ffmpeg() -> None:
    try:
        torchcodec_video.decoders()
    except UsageError as error:
        pytest.skip(f"torchcodec cannot be used: {error}")


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    """Why PyAV decoded videos in place of torchcodec, since it was asked last."""
    reasons: list[str] = []
    monkeypatch.setattr(LeftToPyAVError, "log_once", lambda error: reasons.append(error._reason))

    def since() -> list[str]:
        found = reasons.copy()
        reasons.clear()
        return found

    return since


def rows_at(path: Path, starts: tuple[float, ...] = (0.2, 3.53, 5.6), step: float = 0.04, **values: Any) -> list[Any]:
    size = {"frame_width": WIDTH, "frame_height": HEIGHT} | values
    return [clip_row(path, tuple(s + step * n for n in range(6)), clip=n, **size) for n, s in enumerate(starts)]


def both(path: Path, rows: list[Any], timeout: float = 60.0) -> tuple[Results, Results]:
    """By torchcodec and by PyAV."""
    return decode_clips(str(path), rows, BY_TORCHCODEC, timeout), decode_clips(str(path), rows, BY_PYAV, timeout)


def assert_same(found: Results, expected: Results) -> None:
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, DecodeError) or isinstance(b, DecodeError):
            assert str(a) == str(b)
            continue
        assert a.warning == b.warning
        for name in ("frame_times", "frame_numbers", "coded_numbers"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert mean_levels(a.whole, b.whole) <= MAX_MEAN_LEVELS


def mean_levels(a: Any, b: Any) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


def write_variable(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"g": "20", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        tick = 0
        for number in range(75):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            tick += 1 + number % 3
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "B-frames": ("v.mp4", {"key_every": 30, "b_frames": 3}),
    "open groups": ("v.mp4", OPEN_GROUPS),
    "refreshes in place of key frames": ("v.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=30:scenecut=0"}}),
    "hevc": ("v.mp4", {"codec": "libx265", "options": X265}),
    "vp9": ("v.webm", {"codec": "libvpx-vp9", "key_every": 30, "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "av1": ("v.mkv", {"codec": "libsvtav1", "key_every": 30, "options": {"preset": "12"}}),
    "sound": ("v.mp4", {"key_every": 30, "b_frames": 2, "sound_seconds": 6.0}),
    "late start": ("v.mkv", {"key_every": 30, "b_frames": 2, "start": 3.3}),
    "29.97": ("v.mkv", {"key_every": 30, "b_frames": 2, "rate": Fraction(30000, 1001)}),
    "fragments": ("v.mp4", {"key_every": 30, "container_options": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.mark.parametrize("case", MADE)
def test_the_same_frames(case: str, tmp_path: Path, left: Left) -> None:
    name, how = MADE[case]
    path = write(tmp_path / name, NUM_FRAMES, **how)
    found, expected = both(path, rows_at(path))
    assert not left(), "torchcodec decoded it"
    assert_same(found, expected)
    assert all(isinstance(clip, DecodedClip) for clip in found[:2])


def test_variable_rates_and_edit_lists(tmp_path: Path, left: Left) -> None:
    for name in ("v.mp4", "v.mkv"):
        path = write_variable(tmp_path / name)
        assert_same(*both(path, rows_at(path, step=0.07)))
        assert not left()
    made = write(tmp_path / "whole.mp4", NUM_FRAMES, key_every=25, b_frames=2)
    for begin in (1.0, 1.5):  # at a key frame, and between two
        path = cut_by_edit_list(Path(shutil.copy(made, tmp_path / f"{begin}.mp4")), begin, 4.0)
        found, expected = both(path, rows_at(path, (0.0, 2.5)))
        assert_same(found, expected)
        assert isinstance(found[0], DecodedClip)
        assert found[0].whole is not None
        assert read(found[0].whole[0]) == int(begin * 25 + 0.5)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(degrees: int, tmp_path: Path, left: Left) -> None:
    path = write(tmp_path / "v.mp4", 30)
    rotate_mp4(path, degrees)
    size = (WIDTH, HEIGHT) if degrees == 180 else (HEIGHT, WIDTH)
    assert_same(*both(path, rows_at(path, (0.2,), frame_width=size[0], frame_height=size[1])))
    assert not left()


def test_what_is_left_to_pyav(tmp_path: Path, left: Left) -> None:
    """Containers without presentation times, other pixels, odd sides, mirrors: decoded as ever."""
    fast = {"deadline": "realtime", "cpu-used": "8"}
    mirrored = write(tmp_path / "mirrored.mp4", 30)
    content = bytearray(mirrored.read_bytes())
    struct.pack_into(">i", content, content.index(b"tkhd") + 44, -1 << 16)
    mirrored.write_bytes(content)
    for path in (
        write(tmp_path / "v.avi", 30, codec="mpeg4"),
        write(tmp_path / "odd.webm", 30, codec="libvpx-vp9", size=(WIDTH - 1, HEIGHT - 1), options=fast),
        mirrored,
    ):
        with open_video(str(path)) as video:
            width, height = video.size(next(video.frames()).frame)
        found, expected = both(path, rows_at(path, (0.2,), frame_width=width, frame_height=height))
        assert left() == ["torchcodec may show other pictures of such a file (docs/gpu.md)"], path.name
        assert_same(found, expected)
        assert isinstance(found[0], DecodedClip)


@pytest.mark.shared
def test_real_videos(left: Left) -> None:
    """Every frame has the same time, and every tenth the same pixels."""
    num_by_torchcodec = 0
    for path in sorted(VIDEOS.glob("*.*")):
        if path.suffix not in (".mp4", ".avi"):
            continue
        with open_video(str(path)) as video:
            try:
                other = TorchcodecVideo(str(path), "cpu")
            except LeftToPyAVError:
                continue
            times = [shown.seconds for shown in other.frames()]
            for number, shown in enumerate(video.frames()):
                assert shown.seconds == times[number], path.name
                if number % 10 == 0:
                    assert mean_levels(other.rgb(number), video.rgb(shown.frame)) <= MAX_MEAN_LEVELS, path.name
        assert len(times) == number + 1
        num_by_torchcodec += 1
    assert num_by_torchcodec >= 9


def test_faults_are_those_of_pyav(tmp_path: Path, left: Left) -> None:
    good = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30, container_options={"movflags": "faststart"})
    assert_same(*both(good, rows_at(good), timeout=-1.0))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    sound = write_video(tmp_path / "sound.mp4", np.zeros((1, 16, 16, 3), np.uint8), audio_only=True)
    reasons = []
    for path in (good, cut, empty, sound, tmp_path / "absent.mp4"):
        found, expected = both(path, rows_at(path, (0.2, 5.6)), timeout=-1.0 if path is good else 60.0)
        assert_same(found, expected)
        reasons.append([clip.reason if isinstance(clip, DecodeError) else "" for clip in found])
    assert reasons == [
        ["timeout"] * 2, ["", "truncated"], ["unreadable"] * 2, ["no_video_stream"] * 2, ["missing"] * 2,
    ]  # fmt: skip


def test_the_table_of_frames_is_read_within_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose packets arrive slowly fails with `timeout`. A later attempt with more time reads its table anew."""
    path, seconds = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30), itertools.count(1)
    soon = time.monotonic() + 1e6  # after the first frame, each packet takes a second
    monkeypatch.setattr(torchcodec_video, "monotonic", lambda: soon + next(seconds))
    with pytest.raises(DecodeError, match=r"timeout: the table of its frames had 20 frames when the time for the"):
        TorchcodecVideo(str(path), "cpu", soon + 20.5)
    assert len([*TorchcodecVideo(str(path), "cpu", soon + 1e4).frames()]) == NUM_FRAMES


def test_a_packet_that_is_cut_is_left_to_pyav(tmp_path: Path, left: Left) -> None:
    """FFmpeg marks a packet as corrupt if its end is missing."""
    whole = write(tmp_path / "whole.mp4", 30, key_every=10, container_options={"movflags": "faststart"})
    path = tmp_path / "v.mp4"
    path.write_bytes(whole.read_bytes()[:-4])
    with open_video(str(path)) as video:
        assert [packet.is_corrupt for packet in video.later_packets()] == [False] * 29 + [True]
    found, expected = both(path, rows_at(path, (0.2, 0.9)))
    assert left() == ["torchcodec may show other pictures of such a file (docs/gpu.md)"]
    assert_same(found, expected)


def test_a_wrong_index_and_a_replaced_file(tmp_path: Path, left: Left) -> None:
    path = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30)
    content = bytearray(path.read_bytes())
    at = content.index(b"stss") + 4
    (count,) = struct.unpack_from(">I", content, at + 4)
    for number in range(1, count):  # the table of key frames names the frames behind them
        (sample,) = struct.unpack_from(">I", content, at + 8 + 4 * number)
        struct.pack_into(">I", content, at + 8 + 4 * number, sample + 7)
    path.write_bytes(content)
    assert_same(*both(path, rows_at(path)))
    left()
    shutil.copy(write(tmp_path / "other.mp4", NUM_FRAMES, key_every=10, rate=30), path)
    assert_same(*both(path, rows_at(path, (0.2, 2.0))))
    assert not left()


class _Wrong:
    """A decoder that goes wrong at the fourth frame, as `how` says."""

    how = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._decoder = REAL(*args, **options)

    def get_frame_at(self, number: int) -> Any:
        frame = self._decoder.get_frame_at(number)
        if number < 8:
            return frame
        if self.how == "raises":
            raise RuntimeError("Could not push packet to decoder: Invalid data\nmore lines")
        if self.how == "other frame":
            return self._decoder.get_frame_at(number - 1)
        return SimpleNamespace(data=frame.data[::2], pts_seconds=frame.pts_seconds)


REAL: Any = None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "torchcodec cannot decode it: frame 8: Could not push packet to decoder: Invalid data. Other"),
        ("other frame", "torchcodec returned another frame: not frame 8. Other"),
        ("other size", "its frame size changes: at frame 8. Other"),
    ],
)
def test_pyav_decodes_where_torchcodec_goes_wrong(
    how: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "v.mp4", 30)
    monkeypatch.setattr(sys.modules[__name__], "REAL", torchcodec_video.decoders().VideoDecoder)
    monkeypatch.setattr(torchcodec_video, "decoders", lambda: SimpleNamespace(VideoDecoder=_Wrong))
    monkeypatch.setattr(torchcodec_video, "_logged", set())
    monkeypatch.setattr(_Wrong, "how", how)
    for _ in range(2):
        assert_same(*both(path, rows_at(path, (0.2,))))
    (told,) = caplog.messages
    assert told.startswith(f"PyAV decodes {path}, because {message}")


def test_a_gpu_is_asked_for_in_a_stream_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it can be executed without a GPU: the same calls, with another device."""
    path, calls = write(tmp_path / "v.mp4", 30), list[str]()
    real = torchcodec_video.decoders().VideoDecoder

    def on_gpu(*args: Any, device: str, **options: Any) -> Any:
        calls.append(f"open on {device}")
        return real(*args, device="cpu", **options)

    class Stream(nullcontext[None]):
        def __enter__(self) -> None:
            calls.append("in a stream")

    monkeypatch.setattr(torchcodec_video, "decoders", lambda: SimpleNamespace(VideoDecoder=on_gpu))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: calls.append(f"stream of {device}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: Stream())
    wanted = BY_PYAV.__class__(**vars(BY_TORCHCODEC) | {"torchcodec_device": "cuda"}).on_device("cuda:1")
    rows = rows_at(path, (0.2,))
    assert_same(decode_clips(str(path), rows, wanted, 60.0), decode_clips(str(path), rows, BY_PYAV, 60.0))
    torchcodec_video._stream_of.cache_clear()
    assert calls == ["stream of cuda:1", "open on cuda:1"] + ["in a stream"] * 6
    assert BY_TORCHCODEC.on_device("cuda:1") == BY_TORCHCODEC


def test_the_decoder_is_tried_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    require_decoder("pyav", None, cpu)
    require_decoder("torchcodec", "cpu", cpu)
    with pytest.raises(UsageError, match=r"'torchcodec_cuda', which needs a GPU, but run.device is cpu here"):
        require_decoder("torchcodec_cuda", "cuda", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"cannot decode on cuda:0: .*; torchcodec must be built with CUDA"):
            require_decoder("torchcodec_cuda", "cuda", cuda)
    real = torchcodec_video.decoders().VideoDecoder

    def brighter(*args: Any, **options: Any) -> Any:
        decoder = real(*args, **options)
        return SimpleNamespace(get_frame_at=lambda number: SimpleNamespace(data=decoder.get_frame_at(number).data // 2))

    monkeypatch.setattr(torchcodec_check, "decoders", lambda: SimpleNamespace(VideoDecoder=brighter))
    with pytest.raises(UsageError, match=r"on cpu differ from PyAV's by \d+\.\d levels of 255 on average; allowed: 2"):
        require_decoder("torchcodec", "cpu", cpu)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UsageError, match=r"torchcodec is not installed. Run pip install 'kinegraph\[torchcodec\]'"):
        require_decoder("torchcodec", "cpu", torch.device("cpu"))

    def fails(name: str) -> ModuleType:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n  1. FFmpeg is not properly installed")

    monkeypatch.setattr(torchcodec_video, "import_module", fails)
    with pytest.raises(
        UsageError, match=r"needs the shared libraries of FFmpeg \(Debian's package ffmpeg.*: Could not"
    ):
        require_decoder("torchcodec", "cpu", torch.device("cpu"))


def test_the_decoder_is_part_of_the_fingerprint_unless_it_is_pyav() -> None:
    assert "decoder" not in clips_options(ClipOptions())
    recorded = clips_options(ClipOptions(decoder="torchcodec"))
    assert recorded == clips_options(ClipOptions()) | {"decoder": "torchcodec"}

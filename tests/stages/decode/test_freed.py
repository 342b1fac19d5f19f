"""Decoders and frames are freed when a video is closed: they are large, and Python's garbage collector sees it late."""

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import OpenVideo
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from tests.coded_videos import HEIGHT, WIDTH, write
from tests.stages.decode.conftest import clip_row

LARGE = OpenVideo, VideoCodecContext, VideoFrame
WANTED = Wanted(num_frames=2, whole=WholeFrame(network_size=lambda height, width: (height, width), every=1))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("videos") / "v.mkv", 450, key_every=30).read_bytes()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[type]:
    return Counter(type(item) for item in gc.get_objects() if isinstance(item, LARGE))


@pytest.mark.parametrize("limit_seconds", [1e9, 0.0], ids=["read", "too late"])
@pytest.mark.parametrize("share", [1.0, 0.7], ids=["whole", "truncated"])
def test_nothing_large_stays(
    no_collector: None, content: bytes, tmp_path: Path, share: float, limit_seconds: float
) -> None:
    path = tmp_path / "v.mkv"
    path.write_bytes(content[: round(share * len(content))])
    before = alive()
    starts = 0.0, 12.0, 17.0  # skips: a seeker belongs to the video
    rows = [clip_row(path, (at, at + 0.2), frame_width=WIDTH, frame_height=HEIGHT) for at in starts]
    outcomes = decode_clips(str(path), rows, WANTED, limit_seconds)
    assert {type(outcome) for outcome in outcomes} >= {DecodedClip if limit_seconds else DecodeError}
    assert isinstance(outcomes[-1], DecodedClip) == (share == 1.0 and limit_seconds > 0)
    del outcomes
    assert alive() == before

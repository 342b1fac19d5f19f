"""All frames of the shared sample videos at their native times, against digests that another reader made."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame

from kinegraph.stages.decode.stream import open_video
from tests.conftest import VIDEOS
from tests.stages.decode.independent_digests import DIGESTS

FOUND: dict[str, dict[str, Any]] = json.loads(DIGESTS.read_text())


def planes_md5(frame: VideoFrame) -> str:
    """The md5 of the frame's planes without padding."""
    digest = hashlib.md5()
    sample_bytes = 2 if "10" in frame.format.name else 1
    for plane in frame.planes:
        lines = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
        digest.update(lines[:, : plane.width * sample_bytes].tobytes())
    return digest.hexdigest()


@pytest.mark.shared
@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real videos in {VIDEOS}")
@pytest.mark.parametrize("name", sorted(FOUND))
def test_frames_and_times_are_those_of_an_independent_reader(name: str) -> None:
    expected = FOUND[name]
    with open_video(str(VIDEOS / name)) as video:
        shown = [(frame.seconds, planes_md5(frame.frame)) for frame in video.frames()]
        assert video.complaints == ""
    assert len(shown) == expected["frames"]
    assert hashlib.md5("\n".join(md5 for _, md5 in shown).encode()).hexdigest() == expected["planes_md5"]
    steps = [step for step, times in expected["steps"] for _ in range(times)]
    times = np.cumsum([0, *steps]) * float(Fraction(str(expected["tick_seconds"])))
    np.testing.assert_allclose([seconds for seconds, _ in shown], times, atol=1e-9)


@pytest.mark.shared
@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real videos in {VIDEOS}")
def test_every_shared_video_is_compared() -> None:
    assert {path.name for path in Path(VIDEOS).glob("*.*")} == FOUND.keys()

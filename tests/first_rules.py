"""Caches as an earlier kinegraph made them, by the rules of `clips` version 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest

import kinegraph.pipeline.extraction.feed
import kinegraph.stages.clips.stage
import kinegraph.stages.remote.staging
from kinegraph.stages.decode.probing import probe
from tests.coded_videos import write


@contextmanager
def first_rules() -> Iterator[None]:
    """In this process, `index` and `extract` are those of version 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinegraph.stages.clips.stage, "LATEST_RULES", 1)
        patch.setattr(kinegraph.pipeline.extraction.feed, "LATEST_RULES", 1)
        patch.setattr(kinegraph.stages.remote.staging, "probe", partial(probe, rules=1))
        yield


def of_each_kind(root: Path) -> Path:
    """Six videos, in shards of two: alike under all rules; one with other times, one that is shorter; other frames."""
    (root / "left").mkdir(parents=True)
    (root / "right").mkdir()
    write(root / "left" / "a.mp4", 20)
    write(root / "left" / "b.avi", 20, codec="mpeg4")
    write(root / "left" / "c.m2v", 20, codec="mpeg2video", format="mpeg2video")
    write(root / "left" / "d.mkv", 20, start=0.002, clock=Fraction(1, 1000))
    write(root / "left" / "e.avi", 50, b_frames=2)
    write(root / "right" / "f.mp4", 20)
    return root

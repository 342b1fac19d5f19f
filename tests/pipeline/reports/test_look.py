"""Numbers and figures of a cache, against values that are planted or counted by hand."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kinegraph
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports import frames
from kinegraph.pipeline.reports.clip_strips import box_path, most_similar
from kinegraph.pipeline.reports.frames import FrameFinder, FramesMissingError
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.samples import _Sums
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.strips import Strip

FEATURES, REGIONS = "features/tiny/res4_pooled", "regions/tiny/res4"


@pytest.fixture(scope="module")
def look(hostile: Cache) -> Look:
    return kinegraph.look(hostile.root)


def test_counts_are_those_of_the_ledger(look: Look) -> None:
    picture = look.coverage()
    assert isinstance(picture, Picture)
    assert picture.data["ok"].tolist() == [5] * 4
    assert picture.data["failed"].tolist() == [1] * 4
    assert look.numbers.num_videos == look.numbers.num_rows == 6
    assert look.classes().data["train"].sum() == 6
    sizes = look.disk().data
    on_disk = sum(path.stat().st_size for path in Path(look.cache.root, "data.zarr").rglob("c.*"))
    assert sizes["value"].sum() == on_disk
    assert look.numbers.seconds["rest"] == 4 * 3 * 0.5  # four stages in units of their own, three shards


def test_norms_are_those_of_the_array(look: Look) -> None:
    clips = kinegraph.CachedClips(look.cache, [FEATURES])
    values = clips.read_rows(FEATURES, clips.rows)
    summary = look.vectors(FEATURES)
    assert np.sort(summary.norms) == pytest.approx(np.sort(np.linalg.norm(values, axis=-1).ravel()), rel=1e-5)
    assert summary.mean == pytest.approx(values.mean((0, 1)), abs=1e-5)
    assert summary.std == pytest.approx(values.std((0, 1)), abs=1e-5)
    assert summary.num_usable == 5
    assert "The median is" in look.norms(FEATURES).description
    with pytest.raises(NothingToShowError, match="it has features/tiny/res4"):
        look.norms("features/other")


def test_planted_dead_channel_zeros_nan_and_drift() -> None:
    spec = ArraySpec(
        name="features/a/b_pooled",
        stage="features/a",
        shape=(2, 3),
        dtype="float32",
        dims=("frame", "c"),
        fill=0,
        about="",
    )
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((80, 2, 1, 3))
    vectors[..., 1] = 0
    vectors[40:, ..., 2] += 5
    vectors[3, 0, 0, 0] = np.nan
    sums = _Sums(spec, 3)
    for first in (0, 40):
        sums.add(vectors[first : first + 40], np.full(40, first // 40))
    summary = sums.summary(spec.name, np.arange(80), 80)
    assert summary.dead.tolist() == [1]
    assert summary.num_not_finite == 1
    assert summary.zero_share == pytest.approx(1 / 3)
    drift = summary.drift(0, 1)
    assert drift[2] > 1.5
    assert drift[:2].max() < 0.5
    assert np.isnan(summary.split_means[2]).all()


def test_boxes_are_summed_up(look: Look) -> None:
    rows = look.samples.rows("proposals/boxes")
    counts = look.samples.read("proposals/count", rows)
    assert look.boxes_a_frame().data["frames"].sum() == counts.size
    assert look.boxes.centres.sum() == counts.sum()
    assert ((look.boxes.covered >= 0) & (look.boxes.covered <= 1)).all()
    assert ((look.boxes.overlaps >= 0) & (look.boxes.overlaps <= 1 + 1e-6)).all()


def test_a_planted_neighbour_is_found(look: Look) -> None:
    """The most similar region to a region is itself, if its clip is among the clips."""
    rows = look.samples.rows(REGIONS)
    own = look.samples.vectors(REGIONS, rows[2:3])[0]
    places, cosines = most_similar(look.samples, REGIONS, own[1, 0], rows)
    assert places[0] == (int(rows[2]), 1, 0)
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert cosines == sorted(cosines, reverse=True)
    strip = look.neighbours(int(rows[0]), 0, 0, count=3)
    assert isinstance(strip, Strip)
    assert len(strip.frames) == 4
    assert strip.data["cosine"][0] == 1
    with pytest.raises(NothingToShowError, match="no region for box 99"):
        look.neighbours(int(rows[0]), 0, 99)


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (lambda look: look.strip(6), "There is no row 6: .* has 6, counted from 0"),
        (lambda look: look.strip(-1), "There is no row -1"),
        (lambda look: look.strip(1, boxes=-1), "given boxes -1"),
        (lambda look: look.strip(1, frames=0), "frames 0, expected 0 or more, and 1 or more"),
        (lambda look: look.strip(1, boxes=2, path=2), "given path 2, expected one of the 2 boxes"),
        (lambda look: look.neighbours(6, 0, 0), "There is no row 6"),
        (lambda look: look.neighbours(1, -1, 0), "no region for box 0 at time step -1"),
        (lambda look: look.neighbours(1, 0, -1), "no region for box -1"),
        (lambda look: look.neighbours(1, 0, 0, array=FEATURES), "is no array of regions of the cache. It has regions"),
    ],
)
def test_places_that_do_not_exist(look: Look, figure: Callable[[Look], Strip], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        figure(look)


def test_a_strip_has_the_frames_and_boxes_of_the_clip(look: Look) -> None:
    row = int(np.flatnonzero(look.numbers.usable)[0])
    strip = look.strip(row, boxes=2, path=0)
    times = look.samples.read("clips/frame_times", np.array([row]))[0]
    assert strip.data["seconds"] == pytest.approx(times[::2], abs=1 / 8)  # boxes are of every second frame
    boxes = look.samples.read("proposals/boxes", np.array([row]))[0]
    assert strip.frames[1].boxes.tolist() == boxes[1, :2].tolist()
    assert (strip.frames[0].width, strip.frames[0].height) == (96, 80)
    assert strip._repr_svg_().count("data:image/webp") == 4


def test_a_strip_names_the_classes_of_boxes(labelled: Cache) -> None:
    strip = Look(labelled).strip(0)
    assert {tuple(frame.classes) for frame in strip.frames} == {("cup", "<b>dog")}
    drawn = strip.svg()
    assert drawn.count(">cup</text>") == drawn.count(">&lt;b&gt;dog</text>") == len(strip.frames)


def test_a_changed_video_has_frames_without_boxes(look: Look, tmp_path: Path) -> None:
    row = int(np.flatnonzero(look.numbers.usable)[0])
    path = Path(look.cache.rows(row // 2)[row % 2].path)
    copy = tmp_path / path.parent.name / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes() + b"more")
    other = kinegraph.look(look.cache, videos=tmp_path)
    strip = other.strip(row)
    assert "has changed since the cache was made" in strip.description
    assert not any(len(frame.boxes) for frame in strip.frames)


def test_frames_are_found_by_the_rules_of_the_cache(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def refused(path: str, rows: object, wanted: object, seconds: float, rules: int) -> list[DecodeError]:
        found.append(rules)
        return [DecodeError("unreadable", "not decoded in this test")]

    monkeypatch.setattr(frames, "decode_clips", refused)
    monkeypatch.setattr(frames, "rules_of", lambda cache: 1)
    with pytest.raises(FramesMissingError, match="not decoded in this test"):
        look.strip(int(np.flatnonzero(look.numbers.usable)[0]))
    assert found == [1]


def test_frames_that_cannot_be_shown_say_why(look: Look, tmp_path: Path) -> None:
    row = int(np.flatnonzero(look.numbers.usable)[0])
    with pytest.raises(FramesMissingError, match="the time for frames is up"):
        FrameFinder(look.cache, seconds=0).clip(row, 1, 2)
    shutil.copytree(look.cache.root, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    rows = [replace(each, path="s3://bucket/a.mp4") for each in cache.clips.rows()]
    type(cache.clips).from_rows(rows).write(cache.storage)
    with pytest.raises(FramesMissingError, match="is at a URL, and no video is fetched"):
        kinegraph.look(tmp_path / "cache").strip(row)


def test_a_path_follows_overlaps_and_stops() -> None:
    still, away = np.array([[0, 0, 4, 4], [20, 20, 24, 24.0]]), np.array([[100, 100, 104, 104.0]])
    moved = still[::-1] + 1
    assert box_path([still, moved, away], 0) == [(2, 2), (3, 3)]
    assert box_path([still[:0]], 0) == []

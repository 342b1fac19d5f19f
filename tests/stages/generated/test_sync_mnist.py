"""The generator of SyncMNIST against what the paper and its released code say."""

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.options import SyncMnistOptions
from kinegraph.stages.errors import UsageError
from kinegraph.stages.generated.digits import DigitImages
from kinegraph.stages.generated.sync_mnist import (
    LAST_CORNER,
    NUM_FRAMES,
    SyncMnist,
    choose_digits,
    classes,
    constant,
    draw_digits,
    generate,
    pair_label,
    walk,
)

MOTIONS = [walk, constant]
SMALL = {"multiplier": 1, "val_images": 60, "num_digits": 3}


def options(root: Path | str = "unused", **changes: Any) -> SyncMnistOptions:
    return SyncMnistOptions(kind="sync_mnist", root=str(root), **changes)


@pytest.fixture
def ten_digits() -> DigitImages:
    """One picture of each value, all ink."""
    return DigitImages(images=np.full((10, 28, 28), 255, np.uint8), values=np.arange(10, dtype=np.uint8))


def test_labels_number_the_pairs() -> None:
    assert [pair_label(1, 0), pair_label(0, 2), pair_label(2, 1), pair_label(3, 0), pair_label(8, 9)] == [
        0,
        1,
        2,
        3,
        44,
    ]
    assert sorted(pair_label(i, j) for i, j in combinations(range(10), 2)) == [*range(45)]
    assert classes(10)[pair_label(4, 7)] == "7-4"
    assert classes(10).index("none") == 45
    assert classes(4) == ("1-0", "2-0", "2-1", "3-0", "3-1", "3-2", "none")


def test_values_differ_and_one_in_92_has_no_pair(ten_digits: DigitImages) -> None:
    rng = np.random.default_rng(0)
    casts = [choose_digits(rng, ten_digits, index % 10, 5) for index in range(20_000)]
    assert all(len({*roles.values}) == 5 and roles.values == roles.image_indices for roles in casts)
    assert [roles.values[0] for roles in casts[:10]] == [*range(10)]
    alone = np.mean([roles.label(10) == 45 for roles in casts])
    assert alone == pytest.approx(1 / 92, abs=4 * (1 / 92 / 20_000) ** 0.5)
    pairs = np.bincount([roles.label(10) for roles in casts if roles.in_step], minlength=45)
    assert pairs.min() > 0.75 * pairs.mean()
    assert all(roles.label(10) == pair_label(*roles.values[:2]) for roles in casts if roles.in_step)


def test_fewer_values_make_fewer_classes() -> None:
    data_set = SyncMnist(options=options(num_digits=3, digit_values=4))
    videos = [data_set._listed("train", index) for index in range(400)]
    assert {video.label for video in videos} == {*classes(4)}
    clips = [data_set.sample("train", index) for index in range(100)]
    assert {value for clip in clips for value in clip.digits} == {0, 1, 2, 3}
    assert all(classes(4)[clip.label] == video.label for clip, video in zip(clips, videos, strict=False))
    assert data_set.num_videos("test") == (data_set.images("test").values < 4).sum()


def test_a_video_cannot_have_more_digits_than_values() -> None:
    with pytest.raises(ValueError, match=r"num_digits: given 5, allowed: at most 4, the dataset\.digit_values"):
        options(num_digits=5, digit_values=4)


@pytest.mark.parametrize("tracks", MOTIONS)
def test_the_pair_moves_in_step_and_all_stay_inside(tracks: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        corners = tracks(rng, 5, True)
        assert corners.shape == (NUM_FRAMES, 5, 2)
        assert corners.min() >= 0
        assert corners.max() <= LAST_CORNER
        steps = np.diff(corners, axis=0)
        assert (steps[:, 0] == steps[:, 1]).all()


@pytest.mark.parametrize(("tracks", "low", "high"), [(walk, -10, 9), (constant, -5, 5)])
def test_others_move_on_their_own_with_the_steps_of_the_variant(tracks: Any, low: int, high: int) -> None:
    rng = np.random.default_rng(2)
    steps = np.stack([np.diff(tracks(rng, 3, False), axis=0) for _ in range(1000)])  # [1000, T - 1, 3, 2]
    assert (steps.min(), steps.max()) == (low, high)
    assert (steps[:, :, 0] == steps[:, :, 1]).all((1, 2)).mean() < 0.02
    is_steady = (steps == steps[:, :1]).all()
    assert is_steady == (tracks is constant)


def test_constant_velocities_say_nothing_of_a_pair_and_digits_keep_apart() -> None:
    rng = np.random.default_rng(6)
    corners = np.stack([constant(rng, 3, True) for _ in range(3000)])  # [3000, T, 3, 2]
    speeds = np.abs(corners[:, 1] - corners[:, 0]).mean((0, 2))
    assert speeds == pytest.approx(30 / 11, abs=0.1)  # the mean of |-5..5|, of each digit
    others = np.linalg.norm(corners[:, :, [0, 0, 1]] - corners[:, :, [1, 2, 2]], axis=-1).min(1)
    assert (others < 16).mean() < 0.1  # for digits of 28 px


def test_a_step_in_step_has_the_range_that_both_share() -> None:
    """Corners 0 and 71 share no step but -10..9 ends at the border: the pair's step keeps both inside, or is 0."""
    rng = np.random.default_rng(3)
    stuck = 0
    for _ in range(2000):
        corners = walk(rng, 3, True)
        at = corners[:-1]
        low = np.maximum(-10, -at[:, :2]).max(1)
        high = np.minimum(10, 71 - at[:, :2]).min(1)
        step = np.diff(corners, axis=0)[:, 0]
        assert (((low <= step) & (step < high)) | ((low >= high) & (step == 0))).all()
        stuck += int((low >= high).sum())
    assert stuck > 0


def test_later_digits_lie_in_front_and_faint_ink_hides_nothing() -> None:
    dark, bright = np.full((28, 28), 100, np.uint8), np.full((28, 28), 200, np.uint8)
    faint = np.full((28, 28), 9, np.uint8)
    corners = np.full((1, 3, 2), 36)
    assert draw_digits([bright, dark, faint], corners)[0, 32, 32] == 100
    assert draw_digits([dark, bright, faint], corners)[0, 32, 32] == 200
    frame = draw_digits([bright], np.array([[[0, 50]]]))[0]
    assert frame.shape == (64, 64)
    assert frame[0, 33] == 200  # row 0, column 50 / 100 * 64 = 32
    assert frame[33, 1] == 0


@pytest.mark.parametrize("motion", ["walk", "constant"])
def test_a_video_depends_on_its_arguments_only(motion: str) -> None:
    first = SyncMnist(options=options(motion=motion))
    again, other = SyncMnist(options=options(motion=motion)), SyncMnist(options=options(motion=motion, seed=1))
    clip = first.sample("train", 7)
    assert np.array_equal(again.sample("train", 7).frames, clip.frames)
    assert not np.array_equal(other.sample("train", 7).frames, clip.frames)
    assert not np.array_equal(first.sample("train", 1307).corners, clip.corners)
    assert first.sample("train", 1307).digits[0] == clip.digits[0]  # the same picture, the next time round
    assert (first.num_videos("train"), first.num_videos("test")) == (13_000, 497)


def test_digits_survive_the_video() -> None:
    data_set = SyncMnist(options=options(num_digits=5))
    (video,) = [data_set._listed("test", 3)]
    with av.open(io.BytesIO(data_set.render(video))) as container:
        shown = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    error = np.abs(shown.astype(int) - data_set.sample("test", 3).frames)
    assert shown.shape == (NUM_FRAMES, 64, 64)
    assert error.mean() < 2
    assert error.max() < 40


def test_the_data_set_is_listed_with_all_classes_and_true_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr(SyncMnist, "num_videos", lambda self, split: {"train": 12, "val": 3, "test": 4}[split])
    given = options(tmp_path, **SMALL)
    made: list[int] = []
    listing = list_videos(given, made.append)
    assert listing.classes == classes(10)
    assert sum(made) == 19
    truth = SyncMnist(options=given)
    for video in listing.videos:
        split, _, name = video.video_id.removeprefix("videos/").split("/")
        assert video.split == split
        assert video.labels == (truth.sample(split, int(name.removesuffix(".mp4"))).label,)
    assert list_videos(given, lambda count: pytest.fail("nothing was left to do")) == listing
    with pytest.raises(UsageError, match="Choose another folder"):
        generate(given.model_copy(update={"motion": "constant"}))

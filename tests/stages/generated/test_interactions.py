import csv
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from kinegraph.cache_schemas.errors import CacheError
from kinegraph.stages.errors import UsageError
from kinegraph.stages.generated.drawing import FRAME_SIZE
from kinegraph.stages.generated.interactions import (
    CLASSES,
    MOTIONS,
    NUM_FRAMES,
    REVERSED,
    encode,
    generate,
    interaction,
    video_path,
)

VIDEOS = {"train": 10, "test": 3}


def centres_of(name: str, index: int = 0) -> np.ndarray:
    """Centres [T, 4, 2] of the things in a clip of class `name`."""
    boxes = interaction(0, "train", CLASSES.index(name) + 10 * index).boxes
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interactions")
    generate(root, videos=VIDEOS, seed=3)
    return root


def test_a_clip_depends_on_seed_split_and_index_only() -> None:
    first, again = interaction(1, "val", 17), interaction(1, "val", 17)
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.boxes, again.boxes)
    for other in (interaction(2, "val", 17), interaction(1, "train", 17), interaction(1, "val", 27)):
        assert other.label == first.label
        assert not np.array_equal(other.boxes, first.boxes)


def test_shapes_and_boxes_inside_the_frame() -> None:
    clip = interaction(0, "train", 4)
    assert clip.frames.shape == (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.boxes.shape == (NUM_FRAMES, 4, 4)
    assert clip.boxes.min() >= 0
    assert clip.boxes.max() <= FRAME_SIZE
    assert clip.name == "comes_to"


def test_things_are_drawn_where_their_boxes_say() -> None:
    clip = interaction(0, "train", CLASSES.index("moves_together"))
    ground = np.median(clip.frames, axis=0)
    for frame, boxes in zip(clip.frames, clip.boxes, strict=True):
        differs = (np.abs(frame - ground) > 60).any(axis=-1)
        ys, xs = np.nonzero(differs)
        inside = np.zeros(len(xs), dtype=bool)
        for x1, y1, x2, y2 in clip.boxes.reshape(-1, 4):  # the ground itself is hidden where a thing rests
            inside |= (xs + 1 > x1) & (xs < x2) & (ys + 1 > y1) & (ys < y2)
        assert inside.all()
        for x1, y1, x2, y2 in boxes[:1].astype(int):
            assert np.ptp(frame[y1:y2, x1:x2].astype(int)) > 60


@pytest.mark.parametrize("name", CLASSES)
def test_reversed_class_has_the_reversed_motion(name: str) -> None:
    """Played backwards, velocities change sign and before and after change places."""
    motion, partner = MOTIONS[name], MOTIONS[REVERSED[name]]
    assert REVERSED[REVERSED[name]] == name
    # The line may be turned round, too: motions are compared up to a common sign.
    flipped = {
        (sign * motion.actor[1], sign * motion.actor[0], sign * motion.other[1], sign * motion.other[0])
        for sign in (1, -1)
    }
    assert (*partner.actor, *partner.other) in flipped


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("name", CLASSES)
def test_the_pair_comes_close_and_distractors_touch_nothing(name: str, index: int) -> None:
    clip = interaction(0, "train", CLASSES.index(name) + 10 * index)
    centres = (clip.boxes[..., :2] + clip.boxes[..., 2:]) / 2
    reach = (clip.boxes[0, :, 2] - clip.boxes[0, :, 0]) / 2
    room = np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1) - reach[:, None] - reach
    assert room[:, 0, 1].min() < 4.5
    assert room[:, :2, 2:].min() >= 5 - 1e-3
    assert room[:, 2, 3].min() >= 5 - 1e-3


def test_pushing_moves_the_other_only_after_contact() -> None:
    steps = np.linalg.norm(np.diff(centres_of("pushes"), axis=0), axis=-1)
    assert steps[0, 1] == pytest.approx(0, abs=1e-4)
    assert steps[-1, 1] == pytest.approx(steps[-1, 0], rel=1e-3)
    assert steps[0, 0] == pytest.approx(steps[-1, 0], rel=1e-3)
    assert steps[0, 0] > 1.7


def test_test_clips_bear_digits_that_training_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(rng: np.random.Generator, unseen: bool) -> tuple[np.ndarray, int]:
        asked.append(unseen)
        return np.zeros((8, 8)), 0

    monkeypatch.setattr("kinegraph.stages.generated.interactions.pick_digit", record)
    for split in ("train", "val", "test"):
        interaction(0, split, 0)
    assert asked == [False] * 8 + [True] * 4


def test_generated_files(dataset: Path) -> None:
    rows = list(csv.DictReader((dataset / "annotations.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "label", "split"]
    assert [row["label"] for row in rows] == [*CLASSES, *CLASSES[:3]]
    assert [row["split"] for row in rows] == ["train"] * 10 + ["test"] * 3
    assert all((dataset / row["path"]).is_file() for row in rows)
    assert json.loads((dataset / "interactions.json").read_text())["seed"] == 3


def test_a_video_decodes_to_the_clip(dataset: Path) -> None:
    path = dataset / "videos" / video_path("train", 4)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 8
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    truth = interaction(3, "train", 4).frames
    assert decoded.shape == truth.shape
    assert np.abs(decoded.astype(int) - truth).mean() < 4


def test_generation_resumes_and_then_leaves_everything_alone(dataset: Path, tmp_path: Path) -> None:
    def dies(count: int) -> None:
        done.append(count)
        if len(done) == 5:
            raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, videos=VIDEOS, seed=3, progress=dies)
    assert not (tmp_path / "interactions.json").exists()
    done.clear()
    generate(tmp_path, videos=VIDEOS, seed=3, progress=lambda count: done.append(count))
    assert sum(done) == 13
    assert contents(tmp_path) == contents(dataset)
    generate(tmp_path, videos=VIDEOS, seed=3, progress=lambda count: pytest.fail("nothing was left to do"))


def test_workers_write_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    generate(tmp_path, videos=VIDEOS, seed=3, workers=2)
    assert contents(tmp_path) == contents(dataset)


@pytest.mark.parametrize("left_over", ["interactions.json", "interactions.partial.json"])
def test_other_parameters_are_refused(dataset: Path, tmp_path: Path, left_over: str) -> None:
    (tmp_path / left_over).write_bytes((dataset / "interactions.json").read_bytes())
    with pytest.raises(UsageError, match=r"'seed': 3.*'seed': 4.*another folder"):
        generate(tmp_path, videos=VIDEOS, seed=4)
    for damage in ("", "[]", "[" * 100_000):
        (tmp_path / left_over).write_text(damage)
        with pytest.raises(CacheError, match=rf"{left_over} is damaged: .*another folder \(dataset\.root\), or delete"):
            generate(tmp_path, videos=VIDEOS, seed=4)


def test_encoding_has_no_time_of_day() -> None:
    frames = interaction(0, "train", 0).frames
    assert encode(frames) == encode(frames)
    with av.open(io.BytesIO(encode(frames))) as container:
        assert "creation_time" not in container.metadata

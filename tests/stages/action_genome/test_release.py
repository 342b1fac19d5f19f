"""The pickles of Action Genome are read as they are, and anything else is refused in words."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.stages.action_genome import release
from kinegraph.stages.action_genome.errors import ReleaseError
from kinegraph.stages.action_genome.frames import COLUMNS, GenomeFrames
from kinegraph.stages.action_genome.pickled import OBJECTS, PERSONS, read_pickles
from kinegraph.stages.action_genome.release import COPY, complaints_of_list, open_release
from tests.action_genome import NUMBERS, objects, persons, thing, write_annotations, write_pickle
from tests.conftest import SHARED


def _equal(one: GenomeFrames, other: GenomeFrames) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@pytest.mark.shared
def test_the_made_release_is_as_expected() -> None:
    folder = SHARED / "datasets/action_genome/made"
    frames = open_release(str(folder))
    expected = json.loads((folder / "expected.json").read_text())
    assert len(frames.numbers) == len(expected["frames"]) == expected["listed"]
    assert [f"{video}.mp4" for video in frames.videos] == expected["videos"]
    for told in expected["frames"]:
        video = told["video"].removesuffix(".mp4")
        frame = frames.frame(video, told["frame_one_based"])
        assert frame is not None
        assert [frames.split_of(video), [*frame.size]] == [told["set"], told["size_wh"]]
        assert frame.persons_xyxy.tolist() == told["persons_xyxy"]
        assert [
            (x.class_number, x.is_visible, x.box_xyxy and [*x.box_xyxy], [*x.relations]) for x in frame.objects
        ] == [tuple(x[key] for key in ("class", "visible", "xyxy", "relations")) for x in told["objects"]]
    assert [*complaints_of_list(frames, (folder / "frame_list.txt").read_text())] == []


def test_frames_come_in_the_order_of_time(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    frames = read_pickles(tmp_path)
    assert {video: tuple(frames.numbers_of(video).tolist()) for video in frames.videos.tolist()} == NUMBERS
    assert [frames.split_of(video) for video in NUMBERS] == ["train", "test", "train"]
    assert frames.frame("001YG", 3) is None
    assert frames.frame("ZZZZZ", 1) is None
    assert [*frames.usual_counts()] == [("train", 0, 0), ("test", 0, 0)]  # no video has three whole frames
    assert [*complaints_of_list(frames, "\n".join(sorted(objects())[1:]))] == [
        "frame_list.txt lists 6 frames, and the pickles have 7 frames: 1 frame is only in the pickles, 0 only in the "
        "list. The pickles count."
    ]


def test_both_spellings_of_numpy_and_of_names(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    old = read_pickles(tmp_path)
    assert b"numpy.core." in (tmp_path / PERSONS).read_bytes()
    assert b"numpy._core." in pickle.dumps(persons())
    (tmp_path / PERSONS).write_bytes(pickle.dumps(persons()))
    other: dict[str, Any] = objects()
    for listed in (listed for of_frame in other.values() for listed in of_frame):
        listed["class"] = listed["class"].replace("/", "")
        for kind in ("attention", "spatial", "contacting"):
            names = listed[f"{kind}_relationship"]
            listed[f"{kind}_relationship"] = names and [name.replace("_", "") for name in names]
    write_pickle(tmp_path / OBJECTS, other)
    _equal(read_pickles(tmp_path), old)


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


FRAME = "001YG.mp4/000001.png"
TABLE = ("001YG", 1, "table", (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (OBJECTS, {FRAME: Harm()}, "refused: the pickle asks for"),
        (OBJECTS, [1, 2], "holds a list, expected a dict"),
        (OBJECTS, {}, "expected a dict with an entry for each frame"),
        (OBJECTS, {"001YG/89.jpg": []}, "has the frame '001YG/89.jpg', expected"),
        (OBJECTS, {"../a/b.mp4/000001.png": []}, "has the frame '../a/b.mp4/000001.png', expected"),
        (OBJECTS, {"001YG.mp4/000000.png": []}, "expected `<video>.mp4/<number from 1>.png`"),
        (OBJECTS, {FRAME: []}, "001YG has no object in any frame"),
        (OBJECTS, {FRAME: {"class": "table"}}, "has a dict, expected a list of objects"),
        (OBJECTS, {FRAME: [{"class": "table"}]}, "it has no 'metadata'"),
        (OBJECTS, {FRAME: [thing("001YG", 1, "unicorn", None)]}, "class 'unicorn' is none of the 36"),
        (OBJECTS, {FRAME: [thing(*TABLE, ["kissing"], [], [])]}, "relation 'kissing' is none of the 26"),
        (OBJECTS, {FRAME: [thing(*TABLE, [], [], []) | {"bbox": None}]}, "an object is not as in Action Genome"),
        (
            OBJECTS,
            {FRAME: [thing(*TABLE, [], [], []), thing(*TABLE, [], [], []) | {"metadata": {"set": "test"}}]},
            "001YG is in the sets train and test",
        ),
        (PERSONS, {}, "expected a dict"),
        (PERSONS, {FRAME: None}, "Only one of them has"),
        (PERSONS, persons() | {FRAME: {"bbox": np.zeros((1, 4))}}, "it has no 'bbox_score'"),
        (PERSONS, persons() | {FRAME: persons()[FRAME] | {"bbox_mode": "xywh"}}, "Expected finite boxes of mode"),
        (PERSONS, persons() | {FRAME: persons()[FRAME] | {"bbox_score": np.zeros(2)}}, "mode 'xyxy', 2 scores"),
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, name: str, content: object, words: str) -> None:
    write_annotations(tmp_path)
    write_pickle(tmp_path / name, content)
    with pytest.raises(ReleaseError, match=words.replace("(", r"\(")):
        read_pickles(tmp_path)


def test_a_missing_truncated_or_swapped_file_is_refused(tmp_path: Path) -> None:
    write_annotations(tmp_path)
    whole = (tmp_path / PERSONS).read_bytes()
    (tmp_path / PERSONS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReleaseError, match=r"person_bbox.pkl: is no pickle of numpy arrays, or a damaged one: \w"):
        open_release(str(tmp_path))
    (tmp_path / PERSONS).write_bytes((tmp_path / OBJECTS).read_bytes())
    with pytest.raises(ReleaseError, match="is not as in Action Genome"):
        open_release(str(tmp_path))
    (tmp_path / PERSONS).unlink()
    with pytest.raises(ReleaseError, match=r"person_bbox.pkl does not exist"):
        open_release(str(tmp_path))


def test_a_copy_is_used_only_of_the_pickles_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_annotations(tmp_path)
    monkeypatch.setattr(release, "WORTH_A_COPY_BYTES", 0)
    reads: list[Path] = []

    def counted_read(folder: Path) -> GenomeFrames:
        reads.append(folder)
        return read_pickles(folder)

    def opened_anew() -> GenomeFrames:
        release._opened.clear()
        return open_release(str(tmp_path))

    monkeypatch.setattr(release, "read_pickles", counted_read)
    first = opened_anew()
    _equal(opened_anew(), first)
    assert len(reads) == 1
    write_pickle(tmp_path / PERSONS, persons() | {FRAME: persons()[FRAME] | {"bbox_size": (270, 480)}})
    assert open_release(str(tmp_path)).sizes.tolist() != first.sizes.tolist()
    assert len(reads) == 2
    (tmp_path / COPY).write_bytes((tmp_path / COPY).read_bytes()[:100])
    opened_anew()
    assert len(reads) == 3
    assert f"{COPY} is not used" in caplog.text

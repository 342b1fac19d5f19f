"""Charades in its owners' layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest

from kinegraph.stages.datasets import charades
from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OPTIONS, OwnersContract, listed, touch

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
MADE = SHARED / "datasets/charades/made"
CLASSES = ("c000 Opening a thing/s (either, or)", "c001 Closing a thing", "c002 Eating, slowly")
# The ids are text, although programs take them for numbers. One video has no action, one has a class twice.
TRAIN = {
    "07E49": ("c002 0.00 4.00;c000 1.00 9.50;c002 3.00 6.00", "8.00"),
    "00012": ("c001 8.30 9.00;c001 2.00 2.00;c000 0.00 3.00;c002 0.00 3.00", "8.10"),
    "150E6": ("", "4.00"),
}
VAL = {"ZZZ9A": ("c001 0.00 30.00", "29.50")}


def csv_text(rows: Mapping[str, tuple[str, str]]) -> str:
    """The csv with the owners' columns and line ends. Only fields with a comma have quotes."""
    lines = [
        f'{name},SUBJ,Other,,7,Yes,"Once, twice.",,Plain;Other,{actions},{length}'
        for name, (actions, length) in rows.items()
    ]
    return "".join(f"{line}\r\n" for line in (HEADER, *lines))


class TestCharades(OwnersContract):
    options: ClassVar[dict[str, Any]] = {"kind": "charades"}
    label_files = ("Charades_v1_classes.txt", "Charades_v1_train.csv", "Charades_v1_test.csv")
    num_videos = 4

    def write(self, root: Path) -> None:
        (root / "Charades_v1_classes.txt").write_bytes("".join(f"{line}\n" for line in CLASSES).encode())
        (root / "Charades_v1_train.csv").write_bytes(csv_text(TRAIN).encode())
        (root / "Charades_v1_test.csv").write_bytes(csv_text(VAL).encode())
        touch(root / "videos/Charades_v1_480", *(f"{name}.mp4" for name in (*TRAIN, *VAL)))

    def test_a_video_has_the_classes_of_its_actions(self, tmp_path: Path) -> None:
        """Actions beyond the end count, too: the scorer for videos does not look at times."""
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == CLASSES
        assert listing.multi_label
        assert [(Path(video.path).stem, video.split, video.labels) for video in listing.videos] == [
            ("00012", "train", (0, 1, 2)),
            ("07E49", "train", (0, 2)),
            ("150E6", "train", ()),
            ("ZZZ9A", "val", (1,)),
        ]
        assert listing.notes == (
            "3 classes from Charades_v1_classes.txt, and Charades has 157. Label numbers differ from "
            "those of other people's networks.",
        )

    def test_frames_of_the_rgb_archive(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "videos").rename(tmp_path / "elsewhere")
        for name in (*TRAIN, *VAL):
            touch(tmp_path / "videos/Charades_v1_rgb" / name, *(f"{name}-{number:06d}.jpg" for number in (1, 2, 3)))
        listing = listed(tmp_path, **self.options)
        assert {(video.video_id, video.frame_rate) for video in listing.videos} == {
            (f"Charades_v1_rgb/{name}", 24.0) for name in (*TRAIN, *VAL)
        }

    @pytest.mark.parametrize(
        ("name", "old", "new", "words"),
        [
            ("train.csv", "c002 0.00", "c157 0.00", "line 2: c157 is none of the 3 classes of Charades_v1_classes.txt"),
            ("train.csv", "c002 0.00 4.00", "c002 0.00", "line 2: the action 'c002 0.00'; expected `c<number>"),
            ("train.csv", ",8.00", ",8.0s", "line 2: length: '8.0s'; expected seconds"),
            ("train.csv", ",8.00\r\n", "", "line 2: .* fields, but the header has 11"),
            ("train.csv", "07E49", "../07E49", "line 2: '../07E49' is no name of a video"),
            ("train.csv", "id,subject", "name,subject", "no column id in its header"),
            ("classes.txt", "c001", "c002", "line 2: .*; expected `c001 <name>`"),
        ],
    )
    def test_damaged(self, tmp_path: Path, name: str, old: str, new: str, words: str) -> None:
        self.write(tmp_path)
        path = tmp_path / f"Charades_v1_{name}"
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options)

    def test_one_csv_twice(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "Charades_v1_test.csv").write_bytes((tmp_path / "Charades_v1_train.csv").read_bytes())
        with pytest.raises(
            DatasetError, match=r"test\.csv: line 2: 07E49 is in the split 'val', and in 'train' in Char"
        ):
            listed(tmp_path, **self.options)

    def test_swapped(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        with (
            patch.dict(charades.PUBLISHED, {"train": 1, "val": 3}),
            pytest.raises(DatasetError, match=r"1 video of train and 3 of val.* Are the two files swapped"),
        ):
            listed(tmp_path, **self.options)

    def test_videos_and_frames_below_one_root(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        touch(tmp_path / "videos/Charades_v1_rgb/07E49", "07E49-000001.jpg", "07E49-000002.jpg")
        with pytest.raises(DatasetError, match=r"2 files .* could be 07E49: .* dataset\.root be the folder of one"):
            listed(tmp_path, **self.options)


class TestIntervals(TestCharades):
    options: ClassVar[dict[str, Any]] = {"kind": "charades", "labels": "interval", "without_actions": True}

    def test_a_video_has_the_classes_of_its_actions(self, tmp_path: Path) -> None:
        """Actions end with their video. Two of one interval are one clip. Empty actions are dropped and counted."""
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert [(Path(video.path).stem, video.interval, video.labels) for video in listing.videos] == [
            ("00012", (0.0, 3.0), (0, 2)),
            ("07E49", (0.0, 4.0), (2,)),
            ("07E49", (1.0, 8.0), (0,)),
            ("07E49", (3.0, 6.0), (2,)),
            ("150E6", None, ()),
            ("ZZZ9A", (0.0, 29.5), (1,)),
        ]
        assert listing.notes[:2] == (
            "2 actions end after the video: clipped to the length in the csv.",
            "2 actions are empty within the length of the video: left out.",
        )

    def test_videos_without_an_action_stay_if_asked(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options | {"without_actions": False})
        assert len(listing.videos) == 5
        assert listing.listed == {"train": 3, "val": 1}
        assert listing.notes[2] == "1 video has no action: left out. `dataset.without_actions: true` keeps them."

    def test_frames_of_the_rgb_archive(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert all(video.frame_rate is None for video in listing.videos)


def _made(root: Path, **options: Any) -> tuple[Listing, list[dict[str, Any]]]:
    """The listing of the made-up files, and the rows that their document expects."""
    expected = json.loads((MADE / "expected.json").read_text())
    rows = [row | {"split": split} for split, file in (("train", "train"), ("val", "test")) for row in expected[file]]
    touch(root, *(f"{row['id']}.mp4" for row in rows))
    options = {"kind": "charades", "root": str(root), "annotations": str(MADE)} | options
    return list_videos(OPTIONS.validate_python(options)), rows


@pytest.mark.shared
def test_made_up_rows_by_video(tmp_path: Path) -> None:
    listing, rows = _made(tmp_path)
    found = {Path(video.path).stem: (video.split, [*video.labels]) for video in listing.videos}
    assert found == {row["id"]: (row["split"], row["video_labels"]) for row in rows}
    assert len(listing.classes) == 157


@pytest.mark.shared
def test_made_up_rows_by_interval(tmp_path: Path) -> None:
    listing, rows = _made(tmp_path, labels="interval")
    found: dict[str, set[tuple[int, float, float]]] = {}
    for video in listing.videos:
        assert video.interval is not None
        found.setdefault(Path(video.path).stem, set()).update((label, *video.interval) for label in video.labels)
    expected = {row["id"]: {(c, s, e) for c, s, e in row["intervals_clipped"] if s < e} for row in rows}
    assert found == {name: intervals for name, intervals in expected.items() if intervals}
    dropped = sum(row["empty_after_clip"] for row in rows)
    assert any(note.startswith(f"{dropped} actions are empty") for note in listing.notes)

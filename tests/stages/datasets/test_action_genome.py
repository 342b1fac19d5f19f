"""Action Genome in its owners' layout, with the labels of Charades."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from tests.action_genome import CLASSES, VIDEOS, objects, write_annotations, write_pickle
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch

ALL = (
    "train 0 videos and 0 frames, test 0 videos and 0 frames. Published: train 7,584 and 177,330, test 1,750 and 56,923"
)


class TestActionGenome(OwnersContract):
    options: ClassVar[dict[str, Any]] = {"kind": "action_genome"}
    label_files = (
        "object_classes.txt", "relationship_classes.txt",
        "Charades_v1_classes.txt", "Charades_v1_train.csv", "Charades_v1_test.csv",
    )  # fmt: skip
    num_videos = 3
    is_published = False  # only counts of frames that papers use; a note has them

    def write(self, root: Path) -> None:
        write_annotations(root)
        touch(root / "videos/Charades_v1_480", *(f"{name}.mp4" for name in VIDEOS))

    def test_videos_have_all_labels_and_their_frames(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == CLASSES
        assert listing.multi_label
        assert [(Path(x.path).stem, x.split, x.labels, x.annotated_frames) for x in listing.videos] == [
            ("001YG", "train", (0, 1, 2, 3, 4), (0, 1, 8, 39)),
            ("150E6", "val", (1,), (4, 11)),
            ("46GP8", "train", (), (2,)),
        ]
        assert listing.notes == (
            "1 video of Charades without an annotated frame: left out.",
            f"With a person and a visible object, in videos with over two such frames: {ALL}.",
            "5 classes from Charades_v1_classes.txt, and Action Genome has 157. Label numbers differ from those of "
            "other people's networks.",
        )

    def test_each_action_is_an_interval_with_one_label(self, tmp_path: Path) -> None:
        """Two actions with the same bounds stay apart, one ends with the video, and one after the video is left out."""
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options, labels="interval")
        assert listing.multi_label is False
        assert [(Path(x.path).stem, x.interval, x.labels) for x in listing.videos] == [
            ("001YG", (0.0, 2.0), (0,)),
            ("001YG", (0.0, 2.001), (1,)),
            ("001YG", (2.2, 3.0), (3,)),
            ("001YG", (4.5, 5.0), (2,)),
            ("150E6", (0.3, 1.0), (1,)),
        ]
        assert listing.notes[1] == "1 action that begins at the end of the video or later: left out."
        assert listing.notes[2] == "1 action with the bounds of another action ends 1 ms later."

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("object_classes.txt", "person\ndish", "has 2 names, and not the 36 of Action Genome"),
            ("relationship_classes.txt", "person", "has 1 name, and not the 26"),
            (
                "Charades_v1_train.csv",
                "id,actions,length\n46GP8,,1\n",
                "1 video of Action Genome, first 001YG, in no csv",
            ),
            ("Charades_v1_classes.txt", "c001 A\n", "line 1: 'c001 A'; expected `c000 <name>`"),
        ],
    )
    def test_damaged(self, tmp_path: Path, name: str, text: str, words: str) -> None:
        self.write(tmp_path)
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options)

    def test_swapped_splits_and_a_pickle_that_is_none(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        train, test = (tmp_path / f"Charades_v1_{split}.csv" for split in ("train", "test"))
        train.rename(tmp_path / "other")
        test.rename(train)
        (tmp_path / "other").rename(test)
        with pytest.raises(DatasetError, match="150E6 is in the set 'test' of Action Genome, not in this csv"):
            listed(tmp_path, **self.options)
        write_pickle(tmp_path / "object_bbox_and_relationship.pkl", [*objects()])
        with pytest.raises(DatasetError, match=r"dataset.annotations: .*holds a list, expected a dict"):
            listed(tmp_path, **self.options)

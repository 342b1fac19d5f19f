"""HMDB51 in its owners' layout."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch, write

CLASSES = ("kick", "kick_ball", "sword_exercise")
CLAP = "#20_Rhythm_[clap]_u;nm_np1_fr_goo_0"


class TestHmdb51(OwnersContract):
    options: ClassVar = {"kind": "hmdb51", "official_split": 1}
    label_files = tuple(f"{name}_test_split1.txt" for name in CLASSES)
    num_videos = 4

    def write(self, root: Path) -> None:
        """The lists of the second split have the same videos, the other way round."""
        lists = {
            "kick": f"{CLAP}.avi 1 \nTed & Bill (2)_kick_0.avi 0 \n",
            "kick_ball": "a_kick_ball_0.avi 1 \na_kick_ball_1.avi 2 \n",
            "sword_exercise": "b_sword_0.avi 2 \n",
        }
        for name, text in lists.items():
            other = text.translate({ord("1"): "2", ord("2"): "1"}) if name == "sword_exercise" else text
            write(root, **{f"{name}_test_split1": text, f"{name}_test_split2": other})
            touch(root / "videos" / name, *(f"{line.split('.avi')[0]}.avi" for line in text.splitlines()))

    def test_the_list_says_the_class(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == CLASSES
        assert [(video.video_id, video.split, video.labels) for video in listing.videos] == [
            (f"kick/{CLAP}.avi", "train", (0,)),
            ("kick_ball/a_kick_ball_0.avi", "train", (1,)),
            ("kick_ball/a_kick_ball_1.avi", "test", (1,)),
            ("sword_exercise/b_sword_0.avi", "test", (2,)),
        ]
        assert "The lists mark 1 video with 0, for neither split." in listing.notes
        assert listed(tmp_path, kind="hmdb51", official_split=2).listed == {"train": 3, "test": 1}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a.avi 1\nb.avi 3\n", r"kick_test_split1\.txt: line 2: 'b\.avi 3'; expected `<video>\.avi` and 0, 1 or 2"),
            ("a.avi", "line 1: 'a.avi'; expected"),
            ("a.avi 1\na.avi 2\n", "a is in the split 'test', and in 'train' in"),
            ("a_kick_ball_0.avi 1\n", "has the label 'kick_ball', and 'kick' in"),
            ("../a.avi 1\n", "is no name of a video"),
        ],
    )
    def test_damaged(self, tmp_path: Path, text: str, words: str) -> None:
        self.write(tmp_path)
        write(tmp_path, kick_test_split1=text)
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options)

    def test_no_list_of_this_split(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        with pytest.raises(DatasetError, match=r"no `<class>_test_split3\.txt` in .* testTrainMulti_7030_splits"):
            listed(tmp_path, kind="hmdb51", official_split=3)

    @pytest.mark.shared
    @pytest.mark.parametrize("number", [1, 2])
    def test_the_real_lists(self, tmp_path: Path, number: int) -> None:
        facts = json.loads((SHARED / "datasets/hmdb51/expected.json").read_text())[f"split{number}"]
        lists = SHARED / "datasets/hmdb51/testTrainMulti_7030_splits"
        first_and_last = [row for split in ("train", "test") for row in (facts[split]["first"], facts[split]["last"])]
        touch(tmp_path / "videos", *(name for name, _ in first_and_last))
        listing = listed(tmp_path, kind="hmdb51", official_split=number, annotations=str(lists))
        assert listing.listed == listing.published == {"train": 3570, "test": 1530}
        assert listing.classes == tuple((SHARED / "datasets/hmdb51/class_order.txt").read_text().split())
        assert {video.video_id: video.labels[0] for video in listing.videos} == dict(first_and_last)
        assert listing.notes == (f"The lists mark {facts['unused']['rows']:,} videos with 0, for neither split.",)

"""UCF101 in its owners' layout."""

from pathlib import Path
from typing import ClassVar

import pytest

from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.owners_options import Ucf101Options
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch, write


class TestUcf101(OwnersContract):
    options: ClassVar = {"kind": "ucf101", "official_split": 1}
    label_files = ("classInd.txt", "trainlist01.txt", "testlist01.txt")
    num_videos = 4

    def write(self, root: Path) -> None:
        train = ("Hammering/v_Hammering_g08_c01.avi 2", "HammerThrow/v_HammerThrow_g08_c01.avi 3")
        test = ("HandstandPushups/v_HandStandPushups_g01_c01.avi", "JumpRope/v_JumpRope_g01_c01.avi")
        write(
            root,
            classInd="1 HandstandPushups\r\n2 Hammering\r\n3 HammerThrow\r\n4 JumpRope\r\n",
            trainlist01="".join(f"{line}\r\n" for line in train),
            testlist01="".join(f"{line}\r\n" for line in test),
        )
        touch(root / "videos/UCF-101", *(line.split()[0] for line in (*train, *test)))

    def test_classes_follow_the_file_and_labels_follow_the_folder(self, tmp_path: Path) -> None:
        """Sorted names would swap Hammering and HammerThrow. One folder and its files differ by a capital letter."""
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == ("HandstandPushups", "Hammering", "HammerThrow", "JumpRope")
        assert [(Path(video.path).stem, video.split, video.labels) for video in listing.videos] == [
            ("v_HammerThrow_g08_c01", "train", (2,)),
            ("v_Hammering_g08_c01", "train", (1,)),
            ("v_HandStandPushups_g01_c01", "test", (0,)),
            ("v_JumpRope_g01_c01", "test", (3,)),
        ]

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("classInd", "0 A\n1 B\n", "expected `1 <class>`"),
            ("trainlist01", "Skiing/v_Skiing_g01_c01.avi 1\n", "'Skiing' is none of the 4 classes of classInd.txt"),
            ("trainlist01", "JumpRope/..avi 1\n", "is no name of a video"),
            ("trainlist01", "JumpRope/v.avi 4\nHammering/v.avi 2\n", "'Hammering', and 'JumpRope' in trainlist01.txt"),
            ("testlist01", "Hammering/v_Hammering_g08_c01.avi\n", "in the split 'test', and in 'train' in trainlist01"),
            ("trainlist01", "v.avi 4\n", "expected `<class>/<video>.avi`"),
        ],
    )
    def test_damaged(self, tmp_path: Path, name: str, text: str, words: str) -> None:
        self.write(tmp_path)
        write(tmp_path, **{name: text})
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options)

    def test_two_files_of_one_video(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        touch(tmp_path, "videos/copy/v_JumpRope_g01_c01.mp4")
        with pytest.raises(DatasetError, match=r"2 files .* could be v_JumpRope_g01_c01"):
            listed(tmp_path, **self.options)

    def test_files_that_are_not_listed(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        touch(tmp_path, "videos/holiday.mp4", "videos/UCF-101/JumpRope/._v_JumpRope_g01_c01.avi")
        listing = listed(tmp_path, **self.options)
        assert len(listing.videos) == 4
        assert listing.notes == (
            "4 classes from classInd.txt, and UCF101, split 1 has 101. "
            "Label numbers differ from those of other people's networks.",
            f"1 video below {tmp_path / 'videos'} that UCF101, split 1 does not use: left out.",
        )

    @pytest.mark.shared
    def test_the_real_lists(self, tmp_path: Path) -> None:
        options = Ucf101Options(kind="ucf101", root=str(tmp_path), annotations=str(SHARED / "datasets/ucf101"))
        lines = (SHARED / "datasets/ucf101/trainlist01.txt").read_text().split("\n")
        touch(tmp_path, *(line.split()[0] for line in lines if line.strip()))
        listing = list_videos(options)
        assert listing.listed == listing.published
        assert len(listing.missing) == 3783

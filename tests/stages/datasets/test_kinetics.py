"""Kinetics in its owners' layout."""

import csv
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch

FOOTBALL = "passing American football (in game)"
TRAIN = f"""label,youtube_id,time_start,time_end,split,is_cc
"air drumming",-aaaaaaaaaa,417,427,train,0
{FOOTBALL},b_b_bbbbb_b,0,10,train,0
"""
VAL = """label,youtube_id,time_start,time_end,split,is_cc\r
"air drumming",ccccccccccc,7,17,validate,0\r
testifying,-__dddddddd,1143,1153,validate,1\r
"""
TEST = "youtube_id,time_start,time_end,split\neeeeeeeeeee,5,15,test\n"


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / f"{name}.csv").write_bytes(text.encode())


def labels(listing: Listing) -> dict[str, str]:
    """The name of each file -> the name of its class."""
    return {Path(video.path).name: listing.classes[video.labels[0]] for video in listing.videos}


class TestKinetics(OwnersContract):
    options: ClassVar[dict[str, Any]] = {"kind": "kinetics", "version": 400}
    label_files = ("train.csv", "val.csv")
    num_videos = 4

    def write(self, root: Path) -> None:
        """Folders are flat or named after any class. One video has the name of its id alone."""
        put(root, train=TRAIN, val=VAL, test=TEST)
        touch(
            root / "videos",
            "train/-aaaaaaaaaa_000417_000427.mp4",
            "videos_train/passing_american_football/b_b_bbbbb_b_000000_000010.mkv",
            "val/ccccccccccc.webm",
            "val/._-__dddddddd_001143_001153.mp4",
            "val/air drumming/-__dddddddd_001143_001153.mp4",
        )

    def test_the_csv_says_the_class(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == ("air drumming", FOOTBALL, "testifying")
        assert listing.classes_from == "the labels in train.csv and val.csv, sorted"
        assert labels(listing) == {
            "-aaaaaaaaaa_000417_000427.mp4": "air drumming",
            "b_b_bbbbb_b_000000_000010.mkv": FOOTBALL,
            "ccccccccccc.webm": "air drumming",
            "-__dddddddd_001143_001153.mp4": "testifying",
        }
        assert listing.listed == {"train": 2, "val": 2}

    def test_classes_do_not_depend_on_the_videos(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "videos/train/-aaaaaaaaaa_000417_000427.mp4").unlink()
        (tmp_path / "videos/val/ccccccccccc.webm").unlink()
        listing = listed(tmp_path, **self.options)
        assert labels(listing)["-__dddddddd_001143_001153.mp4"] == "testifying"
        assert set(listing.missing) == {"-aaaaaaaaaa_000417_000427", "ccccccccccc_000007_000017"}

    def test_a_list_of_classes(self, tmp_path: Path) -> None:
        """Others spell classes as folders, without brackets and with `_`."""
        self.write(tmp_path)
        (tmp_path / "list.txt").write_text("testifying\nabseiling\nair_drumming\npassing_American_football_in_game\n")
        listing = listed(tmp_path, **self.options, classes=str(tmp_path / "list.txt"))
        assert len(listing.classes) == 4
        assert labels(listing)["b_b_bbbbb_b_000000_000010.mkv"] == "passing_American_football_in_game"

    def test_only_val_and_test(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "train.csv").unlink()
        (tmp_path / "val.csv").rename(tmp_path / "validate.csv")
        touch(tmp_path / "videos/test", "eeeeeeeeeee_000005_000015.mp4")
        listing = listed(tmp_path, **self.options, files={"val": "validate.csv", "test": "test.csv"})
        assert {(video.split, video.labels) for video in listing.videos} == {("val", (0,)), ("val", (1,)), ("test", ())}
        with pytest.raises(DatasetError, match=r"no csv has labels\. Give a file"):
            listed(tmp_path, **self.options, files={"test": "test.csv"})
        with pytest.raises(DatasetError, match=r"no file train\.csv .* Files there: test\.csv, validate\.csv"):
            listed(tmp_path, **self.options)

    def test_two_clips_of_one_video(self, tmp_path: Path) -> None:
        """A file that has the id alone could be any of them."""
        self.write(tmp_path)
        put(tmp_path, val=f"{VAL}air drumming,fffffffffff,7,17,val,0\ntestifying,fffffffffff,83,93,val,0\n")
        touch(tmp_path / "videos/val", "fffffffffff_000083_000093.mp4", "fffffffffff.mp4")
        listing = listed(tmp_path, **self.options | {"version": 600})
        assert labels(listing)["fffffffffff_000083_000093.mp4"] == "testifying"
        assert "fffffffffff.mp4" not in labels(listing)
        assert set(listing.missing) == {"fffffffffff_000007_000017"}
        assert listing.notes[0].startswith("1 YouTube id with several clips. Such a clip needs a file with its times")
        assert "1 video below" in listing.notes[-1]

    def test_replacements(self, tmp_path: Path) -> None:
        """They are matched by the id, and come before the damaged video of the same name."""
        self.write(tmp_path)
        replacement = "replacement/replacement_for_corrupted_k400/-aaaaaaaaaa_000416_000426.mp4"
        touch(tmp_path / "videos", replacement)
        assert [video.video_id for video in listed(tmp_path, **self.options).videos if "-aaa" in video.path] == [
            replacement
        ]

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("val", TRAIN, "line 2: split 'train'; expected 'val', because dataset.files names val.csv for val"),
            ("train", TEST, r"train\.csv: no column label in its header .* expected label,youtube_id,time_start"),
            ("train", f"{TRAIN}air drumming,gggg", "line 4: 2 fields, but the header has 6"),
            ("train", f"{TRAIN}air drumming,ggggggggggg,1,11,tra,0", "line 4: split 'tra'; .* is its end missing"),
            (
                "train",
                TRAIN.replace("-aaaaaaaaaa", "#NAME?"),
                "line 2: the youtube_id is '#NAME\\?'.* Has a spreadsheet",
            ),
            ("train", TRAIN.replace("-aaaaaaaaaa", "../aaaaaaaa"), "expected 11 letters"),
            ("train", TRAIN.replace("417", "6:57"), "the times are '6:57' and '427'; expected whole seconds"),
            ("train", f"{TRAIN}testifying,b_b_bbbbb_b,0,10,train,0\n", "has the label 'testifying', and 'passing Ame"),
            (
                "train",
                f"{TRAIN}testifying,ccccccccccc,7,17,train,0\n",
                "is in the split 'val', and in 'train' in train",
            ),
        ],
    )
    def test_damaged(self, tmp_path: Path, name: str, text: str, words: str) -> None:
        self.write(tmp_path)
        put(tmp_path, **{name: text})
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options)

    def test_labels_outside_the_list(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "list.txt").write_text("air drumming\ntestifying\n")
        with pytest.raises(
            DatasetError, match=r"'passing American football \(in game\)' is none of the 2 classes of list"
        ):
            listed(tmp_path, **self.options, classes=str(tmp_path / "list.txt"))

    @pytest.mark.parametrize(("version", "num_classes"), [(400, 600), (600, 400), (400, 401)])
    def test_another_version(self, tmp_path: Path, version: int, num_classes: int) -> None:
        self.write(tmp_path)
        lines = (f"class {number},{number:011},0,10,val,0\n" for number in range(num_classes - 3))
        put(tmp_path, val=VAL + "".join(lines))
        with pytest.raises(
            DatasetError, match=f"given {version}, but there are {num_classes} classes from the labels in"
        ):
            listed(tmp_path, **self.options | {"version": version})

    @pytest.mark.shared
    @pytest.mark.parametrize(("version", "splits"), [(400, ("val", "test")), (600, ("val",))])
    def test_the_real_rows(self, tmp_path: Path, version: int, splits: tuple[str, ...]) -> None:
        files = {split: f"kinetics-{version}_{split}.sample.csv" for split in splits}
        for name in files.values():
            (tmp_path / name).write_bytes((SHARED / "datasets/kinetics" / name).read_bytes())
            with (tmp_path / name).open() as lines:
                times = (
                    (row["youtube_id"], int(row["time_start"]), int(row["time_end"])) for row in csv.DictReader(lines)
                )
                touch(tmp_path / "videos", *(f"{video}_{start:06}_{end:06}.mp4" for video, start, end in times))
        listing = listed(tmp_path, kind="kinetics", version=version, files=files)
        assert listing.classes == tuple(
            (SHARED / f"datasets/kinetics/label_map_k{version}.txt").read_text().splitlines()
        )
        assert not listing.missing
        facts = json.loads((SHARED / "datasets/kinetics/expected.json").read_text())
        numbers = {Path(video.path).stem: video.labels for video in listing.videos}
        for split, name in files.items():
            assert listing.listed[split] == facts[name]["rows"]
            for row in (facts[name]["first"], facts[name]["last"]):
                assert numbers[row["id"]] == (() if row["label"] is None else (row["label"],))
        several = len(facts[files["val"]]["youtube_ids_listed_twice"])
        assert [note.split()[0] for note in listing.notes] == ([str(several)] if several else [])

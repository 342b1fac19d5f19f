"""THUMOS14 in its owners' layout."""

import json
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.thumos14 import CLASSES, HEADERS, TEST, VALIDATION
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch
from tests.stages.datasets.untrimmed import entry, segments

VALIDATION_ROWS = (
    "video_validation_0000051,Billiards,12,67.5,75.9,2025,2277",
    "video_validation_0000051,Ambiguous,0,80.1,81.0,2403,2430",
    "video_validation_0000203,CliffDiving,22,1.0,3.5,30,105",
    "video_validation_0000203,Diving,26,1.0,3.5,30,105",
)
TEST_ROWS = (
    "video_test_0000270,700.0,701.5,17500,17538,695.2,25.0,17380,8",
    "video_test_0001292,0.0,1.4,0,42,215.166667,30.0,6455,-1",
)


def csv_text(name: str, *rows: str) -> str:
    return "\n".join((HEADERS[name], *rows, ""))


class TestThumos14(OwnersContract):
    options: ClassVar = {"kind": "thumos14"}
    label_files = (VALIDATION, TEST)
    num_videos = 4

    def write(self, root: Path) -> None:
        (root / VALIDATION).write_text(csv_text(VALIDATION, *VALIDATION_ROWS))
        (root / TEST).write_text(csv_text(TEST, *TEST_ROWS))
        videos = ("video_validation_0000051", "video_validation_0000203", "video_test_0000270", "video_test_0001292")
        touch(root / "videos", *(f"{video[6:10]}/{video}.mp4" for video in videos))

    def test_segments(self, tmp_path: Path) -> None:
        """Seconds are read as they are. Ambiguous is no class. One segment of two classes has two labels."""
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == CLASSES == tuple(sorted(CLASSES))
        assert listing.multi_label
        assert segments(listing) == {
            "video_validation_0000051": [(67.5, 75.9, ["Billiards"])],
            "video_validation_0000203": [(1.0, 3.5, ["CliffDiving", "Diving"])],
            "video_test_0000270": [(700.0, 701.5, ["FrisbeeCatch"])],
            "video_test_0001292": [],
        }
        assert Counter(video.split for video in listing.videos) == {"train": 2, "test": 2}
        assert listing.notes == (
            "2 segments with the label Ambiguous: left out.",
            f"Segments that end after the duration in the label file: 1, kept as listed. The first: {TEST}: line 2.",
            f"Videos without a segment: 1, kept without a label. The first: {TEST}: line 3.",
        )
        left = listed(tmp_path, leave_out=("video_test_0000270", "video_test_0001292"), **self.options)
        assert len(segments(left)) == 2
        assert left.published == {"train": 200, "test": 211}

    def test_the_file_of_gtad(self, tmp_path: Path) -> None:
        """Segments are texts."""
        self.write(tmp_path)
        database = {
            "video_validation_0000051": entry("train", ("67.5", "75.9", "Billiards")),  # type: ignore[arg-type]
            "video_test_0000270": entry("test", ("1", "2.5", "Diving")),  # type: ignore[arg-type]
        }
        path = tmp_path / "thumos_gt.json"
        path.write_text(json.dumps({"database": database}))
        listing = listed(tmp_path, labels="gtad", **self.options)
        assert segments(listing) == {
            "video_validation_0000051": [(67.5, 75.9, ["Billiards"])],
            "video_test_0000270": [(1.0, 2.5, ["Diving"])],
        }
        path.write_text(json.dumps({"database": {"video_test_0000270": entry("train")}}))
        with pytest.raises(DatasetError, match="video_test_0000270: subset train; expected test"):
            listed(tmp_path, labels="gtad", **self.options)

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            (VALIDATION, csv_text(TEST, *TEST_ROWS), "its first line is 'video-name,.* expected 'video,type"),
            (TEST, csv_text(TEST, *TEST_ROWS)[:-4], "8 fields; expected 9"),
            (TEST, csv_text(TEST, TEST_ROWS[0][:-1] + "20"), "label-idx '20'; expected 0 to 19"),
            (VALIDATION, csv_text(VALIDATION, VALIDATION_ROWS[0].replace("67.5", "nan")), "start is 'nan'"),
            (VALIDATION, csv_text(VALIDATION, VALIDATION_ROWS[0].replace("Bill", "Ball")), "'Balliards' is none of"),
            (VALIDATION, csv_text(VALIDATION, "../x" + VALIDATION_ROWS[0]), r"'\.\./xvideo_val.* is no name of a"),
        ],
    )
    def test_damaged(self, tmp_path: Path, name: str, text: str, words: str) -> None:
        self.write(tmp_path)
        (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options)

    @pytest.mark.shared
    def test_the_real_files(self, tmp_path: Path) -> None:
        """The test file is cut after 42 videos. There, all of CliffDiving is also Diving, with equal times."""
        folder = SHARED / "datasets/thumos14"
        expected = json.loads((folder / "expected.json").read_text())
        (tmp_path / VALIDATION).write_bytes((folder / VALIDATION).read_bytes())
        (tmp_path / TEST).write_bytes((folder / "thumos14_test_groundtruth.cut.csv").read_bytes())
        (tmp_path / "thumos_gt.json").write_bytes((folder / "thumos_gt.train_only.json").read_bytes())
        lines = [*(tmp_path / VALIDATION).read_text().split()[1:], *(tmp_path / TEST).read_text().split()[1:]]
        touch(tmp_path / "videos", *{f"{line.partition(',')[0]}.mp4" for line in lines})
        listing = listed(tmp_path, **self.options)
        assert listing.listed == {"train": expected[VALIDATION]["videos"], "test": 42}
        per_type = Counter(
            listing.classes[label] for video in listing.videos if video.split == "train" for label in video.labels
        )
        assert per_type | {"Ambiguous": 89} == expected[VALIDATION]["per_type"]
        assert listing.notes[0] == "188 segments with the label Ambiguous: left out."
        both = [video.labels for video in listing.videos if 4 in video.labels]
        assert {*both} == {(4, 7)}
        gtad = listed(tmp_path, labels="gtad", **self.options)
        assert gtad.listed == {"train": expected["thumos_gt.train_only.json"]["videos"]}
        assert sum(len(video.labels) for video in gtad.videos) == expected["thumos_gt.train_only.json"]["segments"]

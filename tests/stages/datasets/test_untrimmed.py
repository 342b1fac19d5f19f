"""ActivityNet, THUMOS14 and lists in ActivityNet's form: untrimmed videos with labelled segments."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing, listing_of_whole_videos
from kinegraph.stages.datasets.thumos14 import CLASSES, HEADERS, TEST, VALIDATION
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch


def entry(subset: str, *segments: tuple[float, float, str], **facts: Any) -> dict[str, Any]:
    return {
        "subset": subset,
        **facts,
        "annotations": [{"segment": [start, end], "label": label} for start, end, label in segments],
    }


def segments(listing: Listing) -> dict[str, list[tuple[float, float, list[str]]]]:
    """Stem of each video -> its segments."""
    return {
        Path(video.path).stem: [
            (*interval, [listing.classes[label] for label in labels]) for interval, labels in video.segments
        ]
        for video in listing_of_whole_videos(listing).videos
    }


RELEASE = {
    "version": "VERSION 1.3",
    "taxonomy": [{"nodeId": n, "nodeName": name} for n, name in enumerate(["Root", "Surfing", "Beer pong", "BMX"])],
    "database": {
        "aaaaaaaaaaa": entry("training", (1.0, 4.5, "Surfing"), (5.0, 5.01, "BMX"), duration=9.0),
        "v_aaaaaaaaa": entry("validation", (0.0, 12.0, "Beer pong"), (0, 12, "Beer pong"), duration=10.5),
        "ccccccccccc": entry("testing", duration=3.0),
    },
}


class TestActivityNet(OwnersContract):
    options: ClassVar = {"kind": "activitynet"}
    label_files = ("activity_net.v1-3.min.json",)
    num_videos = 3

    def write(self, root: Path, document: Any = RELEASE) -> None:
        (root / self.label_files[0]).write_text(json.dumps(document))
        touch(root / "videos", "a/v_aaaaaaaaaaa.mp4", "v_v_aaaaaaaaa.mkv", "ccccccccccc.webm")

    def test_segments(self, tmp_path: Path) -> None:
        """A file has `v_` before its id or not. An id may begin with `v_` itself."""
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == ("BMX", "Beer pong", "Surfing")
        assert listing.listed == {"train": 1, "val": 1, "test": 1}
        assert segments(listing) == {
            "v_aaaaaaaaaaa": [(1.0, 4.5, ["Surfing"]), (5.0, 5.01, ["BMX"])],
            "v_v_aaaaaaaaa": [(0.0, 12.0, ["Beer pong"])],
            "ccccccccccc": [],
        }
        file = self.label_files[0]
        assert listing.notes == (
            f"Segments shorter than 0.1 s: 1, kept as listed. The first: {file}: aaaaaaaaaaa, segment 2.",
            f"Segments that end after the duration in the label file: 1, kept as listed. The first: {file}: "
            "v_aaaaaaaaa, segment 1.",
            f"Segments listed again with the same label: 1, dropped. The first: {file}: v_aaaaaaaaa, segment 2.",
            f"Videos without a segment: 1, kept without a label. The first: {file}: ccccccccccc.",
            f"3 classes from the labels in {file}, sorted, and ActivityNet 1.3 has 200. Label numbers differ from "
            "those of other people's networks.",
        )
        assert [video.interval for video in listing.videos] == [(1.0, 4.5), (5.0, 5.01), None, (0.0, 12.0)]

    def test_the_form_of_mmaction2(self, tmp_path: Path) -> None:
        """Videos are at the top and have `v_`. A file of one subset does not state it."""
        self.write(tmp_path)
        whole = listed(tmp_path, **self.options)
        database: dict[str, Any] = RELEASE["database"]  # type: ignore[assignment]
        self.write(tmp_path, {f"v_{video}": facts for video, facts in database.items()})
        assert segments(listed(tmp_path, **self.options)) == segments(whole)
        self.write(tmp_path, {"v_aaaaaaaaaaa": {"annotations": [], "duration_second": 3}})
        with pytest.raises(DatasetError, match="no `subset`; expected training"):
            listed(tmp_path, **self.options)

    def test_other_files(self, tmp_path: Path) -> None:
        self.write(tmp_path, RELEASE | {"version": "VERSION 1.2"})
        with pytest.raises(DatasetError, match=r"version 'VERSION 1\.2'; expected 1\.3"):
            listed(tmp_path, **self.options)
        self.write(tmp_path, RELEASE | {"taxonomy": [{"nodeName": "Surfing"}]})
        with pytest.raises(DatasetError, match="'BMX' is no class of the taxonomy"):
            listed(tmp_path, **self.options)
        self.write(tmp_path, {"version": "VERSION 1.3", "results": {}})
        with pytest.raises(DatasetError, match="it is a submission with scores"):
            listed(tmp_path, **self.options)

    def test_names_that_are_left_out(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        for name, content in (("blocked.json", '["v_aaaaaaaaa", "gone"]'), ("blocked.txt", "v_aaaaaaaaa\ngone\n")):
            (tmp_path / name).write_text(content)
            listing = listed(tmp_path, leave_out=str(tmp_path / name), **self.options)
            assert "v_v_aaaaaaaaa" not in segments(listing)
            assert listing.published == {"train": 10024, "val": 4925, "test": 5044}
            assert listing.notes[:2] == (
                "1 video of dataset.leave_out: left out.",
                "1 name of dataset.leave_out: not in ActivityNet 1.3.",
            )
        (tmp_path / "blocked.json").write_text('["v_aaaa')
        with pytest.raises(DatasetError, match=r"blocked\.json: no JSON: .* Is it cut off"):
            listed(tmp_path, leave_out=str(tmp_path / "blocked.json"), **self.options)

    @pytest.mark.shared
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("mmaction2_action_test_anno.json", "v_test1: no `subset`"),
            ("sample_detection_prediction.cut.json", "submission"),
        ],
    )
    def test_real_files_that_are_no_annotations(self, tmp_path: Path, name: str, words: str) -> None:
        self.write(tmp_path)
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, str(SHARED / "datasets/activitynet"), kind="activitynet", file=name)

    @pytest.mark.shared
    def test_the_real_file_of_mmaction2(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos", "v_bYUmtLBL7W4.mp4")
        listing = listed(tmp_path, str(SHARED / "datasets/activitynet"), kind="activitynet", file="mmaction2_gt.json")
        assert segments(listing)["v_bYUmtLBL7W4"][0] == (11.553655226209049, 57.06805460218409, ["Wakeboarding"])


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


LISTED = {
    "database": {
        "one": entry("Training", (0.5, 1.5, "left"), (3, 3, "left"), (2.0, 1.0, "left"), (-1, 1, "right")),
        "two": entry("calibration", (0.0, 2.0, "right")),
    }
}


class TestJson(OwnersContract):
    options: ClassVar = {
        "kind": "json", "annotations": "mine.json", "prefix": "cam_", "subsets": {"calibration": "test"}
    }  # fmt: skip
    label_files = ("mine.json",)
    num_videos = 2
    is_published = False

    def write(self, root: Path, document: Any = LISTED) -> None:
        (root / "mine.json").write_text(document if isinstance(document, str) else json.dumps(document))
        touch(root / "videos", "cam_one.mp4", "b/cam_two.avi")

    def test_segments(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert segments(listing) == {
            "cam_one": [(0.0, 1.0, ["right"]), (0.5, 1.5, ["left"])],
            "cam_two": [(0.0, 2.0, ["right"])],
        }
        assert listing.listed == {"train": 1, "test": 1}
        assert [note.partition(" The")[0] for note in listing.notes] == [
            "Segments that do not end after their start: 2, dropped.",
            "Segments that start before 0 s: 1, start set to 0.",
        ]
        assert listed(tmp_path, classes=["right", "up", "left"], **self.options).classes == ("right", "up", "left")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda text: text[:-30], r"line 1, column \d+: no JSON: .* Is the file cut off"),
            (lambda text: text.replace('"two"', '"one"'), "'one' stands there twice"),
            (lambda text: text.replace('"two"', '"../two"'), r"'\.\./two' is no name of a video"),
            (lambda text: text.replace("calibration", "none"), "subset 'none'; expected training"),
            (lambda text: text.replace("[0.5, 1.5]", "[0.5, NaN]"), "one, segment 1: nan; expected a number of sec"),
            (lambda text: text.replace("[0.5, 1.5]", "[0.5]"), r"segment is \[0\.5\]; expected \[start, end\]"),
            (lambda text: text.replace('"left"', "7"), "label is 7; expected the name of a class"),
            (lambda text: text.replace('"left"', '"up"'), "'up' is none of the 2 classes of dataset.classes"),
            (lambda text: "[1]", "it holds a list; expected"),
            (lambda text: "[" * 100_000, "no JSON that can be read"),
            (lambda text: '{"images": [], "categories": []}', "it has the keys 'images', 'categories'; expected"),
            (lambda text: '{"database": {}}', "no video; expected"),
        ],
    )
    def test_damaged(self, tmp_path: Path, change: Callable[[str], str], words: str) -> None:
        self.write(tmp_path, change(json.dumps(LISTED)))
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, classes=["left", "right"], **self.options)

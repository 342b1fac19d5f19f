"""ActivityNet in its owners' layout."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch
from tests.stages.datasets.untrimmed import entry, segments

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

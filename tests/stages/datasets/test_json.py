"""Lists of own videos in the form of ActivityNet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch
from tests.stages.datasets.untrimmed import entry, segments

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
            (lambda text: text[:-30], r"line 1, column \d+: not JSON: .* Is the end of the file missing"),
            (lambda text: text.replace('"two"', '"one"'), "an object has the key 'one' twice"),
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

"""Something-Something V1 and V2 in their owners' layout."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.sides import sided_classes
from tests.conftest import SHARED
from tests.stages.datasets.owners_contract import OwnersContract, listed, touch

V1, V2 = "something-something-v1", "something-something-v2"
CLASSES = (
    "Something falling like a feather or paper",
    "Holding something",
    "Pushing something from left to right",
    "Lifting something up completely, then letting it drop down",
)
FEATHER, HOLDING, PUSHING, LIFTING = CLASSES


def put(root: Path, name: str, text: str) -> None:
    (root / name).write_bytes(text.encode())


def put_json(root: Path, name: str, content: Any) -> None:
    put(root, name, json.dumps(content, ensure_ascii=False))


def entry(video: str, template: str) -> dict[str, object]:
    return {"id": video, "label": f'free "text" of {video} \x7f', "template": template, "placeholders": ["Tücher"]}


class TestV1(OwnersContract):
    options: ClassVar = {"kind": "something_something", "version": 1}
    label_files = tuple(f"{V1}-{part}.csv" for part in ("labels", "train", "validation"))
    num_videos = 4

    def write(self, root: Path) -> None:
        put(root, f"{V1}-labels.csv", "".join(f"{name}\n" for name in CLASSES))
        put(root, f"{V1}-train.csv", f"100218;{FEATHER}\n7;{LIFTING}\n")
        put(root, f"{V1}-validation.csv", f"31;{HOLDING}\r\n30;{PUSHING}\r\n")
        put(root, f"{V1}-test.csv", "8\n")
        for video in ("100218", "7", "31", "30", "8"):
            touch(root / f"videos/20bn-something-something-v1/{video}", "00001.jpg", "00002.jpg")
        touch(root / "videos/flow/000007", "000007-x_00001.jpg", "000007-x_00002.jpg")

    def test_the_order_of_the_owners(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == CLASSES
        assert listing.classes_from == f"{V1}-labels.csv"
        videos = [(Path(video.path).name, video.split, video.labels, video.frame_rate) for video in listing.videos]
        assert videos == [("100218", "train", (0,), 12), ("30", "val", (2,), 12), ("31", "val", (1,), 12),
                          ("7", "train", (3,), 12)]  # fmt: skip

    def test_the_order_of_tsm(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options, class_order="sorted", frame_rate=30)
        assert listing.classes == tuple(sorted(CLASSES))
        assert listing.classes_from == f"{V1}-labels.csv, sorted"
        assert {video.labels for video in listing.videos if video.path.endswith("/31")} == {(0,)}
        assert {video.frame_rate for video in listing.videos} == {30}

    def test_a_sorted_file_is_said(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        put(tmp_path, f"{V1}-labels.csv", "\n".join(sorted(CLASSES)))
        assert "is sorted, and the owners' file is not" in listed(tmp_path, **self.options).notes[0]
        assert "is sorted" not in listed(tmp_path, **self.options, class_order="sorted").notes[0]

    def test_the_test_split_has_no_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options, test=True)
        assert [(Path(video.path).name, video.labels) for video in listing.videos if video.split == "test"] == [
            ("8", ())
        ]
        assert listing.published["test"] == 10960

    @pytest.mark.parametrize(
        ("part", "text", "words"),
        [
            ("labels", f"1;{HOLDING}\n", "expected the name of a class"),
            ("labels", f"{HOLDING}\n{HOLDING}\n", "is in something-something-v1-labels.csv: line 1, too"),
            ("labels", '{\n "Holding something":"0"\n}', "JSON, as of version 2"),
            ("train", "[\n{", "JSON, as of version 2"),
            ("train", "7\n8\n", "Is it the list of the test split"),
            ("train", "7;Holding some", "'Holding some' is none of the 4 classes of something-something-v1-labels.csv"),
            ("train", f"../7;{HOLDING}\n", r"'\.\./7' is no name of a video"),
            ("train", f"7;{HOLDING}\n7;{PUSHING}\n", "7 has the label 'Pushing .*', and 'Holding something' in "),
            ("train", f"31;{HOLDING}\n", "31 is in the split 'val', and in 'train'"),
            ("test", f"8;{HOLDING}\n", "Is it the list of the train split"),
        ],
    )
    def test_damaged(self, tmp_path: Path, part: str, text: str, words: str) -> None:
        self.write(tmp_path)
        put(tmp_path, f"{V1}-{part}.csv", text)
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options, test=True)

    def test_files_of_version_2(self, tmp_path: Path) -> None:
        TestV2().write(tmp_path)
        with pytest.raises(DatasetError, match=rf"has {V2}-labels.json and no .* Set dataset.version: 2"):
            listed(tmp_path, **self.options)


class TestV2(OwnersContract):
    options: ClassVar = {"kind": "something_something", "version": 2}
    label_files = tuple(f"{V2}-{part}.json" for part in ("labels", "train", "validation"))
    num_videos = 4

    def write(self, root: Path) -> None:
        put_json(root, f"{V2}-labels.json", {name: str(number) for number, name in enumerate(sorted(CLASSES))})
        train = [
            entry("220842", "[Something] falling like [a feather] or [paper]"),
            entry("7", "Lifting [something] up completely, then letting it drop down"),
        ]
        put_json(root, f"{V2}-train.json", train)
        val = [entry("31", "Holding [something]"), entry("30", "Pushing [something] from left to right")]
        put(root, f"{V2}-validation.json", json.dumps(val, indent=1).replace("\n", "\r\n"))
        put_json(root, f"{V2}-test.json", [{"id": "8"}])
        touch(
            root / "videos", *(f"20bn-something-something-v2/{name}.webm" for name in ("220842", "7", "31", "30", "8"))
        )

    def test_the_class_is_the_template_without_brackets(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert listing.classes == tuple(sorted(CLASSES))
        assert listing == listed(tmp_path, **self.options)
        named = {Path(video.path).stem: listing.classes[video.labels[0]] for video in listing.videos}
        assert named == {"220842": FEATHER, "7": LIFTING, "31": HOLDING, "30": PUSHING}

    def test_both_orders_are_the_same(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        assert listed(tmp_path, **self.options).videos == listed(tmp_path, **self.options, class_order="sorted").videos

    def test_the_test_split_has_no_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options, test=True)
        assert [(Path(video.path).stem, video.labels) for video in listing.videos if video.split == "test"] == [
            ("8", ())
        ]

    def test_the_short_names_of_todays_download(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        whole = listed(tmp_path, **self.options)
        for part in ("labels", "train", "validation"):
            (tmp_path / f"{V2}-{part}.json").rename(tmp_path / f"{part}.json")
        assert listed(tmp_path, **self.options).videos == whole.videos

    def test_folders_of_images(self, tmp_path: Path) -> None:
        """Others cut the videos into images, at a rate of their own."""
        self.write(tmp_path)
        (tmp_path / "videos/20bn-something-something-v2/31.webm").unlink()
        touch(tmp_path / "videos/frames/31", "000001.jpg", "000002.jpg")
        assert list(listed(tmp_path, **self.options).missing) == ["31"]
        listing = listed(tmp_path, **self.options, frame_rate=30)
        assert not listing.missing
        assert {video.frame_rate for video in listing.videos} == {None, 30}

    @pytest.mark.parametrize(
        ("part", "text", "words"),
        [
            ("labels", '{"A":"0","B":"2"}', "expected the numbers from 0 to 1"),
            ("labels", '{"A":"zero"}', "expected the numbers from 0 to 0"),
            ("labels", '[{"id":"7"}]', "a list; expected"),
            ("train", '[\n{"id":"7","label":"a","templ', "line 2, .*: not JSON: .* Get it again"),
            ("train", "[" * 100_000, "no JSON that can be read"),
            ("train", f"7;{HOLDING}\n", "line 1, column 2: not JSON"),
            ("train", '{"Holding something":"0"}', "no list; expected"),
            ("train", '[{"id":7,"template":"Holding [something]"}]', "entry 1: expected an object with"),
            ("train", '["7"]', "entry 1: expected an object with"),
            ("train", '[{"id":"7"}]', "Is it the list of the test split"),
            (
                "train",
                '[{"id":"7","template":"Juggling [something]"}]',
                "'Juggling something' is none of the 4 classes",
            ),
            ("train", '[{"id":"../7","template":"Holding [something]"}]', r"'\.\./7' is no name of a video"),
            ("train", '[{"id":"\\ud800","template":"Holding [something]"}]', "is no name of a video"),
            ("test", '[{"id":"8","template":"Holding [something]"}]', "Is it another list"),
        ],
    )
    def test_damaged(self, tmp_path: Path, part: str, text: str, words: str) -> None:
        self.write(tmp_path)
        put(tmp_path, f"{V2}-{part}.json", text)
        with pytest.raises(DatasetError, match=words):
            listed(tmp_path, **self.options, test=True)

    def test_two_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        twice = [entry("7", "Holding [something]"), entry("7", "Pushing [something] from left to right")]
        put_json(tmp_path, f"{V2}-train.json", twice)
        with pytest.raises(DatasetError, match=r"entry 2: 7 has the label 'Pushing .*', and 'Holding something' in"):
            listed(tmp_path, **self.options)

    def test_files_of_version_1(self, tmp_path: Path) -> None:
        TestV1().write(tmp_path)
        with pytest.raises(DatasetError, match=rf"has {V1}-labels.csv and no .* Set dataset.version: 1"):
            listed(tmp_path, **self.options)

    def test_folders_of_version_1(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "videos").rename(tmp_path / "elsewhere")
        touch(tmp_path / "videos/7", "00001.jpg", "00002.jpg")
        with pytest.raises(DatasetError, match=r"folder of numbered images .* and no video"):
            listed(tmp_path, **self.options)


def test_finetune_knows_the_classes_with_a_side() -> None:
    assert sided_classes(CLASSES) == [PUSHING]


@pytest.mark.shared
@pytest.mark.parametrize("version", [1, 2])
def test_the_made_files(tmp_path: Path, version: int) -> None:
    """One of the made-up ids is listed twice with two labels. It is refused, so one of its lines is left out here."""
    folder = SHARED / f"datasets/something_something/made/v{version}"
    for path in folder.iterdir():
        lines = path.read_text().splitlines(keepends=True)
        twice = '"id":"230563","label":"doing made-up thing 230563","template":"Removing'
        put(tmp_path, path.name, "".join(line for line in lines if twice not in line))
    rows = json.loads((folder.parent / "expected.json").read_text())[f"v{version}"]
    expected = {row["id"]: row.get("label") for part in rows.values() for row in part}
    images = (f"{video}/{number:05}.jpg" for video in expected for number in (1, 2))
    touch(tmp_path / "videos", *(images if version == 1 else (f"{video}.webm" for video in expected)))
    listing = listed(tmp_path, kind="something_something", version=version, test=True)
    labels = {Path(video.path).stem: next(iter(video.labels), None) for video in listing.videos}
    assert labels == expected
    assert len(listing.classes) == 174
    assert not listing.notes

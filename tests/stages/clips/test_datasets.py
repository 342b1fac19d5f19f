"""What a folder or a csv lists."""

from pathlib import Path

import pytest

from stages.clips.datasets import DatasetError, Listing, dealt_split, list_videos
from stages.clips.options import FolderOptions


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path, csv: str | None = None, **options: object) -> Listing:
    if csv is not None:
        (root / "list.csv").write_text(csv, encoding="utf-8")
        options["annotations"] = str(root / "list.csv")
    return list_videos(FolderOptions.model_validate({"kind": "folder", "root": str(root)} | options))


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "walk/b.mp4", "walk/deep/er/a.MKV", "run/a.avi", "run/notes.txt", "loose.webm")
    found = listed(tmp_path)
    assert found.classes == ("run", "walk")
    assert [(video.video_id, video.labels) for video in found.videos] == [
        ("loose.webm", ()),
        ("run/a.avi", (0,)),
        ("walk/b.mp4", (1,)),
        ("walk/deep/er/a.MKV", (1,)),
    ]
    assert {video.path for video in found.videos} == {str(tmp_path / video.video_id) for video in found.videos}
    assert {video.split for video in found.videos} == {"train"}


def test_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/walk/a.mp4", "test/walk/b.mp4", "val/run/c.mp4")
    found = {video.video_id: (video.split, video.labels) for video in listed(tmp_path).videos}
    assert found == {
        "train/walk/a.mp4": ("train", (1,)),
        "test/walk/b.mp4": ("test", (1,)),
        "val/run/c.mp4": ("val", (0,)),
    }


def test_one_stem_twice_is_two_videos(tmp_path: Path) -> None:
    touch(tmp_path, "test.avi", "test.mp4")
    assert [video.video_id for video in listed(tmp_path).videos] == ["test.avi", "test.mp4"]


def test_csv(tmp_path: Path) -> None:
    """Listed videos stay listed even where there is no file; a label may be absent, or several."""
    found = listed(tmp_path, "\ufeffpath,label,split\nb.mp4,walk;run,test\na.mp4,,val\n/else/where.mp4,walk,train\n")
    assert found.classes == ("run", "walk")
    assert [(v.video_id, v.path, v.split, v.labels) for v in found.videos] == [
        ("/else/where.mp4", "/else/where.mp4", "train", (1,)),
        ("a.mp4", str(tmp_path / "a.mp4"), "val", ()),
        ("b.mp4", str(tmp_path / "b.mp4"), "test", (0, 1)),
    ]


def test_intervals(tmp_path: Path) -> None:
    """Each line is an item of its own; what is said of seconds loses no digit and does not depend on spelling."""
    found = listed(
        tmp_path, "path,label,start,end\na.mp4,run,1.50,4.25\na.mp4,walk,-0, 30\na.mp4,walk,,\nb.mp4,run,0.1,1e2\n"
    )
    assert [(video.video_id, video.interval, video.labels) for video in found.videos] == [
        ("a.mp4", None, (1,)),
        ("a.mp4@0-30", (0.0, 30.0), (1,)),
        ("a.mp4@1.5-4.25", (1.5, 4.25), (0,)),
        ("b.mp4@0.1-100", (0.1, 100.0), (0,)),
    ]
    assert {Path(video.path).name for video in found.videos} == {"a.mp4", "b.mp4"}


def test_all_intervals_of_a_video_are_dealt_into_one_split(tmp_path: Path) -> None:
    lines = [f"{name}.mp4,run,{start},{start + 1}\n" for name in "abcdefgh" for start in range(8)]
    found = listed(tmp_path, "".join(["path,label,start,end\n", *lines]), splits={"train": 1, "test": 1})
    splits = {name: {video.split for video in found.videos if Path(video.path).stem == name} for name in "abcdefgh"}
    assert {len(split) for split in splits.values()} == {1}
    assert len(set.union(*splits.values())) == 2, "some video must fall into each"


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ("path,class\na.mp4,walk\n", r"list.csv: no column label in its header \['path', 'class'\]"),
        ("", "no column label, path"),
        ("path,label\na.mp4,walk\na.mp4,run\n", "a.mp4 is listed twice"),
        ("path,label\n", "no video"),
        ("path,label\na.mp4,walk\n,run\n", "line 3: no path"),
        ("path,label,start\na.mp4,walk,1\n", "column start alone"),
        (
            "path,label,start,end\na.mp4,walk,1,2\na.mp4,run,1.0,2.00\n",
            "a.mp4@1-2 is listed twice.*let one end a millisecond later",
        ),
        *(
            (
                f"path,label,start,end\na.mp4,walk,{given}\n",
                r"line 2: start '.*', end '.*'; expected seconds, 0 <= start <",
            )
            for given in ("2,2", "2,1", "-1,2", "nan,2", "1,nan", "1,inf", "1,", ",2", "one,2")
        ),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path: Path, csv: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        listed(tmp_path, csv)


def test_a_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe.mp4,walk\n")
    with pytest.raises(DatasetError, match=r"list\.csv: not UTF-8"):
        listed(tmp_path, annotations=str(tmp_path / "list.csv"))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.root: no folder .*nowhere"):
        listed(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"dataset\.annotations: no file .*none\.csv"):
        listed(tmp_path, annotations=str(tmp_path / "none.csv"))
    with pytest.raises(DatasetError, match=r"dataset\.root: no video below .*\.mp4"):
        listed(tmp_path)


def test_splits_are_dealt_by_share_and_for_good(tmp_path: Path) -> None:
    names = [f"v{number}.mp4" for number in range(1000)]
    dealt = {name: dealt_split(name, {"train": 7, "val": 1, "test": 2}) for name in names}
    counts = {split: list(dealt.values()).count(split) for split in ("train", "val", "test")}
    assert abs(counts["train"] - 700) < 50
    assert abs(counts["val"] - 100) < 40
    touch(tmp_path, *names[:3])
    few = {
        video.video_id: video.split for video in listed(tmp_path, splits={"train": 0.7, "val": 0.1, "test": 0.2}).videos
    }
    assert few == {name: dealt[name] for name in names[:3]}, "neither other videos nor the scale of the shares matter"


def test_classes_that_are_named_keep_their_order_and_number(tmp_path: Path) -> None:
    csv = "path,label\na.mp4,walk\n"
    found = listed(tmp_path, csv, classes=["walk", "run", "jump"], multi_label=True)
    assert (found.classes, found.videos[0].labels, found.multi_label) == (("walk", "run", "jump"), (0,), True)
    charades = "c000 Holding some clothes\nc001 Putting clothes somewhere\n\n"
    (tmp_path / "classes.txt").write_text(charades)
    found = listed(tmp_path, "path,label\na.mp4,c001\n", classes=str(tmp_path / "classes.txt"))
    assert found.classes == tuple(charades.split("\n")[:2])
    assert found.videos[0].labels == (1,)


@pytest.mark.parametrize(
    ("label", "options", "words"),
    [
        ("jmp", {"classes": ["jump"]}, r"a\.mp4 has the label 'jmp', which is none of the 1 in dataset\.classes"),
        ("jump", {"classes": ["jump", "run", "jump"]}, r"dataset\.classes: 'jump' stands there twice"),
        ("jump", {"classes": "nowhere.txt"}, r"dataset\.classes: no file nowhere\.txt"),
        ("jump;run", {"multi_label": False}, r"a\.mp4 has 2 labels, and dataset\.multi_label is false"),
    ],
    ids=["unknown", "twice", "no file", "several"],
)
def test_labels_that_are_not_allowed_are_named(
    label: str, options: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=words):
        listed(tmp_path, f"path,label\na.mp4,{label}\n", **options)

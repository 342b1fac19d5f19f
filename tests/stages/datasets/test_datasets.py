"""What a folder or a csv lists."""

import os
from pathlib import Path

import pytest

from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folders import contents_of_url
from kinegraph.stages.datasets.listing import Listing, split_by_share
from kinegraph.stages.datasets.options import FolderOptions


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
    with pytest.raises(DatasetError, match=r"list\.csv: line 2: not UTF-8"):
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
    dealt = {name: split_by_share(name, {"train": 7, "val": 1, "test": 2}) for name in names}
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
        ("jump", {"classes": ["jump", "run", "jump"]}, r"dataset\.classes: 'jump' is listed twice"),
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


def test_class_folders_may_be_links_and_links_may_lead_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "disk/run/1.mp4", "videos/walk/1.mp4")
    (tmp_path / "videos" / "run").symlink_to(tmp_path / "disk" / "run")
    (tmp_path / "videos" / "walk" / "up").symlink_to(tmp_path / "videos")
    (tmp_path / "videos" / "walk" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = listed(tmp_path / "videos")
    assert [video.video_id for video in found.videos] == ["run/1.mp4", "walk/1.mp4"]
    assert found.classes == ("run", "walk")
    assert f"{tmp_path}/videos/walk/up is a link to a folder that it lies in. It is not listed." in caplog.text
    assert "gone.mp4 is no regular file, or a link that leads nowhere" in caplog.text


def test_a_folder_that_may_not_be_read_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "locked/1.mp4", "walk/1.mp4")
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read all
    assert [video.video_id for video in listed(tmp_path).videos] == ["walk/1.mp4"]
    assert "locked cannot be read: Permission denied. It is not listed." in caplog.text


def test_files_that_are_no_videos_are_counted_by_ending(tmp_path: Path) -> None:
    touch(
        tmp_path, "walk/a.GIF", "walk/a.m2ts", "walk/a.txt", "walk/b.TXT", "README", "walk/a.a sentence, not an ending"
    )
    found = listed(tmp_path)
    assert [video.video_id for video in found.videos] == ["walk/a.GIF", "walk/a.m2ts"]
    assert dict(found.left_out) == {".txt": 2, "(no ending)": 2}


def test_split_folders_go_by_many_names(tmp_path: Path) -> None:
    touch(tmp_path, "Training/walk/a.mp4", "VALID/walk/b.mp4", "validation/c.mp4", "testing/run/d.mp4")
    found = listed(tmp_path)
    assert [(video.split, video.labels) for video in found.videos] == [
        ("train", (1,)), ("val", (1,)), ("test", (0,)), ("val", ()),
    ]  # fmt: skip
    touch(tmp_path, "jump/e.mp4")
    with pytest.raises(
        DatasetError, match=r"has folders of splits \(.*\) beside others \(jump\).*dataset\.annotations"
    ):
        listed(tmp_path)


def test_a_name_that_is_not_utf8_is_listed_by_its_printable_form(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4")
    (tmp_path / "walk" / os.fsdecode(b"caf\xe9.mp4")).touch()
    found = listed(tmp_path)
    assert [video.video_id for video in found.videos] == ["walk/a.mp4", r"walk/caf\xe9.mp4"]
    assert found.videos[1].path == str(tmp_path / r"walk/caf\xe9.mp4")


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ('path,label\na.mp4,walk\n"b.mp4,run\nc.mp4,run\n', "line 3: a quote that begins there is not closed"),
        ('path,label\na.mp4,walk\n"b.mp4,run\nc.mp4",run\n', "line 3: a line break in path. Close the quote"),
        ('path,label\n"a"b.mp4,walk\n', "line 2: ',' expected after"),
        ("path,label,split\na.mp4,walk\n", "line 2: 2 fields, but the header has 3: path,label,split"),
        ("path,label\n\na.mp4,walk,train\n", "line 3: 3 fields, but the header has 2"),
        ("path,label,label\na.mp4,walk,run\n", "column 'label' stands twice"),
        ("path,label\na.mp4,wa\0lk\n", "line 2: a NUL in label"),
        (f"path,label\na.mp4,walk\nb.mp4,{'x' * 131073}\n", "line 3: a field of over 131072 characters"),
    ],
    ids=["open quote", "swallowed lines", "quote inside", "few", "many", "header", "nul", "long"],
)
def test_a_csv_is_read_strictly(tmp_path: Path, csv: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        listed(tmp_path, csv)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_csv_in_utf16_is_refused_in_words(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\na.mp4,walk\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"list\.csv: it looks like UTF-16.*Save it as UTF-8"):
        listed(tmp_path, annotations=str(tmp_path / "list.csv"))


def test_a_path_with_a_nul_is_listed(tmp_path: Path) -> None:
    found = listed(tmp_path, "path,label\na\0.mp4,walk\nb.mp4,run\n")
    assert [video.video_id for video in found.videos] == ["a\0.mp4", "b.mp4"]


def test_images_at_urls_are_left_out() -> None:
    found = contents_of_url([(f"v/{name}", f"s3://b/v/{name}") for name in ("00001.jpg", "00002.jpg", "a.mp4")])
    assert (found.videos, found.left_out, found.folders) == ([("v/a.mp4", "s3://b/v/a.mp4")], {".jpg": 2}, [])


def test_thumbnails_beside_videos_are_no_video(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "walk/a_1.jpg", "walk/a_2.jpg", "run/1.jpg", "jump/v/0.png", "jump/v/1.png")
    found = listed(tmp_path, frame_rate=10)
    assert [(video.video_id, video.frame_rate) for video in found.videos] == [("jump/v", 10.0), ("walk/a.mp4", None)]
    assert dict(found.left_out) == {".jpg": 3}

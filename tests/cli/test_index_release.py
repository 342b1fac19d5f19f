"""`index` of a data set in its owners' layout: what it says, --strict, its documents, wrong label files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from tests.caches import write_config
from tests.coded_videos import write
from tests.stages.datasets.test_charades import CLASSES, TRAIN, TestCharades, csv_text

Command = Callable[..., Any]
TRAIN_CSV, TEST_CSV, CLASS_FILE = TestCharades.label_files[1], TestCharades.label_files[2], TestCharades.label_files[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 2 s."""
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", 20, 10, size=(64, 48)).read_bytes()


@pytest.fixture
def config(tmp_path: Path, clip: bytes) -> Path:
    """Four videos are listed: 00012 is no video, 07E49 is missing."""
    TestCharades().write(tmp_path)
    videos = tmp_path / "videos/Charades_v1_480"
    for path in videos.iterdir():
        path.write_bytes(b"no video" if path.stem == "00012" else clip)
    (videos / "07E49.mp4").unlink()
    (tmp_path / "Charades_v1_mapping.txt").write_text("c000 o001 v001\nc001 o001 v000\nc002 o000 v002\n")
    (tmp_path / "Charades_v1_objectclasses.txt").write_text("o000 None\no001 door\n")
    dataset = {"kind": "charades", "root": str(tmp_path / "videos"), "annotations": str(tmp_path)}
    return write_config(tmp_path / "my.yaml", {"cache": str(tmp_path / "cache"), "dataset": dataset})


def test_what_it_found(kinegraph: Command, config: Path, cache: Path) -> None:
    said = kinegraph("index", config)
    assert said.exit_code == 0
    assert "train       3      7,985        2        1           1" in said.stdout
    assert "val         1      1,863        1        0           0" in said.stdout
    assert "3 classes, in the order of Charades_v1_classes.txt" in said.stdout
    assert f"missing videos are listed in {cache}/missing.txt" in said.stderr
    assert "Charades has 157" in said.stderr
    assert max(map(len, said.stdout.splitlines())) <= 80 + len(str(cache))
    assert (cache / "missing.txt").read_text() == "07E49\ttrain\tno file 07E49 with the ending of a video\n"


def test_strict(kinegraph: Command, config: Path, cache: Path, clip: bytes) -> None:
    """It writes all, and ends with 1. Videos that are there again are missing no longer."""
    said = kinegraph("index", config, "--strict")
    assert said.exit_code == 1
    assert "train: 3 listed of 7,985 published, 1 missing, 1 unreadable." in said.stderr
    assert Cache(cache).num_rows == 3
    for name in ("00012", "07E49"):
        (config.parent / f"videos/Charades_v1_480/{name}.mp4").write_bytes(clip)
    document = json.loads(kinegraph("index", config, "--json").stdout)
    assert document["files"]["train"] == {"listed": 3, "published": 7985, "present": 3, "missing": 0, "unreadable": 0}
    assert document["missing"] == {}
    assert document["differences"] == [
        "train: 3 listed of 7,985 published.", "val: 1 listed of 1,863 published.", "3 classes, published 157.",
    ]  # fmt: skip
    assert not (cache / "missing.txt").exists()


def test_a_video_that_is_deleted_keeps_its_rows(kinegraph: Command, config: Path, cache: Path, clip: bytes) -> None:
    """It is missing, not unreadable. A video that comes back has its rows, and a new video gets new ones."""
    assert kinegraph("index", config).exit_code == 0
    before = [*Cache(cache).clips.rows()]
    video = config.parent / "videos/Charades_v1_480" / Path(before[-1].path).name
    content = video.read_bytes()
    video.unlink()
    (video.parent / "07E49.mp4").write_bytes(clip)
    said = json.loads(kinegraph("index", config, "--json").stdout)
    rows = [*Cache(cache).clips.rows()]
    assert [row.clip_id for row in rows] == [*(row.clip_id for row in before), "Charades_v1_480/07E49.mp4:0:center"]
    assert [(row.labels, row.target_times) for row in rows[:-1]] == [(row.labels, row.target_times) for row in before]
    split = before[-1].split
    assert said["files"][split]["missing"] == 1
    assert [*said["unreadable"]] == ["Charades_v1_480/00012.mp4"]
    assert sum(of_split["unreadable"] for of_split in said["splits"].values()) == 1
    assert f"1 missing video keeps its rows: {before[-1].video_id}." in " ".join(said["notes"])
    assert [*said["missing"]] == [video.stem]
    video.write_bytes(content)
    assert json.loads(kinegraph("index", config, "--json").stdout)["missing"] == {}
    assert [row.clip_id for row in Cache(cache).clips.rows()] == [row.clip_id for row in rows]


def test_documents_of_the_cache(kinegraph: Command, config: Path, cache: Path, tmp_path: Path) -> None:
    assert kinegraph("index", config).exit_code == 0
    assert Cache(cache).classes == [*CLASSES]
    assert Cache(cache).classes_from == CLASS_FILE
    assert (cache / "class_attributes.csv").read_text().splitlines()[1:] == [
        f'"{CLASSES[0]}",door,v001', f"{CLASSES[1]},door,v000", f'"{CLASSES[2]}",None,v002',
    ]  # fmt: skip
    assert kinegraph("export", cache, tmp_path / "copy", "--to", "zarr").exit_code == 0
    for name in ("missing.txt", "class_attributes.csv", "labels.json", "classes.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (cache / name).read_bytes()
    for name, content in (("missing.txt", b"a\n"), ("class_attributes.csv", b"\xff"), ("class_attributes.csv", b"x\n")):
        whole = (cache / name).read_bytes()
        (cache / name).write_bytes(content)
        verified = kinegraph("verify", cache)
        assert verified.exit_code == 1
        assert f"{name} is damaged" in verified.stdout
        (cache / name).write_bytes(whole)
    assert kinegraph("verify", cache).exit_code == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (TRAIN_CSV, csv_text(TRAIN).encode("utf-16"), "Save it as UTF-8"),
        (TRAIN_CSV, csv_text(TRAIN).encode()[:-9], "line 4: "),
        (TRAIN_CSV, csv_text({"../x": ("", "1.00")}).encode(), "'../x' is no name of a video"),
        (TRAIN_CSV, b"id;label\n1;2\n", "no column actions, id, length in its header"),
        (TRAIN_CSV, b"", "no column actions, id, length in its header"),
        (CLASS_FILE, b"c000 One\n", "is none of the 1 class of Charades_v1_classes.txt"),
        (CLASS_FILE, csv_text(TRAIN).encode(), "expected `c000 <name>`"),
        (TEST_CSV, csv_text(TRAIN).encode(), "is in the split 'val', and in 'train'"),
    ],
)
def test_wrong_label_files(
    kinegraph: Command, config: Path, cache: Path, name: str, content: bytes, words: str
) -> None:
    (config.parent / name).write_bytes(content)
    said = kinegraph("index", config)
    assert said.exit_code == 2
    assert words in said.stderr
    assert not cache.exists()


def test_a_window_longer_than_every_video(kinegraph: Command, config: Path) -> None:
    windows = "clips={sampling: windows, num_frames: 64, fps: 10, hop_frames: 8}"
    said = kinegraph("index", config, "--set", windows, "--set", "dataset.labels=interval")
    assert said.exit_code == 2
    assert "a window has 64 frames, and the longest of 1 video has 20" in said.stderr


def test_no_video_at_all(kinegraph: Command, config: Path) -> None:
    (config.parent / "videos").rename(config.parent / "elsewhere")
    (config.parent / "videos").mkdir()
    said = kinegraph("index", config)
    assert said.exit_code == 2
    assert "none of the 4 videos of Charades is below" in said.stderr

"""What `index` says of a data set: figures of each split, odd labels and names, files that two videos would share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.words import shown
from kinegraph.cli.printing.text import note, note_listed, say, table
from kinegraph.pipeline.caches.index_summary import label_warnings, mirror_warnings
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.exchange.to_npy import export_npy
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.datasets.listing import Listing, Video
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]


def labelled(*names: str) -> Listing:
    classes = tuple(sorted(set(names)))
    videos = tuple(
        Video(video_id=f"{n}.mp4", path="", split="train", labels=(classes.index(name),), list_index=n)
        for n, name in enumerate(names)
    )
    return Listing(classes=classes, videos=videos)


def test_figures_of_each_split(load: Load, video_folder: Path) -> None:
    (video_folder / "left" / "words.txt").write_text("words")
    (video_folder / "left" / "v1.mp4").write_bytes(b"")
    csv = video_folder.parent / "list.csv"
    lines = ["left/v1.mp4,l,train", "left/v3.mp4,l,train", "left/v5.mp4,,test", "right/v0.mp4,l;r,train"]
    csv.write_text("\n".join(["path,label,split", *lines]))
    found = index(load(f"dataset.annotations={csv}", "clips.per_video=2")).to_json()
    assert found["splits"] == {
        "train": {
            "videos": 3, "clips": 6, "hours": 0.001, "classes": 2,
            "labels_per_class": {"min": 1, "median": 2.0, "max": 3}, "unlabelled": 0, "unreadable": 1,
        },
        "test": {
            "videos": 1, "clips": 2, "hours": 0.001, "classes": 0, "labels_per_class": None, "unlabelled": 1,
            "unreadable": 0,
        },
    }  # fmt: skip
    assert [*found["unreadable"]] == ["left/v1.mp4"]
    assert json.loads(json.dumps(found)) == found
    assert index(load(name="other")).to_json()["left_out"] == {".txt": 1}


def test_classes_that_occur_once_and_actions_with_times_are_named() -> None:
    many = ["walk"] * 200
    assert label_warnings(labelled(*many, "run", "run"), are_named=False) == []
    (once,) = label_warnings(labelled(*many, "wlak", "run", "run"), are_named=False)
    assert once.startswith("found once among 203 labelled videos: 1 of 3 classes, wlak.")
    (triple,) = label_warnings(labelled(*many, "c092 11.90 21.20"), are_named=False)
    assert "1 class looks like actions of Charades with their times, as 'c092 11.90 21.20'" in triple
    assert label_warnings(labelled(*many, "wlak"), are_named=True) == []
    assert label_warnings(labelled("a", "b"), are_named=False) == [], "in a small list each class may occur once"


@pytest.mark.parametrize("key", ["proposals", "graphs"])
def test_two_videos_that_would_share_a_file_are_refused(key: str, load: Load, video_folder: Path) -> None:
    write_video(video_folder / "right" / "v0.avi", moving_square(12, 96, 80))
    words = rf"{key}\.files: right/v0\.avi and right/v0\.mp4 would both be given /b/right/v0\.json"
    given: dict[str, Any] = {"proposals": "{source: file, files: '/b/{stem}.json', top: 4}"}
    given["graphs"] = "{source: file, files: '/b/{stem}.json', vocabulary: {classes: [a], relations: [b]}}"
    with pytest.raises(ConfigError, match=words):
        index(load(f"{key}={given[key]}"))
    cache = index(load()).cache
    with pytest.raises(ConfigError, match=words):
        make_plan(load(f"{key}={given[key]}"), cache)
    assert index(load(f"{key}={given[key].replace('stem', 'video_id')}", name="other")).num_videos == 7


def test_odd_names_go_all_the_way(load: Load, video_folder: Path, tmp_path: Path) -> None:
    """Names of 251 bytes, that are not UTF-8, with an escape sequence: extracted, exported, and found unchanged."""
    content = (video_folder / "left" / "v1.mp4").read_bytes()
    long = "n" * 247 + ".mp4"
    for name in (long.encode(), b"caf\xe9.mp4", b"\x1b[31mred\n.mp4"):
        (video_folder / "left" / os.fsdecode(name)).write_bytes(content)
    config = load()
    found = index(config)
    assert (found.num_videos, found.unreadable) == (9, {})
    assert not extract(config).failures
    assert not extract(config).plan.units, "none has changed"
    cache = Cache(config.cache)
    assert r"left/caf\xe9.mp4" in cache.clips.column("video_id")
    exported = export_npy(cache, str(tmp_path / "npy"), ["features/tiny/res4_pooled"])
    assert (exported.num_files, exported.damaged) == (9, [])
    names = {path.name for path in (tmp_path / "npy").rglob("*.npy")}
    assert any(name.startswith("nnnn") and name.endswith(".npy") for name in names)


def test_a_csv_with_a_nul_marks_that_video(load: Load, video_folder: Path) -> None:
    csv = video_folder.parent / "list.csv"
    csv.write_text("path,label\nleft/v1\0.mp4,l\nleft/v3.mp4,l\n")
    config = load(f"dataset.annotations={csv}")
    assert [*index(config).unreadable] == ["left/v1\0.mp4"]
    assert [failure.reason for failure in extract(config, stages=["proposals"]).failures[:1]] == ["unreadable"]


def test_what_a_terminal_would_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\r\x9b\u202e\nb"
    told = r"a\x1b[2J\r\x9b\u202e"
    note(name)
    say(name)
    note_listed("title", [name])
    assert capsys.readouterr() == (f"{told}\nb\n", f"{told}\nb\ntitle\n  {told}\\nb\n")
    assert table(["name"], [[name]]) == f"name\n{told}\\nb"
    assert shown("चलना é 走\u200d") == "चलना é 走\u200d"
    assert shown("\udce9") == r"\udce9"


def test_mirrored_crops_of_classes_that_tell_left_from_right() -> None:
    """`right` in `upright` and `left` in `leftover` say nothing of a side."""
    classes = ["Holding something upright", "Pushing something from left to right", "Eating leftovers"]
    (warning,) = mirror_warnings(classes, ["center", "left_flip"])
    assert "left_flip mirrors the frames, and 1 class tells left from right, such as 'Pushing" in warning
    assert mirror_warnings(classes, ["center", "left"]) == []
    assert mirror_warnings(classes[::2], ["left_flip"]) == []

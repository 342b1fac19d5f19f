"""`kinegraph init`: what it finds becomes a config that index and plan take, without a network."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kinegraph.pipeline.config import load_config
from tests.conftest import six_videos

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def works(kinegraph: Command, config: str, num_videos: int, *overrides: str) -> None:
    indexed = kinegraph("index", config, *overrides)
    assert (indexed.exit_code, indexed.stderr) == (0, "")
    assert f" {num_videos} videos" in indexed.stdout
    planned = kinegraph("plan", config, *overrides)
    assert planned.exit_code == 0
    assert planned.stdout.startswith("stage")


def test_class_folders(kinegraph: Command) -> None:
    six_videos(Path("my videos"))
    made = kinegraph("init", "my videos")
    assert made.exit_code == 0
    assert made.stdout.startswith("my_videos.yaml: 6 videos (")
    text = Path("my_videos.yaml").read_text()
    assert "# 2 classes: left, right\n" in text
    config = load_config("my_videos.yaml")
    assert config.dataset is not None
    assert config.dataset.root == "my videos"
    assert config.backbones["i3d"].weights == "pytorchvideo_8x8"
    works(kinegraph, "my_videos.yaml", 6)
    assert kinegraph("plan", "my_videos.yaml").stderr == "", "clips are those that the weights were trained on"
    (trial,) = re.findall(r"#   (--set .*)", text)
    works(kinegraph, "my_videos.yaml", 6, *shlex.split(trial))
    assert load_config("my_videos.yaml", shlex.split(trial)[1::2]).backbones["i3d"].weights == "random:0"


def test_an_existing_file_stays(kinegraph: Command) -> None:
    six_videos(Path("videos"))
    Path("videos.yaml").write_text("mine")
    refused = kinegraph("init", "videos")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "videos.yaml exists, and is left as it is. Name another file with --out" in refused.stderr
    assert Path("videos.yaml").read_text() == "mine"
    assert kinegraph("init", "videos", "--out", "other.yaml").exit_code == 0


def test_split_folders(kinegraph: Command) -> None:
    for split in ("train", "Validation"):
        six_videos(Path("videos", split))
    assert kinegraph("init", "videos").stdout.startswith("videos.yaml: 12 videos (6 train, 6 val), 2 classes\n")
    document = yaml.safe_load(Path("videos.yaml").read_text())
    assert "splits" not in document["dataset"]
    assert [document["train"][f"{split}_split"] for split in ("train", "val", "test")] == ["train", "val", "val"]
    works(kinegraph, "videos.yaml", 12)


def test_a_csv(kinegraph: Command) -> None:
    six_videos(Path("videos"))
    Path("videos", "classes.csv").write_text("id,name\n0,a\n")
    listed = Path("videos", "all.csv")
    listed.write_text("path,label,split\nleft/v1.mp4,a;b,train\nright/v0.mp4,b,test\n")
    made = kinegraph("init", "videos")
    assert made.stdout.startswith("videos.yaml: 2 videos (1 test, 1 train), 2 classes, listed in videos/all.csv\n")
    document = yaml.safe_load(Path("videos.yaml").read_text())
    assert document["dataset"]["multi_label"] is True
    assert document["train"]["val_split"] is None
    works(kinegraph, "videos.yaml", 2)
    shutil.copy(listed, "videos/more.csv")
    refused = kinegraph("init", "videos", "--out", "two.yaml")
    assert refused.exit_code == 2
    assert "several lists of videos: videos/all.csv, videos/more.csv. Name one with --annotations" in refused.stderr
    assert kinegraph("init", "videos", "--out", "two.yaml", "--annotations", "videos/more.csv").exit_code == 0


def test_folders_of_images(kinegraph: Command) -> None:
    for name in ("left/a", "right/b"):
        Path("videos", name).mkdir(parents=True)
        for number in range(1, 31):
            Image.new("RGB", (96, 80), (number, 0, 0)).save(Path("videos", name, f"{number:05d}.jpg"))
    kinegraph("init", "videos")
    assert "frame_rate: 25  # a guess" in Path("videos.yaml").read_text()
    works(kinegraph, "videos.yaml", 2)


@pytest.mark.parametrize("name", ['a: {b} #"c"', "two\nlines\nclips: {}", "1", "größe", "null", "\x1b[31m"])
def test_any_name_of_a_folder(kinegraph: Command, name: str) -> None:
    six_videos(Path("videos")).rename(name)  # FFmpeg would take some of the names for protocols
    made = kinegraph("init", name, "--out", "my.yaml")
    assert made.exit_code == 0
    config = load_config("my.yaml")
    assert config.dataset is not None
    assert config.dataset.root == name
    assert "\x1b" not in made.stdout + Path("my.yaml").read_text()


def test_what_is_no_folder_of_videos(kinegraph: Command) -> None:
    Path("empty").mkdir()
    for folder, words in {
        "empty": "no video below empty",
        "nowhere": "no folder nowhere",
        "s3://bucket/videos": "is a URL; init looks into folders",
    }.items():
        refused = kinegraph("init", folder)
        assert (refused.exit_code, words in refused.stderr) == (2, True), refused.stderr
    assert not [*Path().glob("*.yaml")]

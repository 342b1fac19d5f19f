"""`export` and `import`: exit codes, what they print, and that they need no torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinegraph.cli.exchange import FORMATS
from kinegraph.stages.imports.recognise import KINDS
from tests.foreign import C, boxes, features, write_annotations, write_npy, write_npz

Command = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_annotations(tmp_path / "labels.csv", {f"v{n}.mp4": f"{'xy'[n % 2]},train" for n in range(4)})


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Three of the four videos of `labels`, and one more."""
    for number in (0, 1, 2, 9):
        write_npz(tmp_path / "npz" / f"v{number}.npz", features(number, 3, C), boxes(number, 3))
    return tmp_path / "npz"


def test_import_prints_the_config_that_trains(kinegraph: Command, cache: Path, npz: Path, labels: Path) -> None:
    done = kinegraph("import", npz, "--into", cache, "--annotations", labels, "--kind", "bottom_up", "--name", "bua")
    assert done.exit_code == 3
    said, about, *lines = done.stdout.splitlines()
    assert said.startswith(
        f"{cache}: 3 videos from bottom_up files: features/bua/last_pooled [1, {C}], proposals/boxes "
    )
    assert about == "This config is enough for `kinegraph train CONFIG`:"
    assert "left out: 1 video of the files, without a row in the cache:\n  v9\n" in done.stderr
    assert "1 of 4 clips failed:\n  v3.mp4:0:full: missing: no features of v3.mp4 among the files" in done.stderr
    config = yaml.safe_load("\n".join(lines))
    assert config["train"] == {
        "head": "strg", "options": {"backbone": "bua", "tap": "last"}, "run": "runs/bua", "val_split": None,
    }  # fmt: skip
    config["train"] |= {"run": str(cache.parent / "run"), "epochs": 1}
    path = cache.parent / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    trained = kinegraph("train", path)
    assert trained.exit_code == 0
    assert trained.stdout.splitlines()[1].split()[0] == "strg"
    assert kinegraph("index", path).exit_code == 2


def test_import_without_labels_says_how_to_add_them(kinegraph: Command, cache: Path, tmp_path: Path) -> None:
    done = kinegraph("import", write_npy(tmp_path / "npy", {"v": features(0, 2, C)}), "--into", cache)
    assert done.exit_code == 0
    assert (
        done.stdout.splitlines()[1]
        == "The cache has no labels yet. The same command with --annotations CSV (path,label[,split]) adds them"
    )


def test_formats_are_those_there_are(kinegraph: Command, cache: Path, npz: Path) -> None:
    assert list(KINDS) == list(FORMATS)
    done = kinegraph("import", npz, "--into", cache, "--kind", "npzz")
    assert done.exit_code == 2
    assert "--kind npzz: allowed: npy, hdf5, bottom_up, bottom_up_frames" in done.stderr


def test_export_and_what_it_prints(kinegraph: Command, config: Path, cache: Path, tmp_path: Path) -> None:
    kinegraph("index", config)
    kinegraph("extract", config, "--limit", "4")
    copy = tmp_path / "copy"
    done = kinegraph("export", cache, copy, "--to", "hdf5")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{copy}: 8 shards of stages copied, 0 there before; not sealed in the source: 4\n"
    assert kinegraph("verify", copy).exit_code == 0
    assert kinegraph("export", cache, copy, "--to", "hdf5").stdout.startswith(f"{copy}: 0 shards of stages copied, 8 ")
    files = kinegraph("export", cache, tmp_path / "npy", "--to", "npy", "--array", "proposals/count")
    assert files.exit_code == 0
    assert files.stdout == f"{tmp_path / 'npy'}: 4 files. clips.csv maps rows to clips\n"
    assert "left out, not sealed in proposals yet: 2 videos:\n  right/" in files.stderr
    frames = kinegraph("export", cache, tmp_path / "coco", "--to", "coco", "--rows", "0:3")
    assert frames.exit_code == 0
    assert frames.stdout.startswith(f"{tmp_path / 'coco'}: 12 images of 3 clips with ")
    assert frames.stderr.startswith("12 images of 3 clips, about ")
    damaged = next((cache / "data.zarr" / "proposals" / "boxes").glob("c.1.*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = kinegraph("export", cache, tmp_path / "again", "--to", "zarr", "--compression", "lz4")
    assert again.exit_code == 1
    assert f"left out, damaged: 1 shard:\n  {damaged} is damaged (size; proposals shard 1)" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "hdf5", "--compression", "zstd"], "--compression zstd: goes with --to zarr alone"),
        (["--to", "zarr", "--array", "proposals/count"], "--array proposals/count: goes with --to npy"),
        (["--to", "npy", "--array", "count"], "--array count: "),
        (["--to", "tfrecord"], "--to tfrecord: allowed: zarr, hdf5, npy"),
        (["--to", "npy", "--split", "train"], "--split train: goes with --to coco alone"),
        (["--to", "zarr", "--rows", "0:1"], "--rows 0:1: goes with --to coco alone"),
        (["--to", "coco", "--rows", "4:2"], "--rows 4:2: expected A:B with two whole numbers, A below B"),
        (["--to", "coco", "--array", "proposals/boxes"], "--array proposals/boxes: goes with --to npy"),
        (["--to", "coco", "--videos", "nowhere"], "--videos nowhere: no such folder"),
        (["--to", "zarr", "--compression", "gzip"], "--compression gzip: allowed: none, lz4, zstd"),
        ([], "--to"),
    ],
)
def test_wrong_usage_of_export(
    kinegraph: Command, config: Path, cache: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    kinegraph("index", config)
    done = kinegraph("export", cache, tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


WITHOUT_TORCH = """
import json, sys
sys.modules.update(torch=None, torchvision=None)
from kinegraph.cli.app import app
print([app(arguments, standalone_mode=False) for arguments in json.loads(sys.argv[1])])
"""


def test_exchange_does_without_torch(tmp_path: Path, npz: Path, labels: Path) -> None:
    cache = str(tmp_path / "cache")
    commands = [
        ["import", str(npz), "--into", cache, "--annotations", str(labels)],
        ["export", cache, str(tmp_path / "hdf5"), "--to", "hdf5"],
        ["export", cache, str(tmp_path / "npy"), "--to", "npy"],
    ]
    command = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines()[-1:] == ["[3, 0, 0]"], done.stderr

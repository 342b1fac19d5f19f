"""FIFOs, devices, folders and loops of links where a command expects a file: it ends, and says which file is none."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from tests.caches import write_config
from tests.foreign import C, features, write_npy

Command = Callable[..., Any]
GUARD_SECONDS = 120  # a command that waits for a FIFO's writer fails here instead of never


@pytest.fixture(autouse=True)
def guard() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError("the command waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(GUARD_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


IRREGULAR = {
    "is a named pipe (FIFO); only regular files are read": fifo,
    "is a character device; only regular files are read": device,
    "is a folder; a file is expected": folder,
    "Too many levels of symbolic links": loop,
}
made = pytest.mark.parametrize(("words", "make"), IRREGULAR.items(), ids=[make.__name__ for make in IRREGULAR.values()])


def listed(tmp_path: Path, document: dict[str, Any], *lines: str) -> Path:
    """The config of a data set whose csv has these lines."""
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *lines, ""]))
    dataset = document["dataset"] | {"annotations": str(table)}
    run = {"executor": "inline", "threads": 1, "device": "cpu"}
    return write_config(tmp_path / "listed.yaml", document | {"dataset": dataset, "run": run})


@made
def test_a_video_of_a_csv(
    kinegraph: Command, tmp_path: Path, tiny_document: dict[str, Any], video_folder: Path, words: str, make: Any
) -> None:
    good = next(path.relative_to(video_folder).as_posix() for path in sorted(video_folder.rglob("*.mp4")))
    config = listed(tmp_path, tiny_document, f"{good},a", f"{make(tmp_path / 'bad.mp4')},b")
    indexed = kinegraph("index", config)
    assert indexed.exit_code == 0
    assert words in indexed.stdout + indexed.stderr
    extracted = kinegraph("extract", config, "--stage", "clips")
    assert extracted.exit_code == 3, "the other video is extracted"
    assert words in extracted.stdout + extracted.stderr


def test_a_video_that_is_a_fifo_only_after_it_was_indexed(
    kinegraph: Command, config: Path, video_folder: Path, tiny_document: dict[str, Any]
) -> None:
    assert kinegraph("index", config).exit_code == 0
    fifo(sorted(video_folder.rglob("*.mp4"))[0])
    extracted = kinegraph("extract", config)
    assert extracted.exit_code == 3
    assert "is a named pipe (FIFO)" in extracted.stdout + extracted.stderr


def test_a_fifo_in_a_folder_is_not_listed_and_said(
    kinegraph: Command, config: Path, video_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = fifo(video_folder / "a" / "pipe.mp4")
    assert kinegraph("index", config).exit_code == 0
    assert f"{pipe} is no regular file" in caplog.text


@made
@pytest.mark.parametrize("key", ["annotations", "classes"])
def test_a_list_of_the_data_set(
    kinegraph: Command, tmp_path: Path, tiny_document: dict[str, Any], words: str, make: Any, key: str
) -> None:
    config = listed(tmp_path, tiny_document, "v.mp4,a")
    done = kinegraph("index", config, "--set", f"dataset.{key}={make(tmp_path / 'list')}")
    assert done.exit_code == 2
    assert f"dataset.{key}: " in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("make", [fifo, device, folder])
def test_a_config(kinegraph: Command, tmp_path: Path, make: Any) -> None:
    done = kinegraph("plan", make(tmp_path / "my.yaml"))
    assert done.exit_code == 2
    assert any(words in done.stderr for words in IRREGULAR)


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("proposals", {"source": "file", "files": "{}/{{stem}}.json", "top": 2}),
        ("proposals", {"source": "file", "files": "{}/{{stem}}.npz", "top": 2}),
        ("graphs", {"source": "file", "files": "{}/{{stem}}.json", "vocabulary": "action_genome"}),
    ],
    ids=["boxes.json", "boxes.npz", "graphs"],
)
def test_files_beside_the_videos(
    kinegraph: Command, tmp_path: Path, tiny_document: dict[str, Any], video_folder: Path, section: str, options: Any
) -> None:
    pattern = options["files"].format(tmp_path / "beside")
    for video in video_folder.rglob("*.mp4"):
        fifo(Path(pattern.format(stem=video.relative_to(video_folder).with_suffix("").as_posix())))
    document = {key: tiny_document[key] for key in ("cache", "dataset", "clips")}
    document |= {section: options | {"files": pattern}, "run": {"executor": "inline", "threads": 1, "device": "cpu"}}
    config = write_config(tmp_path / "beside.yaml", document)
    assert kinegraph("index", config).exit_code == 0
    done = kinegraph("extract", config)
    assert done.exit_code == 3
    assert "is a named pipe (FIFO)" in done.stdout + done.stderr


def test_features_to_import(kinegraph: Command, cache: Path, tmp_path: Path) -> None:
    many = write_npy(tmp_path / "npy", {"a": features(0, 2, C), "b": features(1, 2, C)})
    fifo(many / "b.npy")
    done = kinegraph("import", many, "--into", cache)
    assert done.exit_code == 3, "the other video is imported"
    assert "b.npy is a named pipe (FIFO)" in done.stdout + done.stderr
    assert [*Cache(cache).ledger.records("features/imported")]
    for name in ("x.h5", "x.npz"):
        done = kinegraph("import", fifo(tmp_path / name), "--into", cache)
        assert done.exit_code == 2
        assert f"{name} is a named pipe (FIFO)" in done.stderr


@pytest.mark.parametrize("name", ["cache.json", "clips.parquet"])
def test_what_a_cache_names(kinegraph: Command, config: Path, cache: Path, name: str) -> None:
    assert kinegraph("index", config).exit_code == 0
    fifo(cache / name)
    done = kinegraph("status", cache)
    assert done.exit_code == 1
    assert f"{name} is a named pipe (FIFO)" in done.stderr


def test_a_sealed_object_that_became_a_fifo_counts_as_missing(kinegraph: Command, config: Path, cache: Path) -> None:
    assert kinegraph("index", config).exit_code == 0
    assert kinegraph("extract", config).exit_code == 0
    name = min(next(iter(Cache(cache).ledger.records("features/tiny"))).objects)
    fifo(cache / name)
    problems = json.loads(kinegraph("verify", cache, "--json").stdout)["problems"]
    assert [(problem["object"], problem["kind"]) for problem in problems] == [(name, "missing")]

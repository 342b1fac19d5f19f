"""What commands print fits the terminal, is whole in a file, and holds nothing that a terminal would obey."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cli.printing import caches as printing
from kinegraph.cli.printing.text import table
from kinegraph.pipeline.machine.terminal import ShownLines
from kinegraph.pipeline.training.results import write_results
from tests.caches import write_config
from tests.cli.test_tables import a_run
from tests.conftest import moving_square, tiny_stages, write_video
from tests.terminal import Terminal

Command = Callable[..., Any]
REASONS = {"no_video_stream": 12, "too_short": 3, "truncated": 1040, "unreadable": 117}


def a_stage(rate: float | None = 0.034, failed: dict[str, int] = REASONS) -> dict[str, Any]:
    return {
        "shards": {"done": 1200, "running": 8, "missing": 3592},
        "clips": {"ok": 118_828, "warned": 0, "failed": sum(failed.values()), "missing": 360_000},
        "failed": failed,
        "bytes": 12_345_678_901,
        "clips_per_second": rate,
        "seconds_left": None if rate is None else 360_000 / rate,
    }


STATUS = {
    "clips": 480_000,
    "shards": 4800,
    "stages": {"clips": a_stage(12.0, {}), "features/slowonly_r50": a_stage(), "proposals": a_stage(None)},
    "jobs": [],
}


@pytest.mark.parametrize("width", [80, 120])
def test_status_fits(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    printing.status(STATUS)
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= width
    assert all(words in told for words in ("118,828", "29 s/clip", "12.3 GB", "unreadable", "1,172"))
    assert told.count("features/slowonly_r50") == 2


def test_status_in_a_file_has_a_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    printing.status(STATUS)
    first, header, *rows = capsys.readouterr().out.splitlines()
    assert first == "480,000 clips in 4,800 shards"
    assert header.split("  ")[-1] == "why"
    assert "warned" not in header, "nothing is"
    assert rows[1].endswith("12 no_video_stream, 3 too_short, 1,040 truncated, 117 unreadable")


def test_a_table_goes_on_below_beside_its_first_column() -> None:
    header, rows = ["head", "seeds", "run"], [["strg", "3", "out/a run"], ["lstm", "12", "out/b"]]
    assert table(header, rows, ["run"]) == "head  seeds  run\nstrg      3  out/a run\nlstm     12  out/b"
    assert table(header, rows, ["run"], 16) == (
        "head  seeds\nstrg      3\nlstm     12\n\nhead  run\nstrg  out/a run\nlstm  out/b"
    )
    words = table(["key", "words"], [["a", "one two three four five six seven"], ["b", "-"]], ["words"], 35)
    assert words == "key  words\na    one two three four five six\n       seven\nb    -"
    videos = [["a/long/path.mp4", "run", "0.9"], ["", "jump", "0.1"], ["b.mp4", "run", "0.5"]]
    assert table(["video", "class", "score"], videos, ["class"], 28) == (
        "video\n  class  score\na/long/path.mp4\n  run      0.9\n  jump     0.1\nb.mp4\n  run      0.5"
    )
    assert table(["video", "class", "score"], videos, ["class"], 29).startswith(
        "video            class  score\na/long/"
    )
    assert table(["名前", "n"], [["走る", "1"]]).splitlines() == ["名前  n", "走る  1"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("arguments", [["models"], ["models", "--heads"], ["results"]])
def test_pages_fit(kinegraph: Command, arguments: list[str], width: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    if arguments == ["results"]:
        name = "strg_spatial_temporal_joint"
        for seed, test in enumerate([0.25, 0.75, None]):
            write_results(tmp_path / name / f"seed{seed}", a_run(name, seed, test))
        monkeypatch.chdir(tmp_path)
        arguments = ["results", "."]
    told = kinegraph(*arguments)
    assert told.exit_code == 0
    assert max(map(len, (told.stdout + told.stderr).splitlines())) <= width


def test_nothing_that_a_terminal_obeys_is_printed(kinegraph: Command, tmp_path: Path) -> None:
    """Names of videos, classes, variants, caches and runs go to stdout and stderr with their escapes in words."""
    escape = "\x1b[31m\rred"
    videos = tmp_path / "videos"
    for number, label in enumerate([f"{escape}{name}" for name in "aabc"]):
        write_video(videos / label / f"{escape}{number}.mp4", moving_square(8, 64, 48, seed=number))
    (videos / f"{escape}a" / f"{escape}broken.mp4").write_bytes(b"no video")
    document = tiny_stages(tmp_path / "cache", videos)
    del document["proposals"], document["regions"]
    document["backbones"]["tiny"] |= {"taps": ["res2"], "store": ["pooled"]}
    document["run"] |= {"executor": "inline"}
    train = {"epochs": 1, "val_split": None, "test_split": "train", "run": str(tmp_path / f"{escape}runs")}
    train |= {"head": "avg_pool"}
    config, cache = write_config(tmp_path / "my.yaml", document | {"train": train}), tmp_path / "cache"
    runs = tmp_path / f"{escape}runs"
    told = {}
    for name, arguments in {
        "index": ["index", config],
        "plan": ["plan", config],
        "extract": ["extract", config],
        "status": ["status", cache],
        "failed": ["status", cache, "--failed"],
        "verify": ["verify", cache],
        "frames": ["verify", cache, "--frames"],
        "train": ["train", config, "--seeds", 2],
        "results": ["results", runs],
        "evaluate": ["evaluate", runs / "avg_pool" / "seed0"],
        "evaluate all": ["evaluate", runs],
        "export": ["export", cache, tmp_path / f"{escape}npy", "--to", "npy"],
        "no cache": ["status", tmp_path / escape],
        "no key": ["plan", config, "--set", f"clips.{escape}=1"],
        "no head": ["train", config, "--head", escape],
        "usage": ["status", cache, f"--{escape}"],
    }.items():
        found = kinegraph(*arguments)
        told[name] = found.stdout + found.stderr
    obeyed = [name for name, text in told.items() if "\x1b" in text or "\r" in text]
    assert obeyed == []
    named = {name for name, text in told.items() if r"\x1b[31m" in text}
    assert named >= {*told} - {"plan", "status", "verify", "frames", "evaluate all"}


@pytest.mark.parametrize("on_terminal", [True, False])
def test_log_lines(on_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal they break between words, elsewhere they begin with the time of day."""
    monkeypatch.setenv("COLUMNS", "80") if on_terminal else monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal() if on_terminal else sys.stdout)
    record = logging.makeLogRecord({"msg": "changed since: %s", "args": (", ".join(["a\x1b[31m\r.mp4"] * 20),)})
    record.created = 0.0
    lines = ShownLines().format(record).splitlines()
    assert "\x1b" not in "".join(lines)
    if on_terminal:
        assert max(map(len, lines)) <= 80 < sum(map(len, lines))
    else:
        (line,) = lines
        assert line[2] == line[5] == ":"
        assert line[8:].startswith(" changed since: a\\x1b[31m\\r.mp4, ")

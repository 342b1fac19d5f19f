"""`kinegraph bench` prints a table of 80 columns, or one JSON document, and refuses wrong input in words."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cli.printing import benchmarks as printing
from kinegraph.pipeline.extraction.benchmark.comparison import SpeedComparison

Command = Callable[..., Any]
RUN = {
    "machine": {"cpu": "Some CPU", "cores": 2, "instructions": ["avx2"], "system": "Linux", "device": "cpu"},
    "versions": {"python": "3.12.1", "kinegraph": "0.1.0", "torch": "2.11.0"},
    "date": "2026-11-30T12:00:00+00:00",
    "load": 0.1,
    "load_after": 2.0,
}


def comparison(**changes: Any) -> SpeedComparison:
    values: dict[str, Any] = {
        "clips": 16,
        "videos": 4,
        "frames": 512,
        "failed": 0,
        "stages": ("clips", "features/i3d"),
        "device": "cpu",
        "threads": 2,
        "batch_size": 8,
        "seconds": {"whole extraction": [10.0, 12.0, 11.0], "plain loop, torchcodec": [1234.0, 1200.0, 1300.0]},
        "left_out": {},
        "run": RUN,
    }
    return SpeedComparison(**values | changes)


def test_end_to_end(kinegraph: Command, config: Path, cache: Path) -> None:
    kinegraph("index", config)
    before = sorted(path for path in cache.rglob("*"))
    few = ("--clips", "2", "--rounds", "1", "--set", "proposals=null", "--set", "regions=null")
    document = json.loads(kinegraph("bench", config, *few, "--json").stdout)
    assert sorted(path for path in cache.rglob("*")) == before
    assert document["schema"] == 1
    assert {"whole extraction", "networks alone", "decoding alone", "plain loop"} <= document["seconds"].keys()
    assert {len(seconds) for seconds in document["seconds"].values()} == {1}


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printing.compared(comparison(left_out={"networks alone": "the config has no network"}, failed=2))
    said = capsys.readouterr()
    assert max(map(len, (said.out + said.err).splitlines())) <= 80
    lines = said.out.splitlines()
    assert lines[0] == "16 clips (512 frames) of 4 videos, 3 rounds, 2 threads, batches of 8"
    head, whole, plain = (re.split("  +", line) for line in lines if re.search(r"\S  +\S", line))
    assert head[0] == "way"
    assert whole == ["whole extraction", "11.00", "10.00", "12.00", "1.45", "1.00", "1.00", "1.00"]
    assert plain[-3:] == ["118", "100", "123"]
    assert said.err.splitlines() == [
        "left out: networks alone: the config has no network",
        "left out: 2 clips that failed. `kinegraph extract` says why",
    ]


def test_a_busy_machine_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    printing.compared(comparison(run=RUN | {"load": 7.5}))
    assert "warning: the load was 7.5 on 2 cores" in capsys.readouterr().err
    printing.compared(comparison(run=RUN | {"load": None}))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--clips", "0"), "--clips"),
        (("--rounds", "x"), "--rounds"),
        (("--set", "run.device=cuda:99"), "run.device"),
    ],
)
def test_wrong_input(kinegraph: Command, config: Path, arguments: tuple[str, ...], words: str) -> None:
    kinegraph("index", config)
    result = kinegraph("bench", config, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_cache_that_is_not_indexed(kinegraph: Command, config: Path) -> None:
    result = kinegraph("bench", config)
    assert result.exit_code == 2
    assert "kinegraph index" in result.stderr

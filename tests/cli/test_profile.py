"""`extract --profile`: shares that sum up to the whole, for sealed shards, also where the run was stopped."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cli.printing.profile import profile as print_profile
from kinegraph.pipeline.extraction.profile import Profile
from kinegraph.pipeline.extraction.worker import Worker

Command = Callable[..., Any]
MADE = Profile(
    num_clips=480_000,
    num_shards=7500,
    devices=("cpu", "cuda:1 (NVIDIA A100-SXM4-80GB)"),
    workers=12,
    decoders=8,
    start_up=432.5,
    computing={"waiting for decode": 12_345.6, "features/slowonly_r50_8x8": 98_765.4, "proposals": 222_222.2,
               "regions/slowonly_r50_8x8": 3210.9, "copy": 100.1, "rest": 12.3, "network": 9.0},
    beside={"decode": 1_000_000.0, "convert and resize": 500_000.0, "fetch": 10.0, "write": 4321.0, "later": 1.0},
    on_device={"features/slowonly_r50_8x8": 88_888.8, "proposals": 200_000.0},
    wall=30_000.0,
    is_one_process=False,
)  # fmt: skip


def shares(told: str) -> tuple[float, float]:
    """The sum of the shares, and the share of `total`."""
    found = [float(share) for share in re.findall(r" ([\d.]+) %", told)]
    return sum(found[:-1]), found[-1]


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_profile(MADE)
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= width
    parts, total = shares(told)
    assert (parts, total) == (pytest.approx(100, abs=0.5), 100)
    for words in (
        "12 workers",
        "480,000 clips in 7,500 shards",
        "RoIAlign",
        "2.97 of 8 threads",
        "0.00 of ?",
        "network",
    ):
        assert words in told
    assert "on the GPU, by events" in told
    assert "Not known: queues, idle workers" in told
    assert "outside" not in told, "the idle time of other processes is not known"


def test_a_gpu_without_events_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_profile(Profile(**vars(MADE) | {"on_device": {}}))
    assert "The time on the GPU is not known" in capsys.readouterr().out


def test_shares_are_of_the_time_of_the_command(kinegraph: Command, config: Path) -> None:
    kinegraph("index", config)
    done = kinegraph("extract", config, "--profile")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"where the time went: 6 clips in 3 shards, 1 worker on cpu, [\d.]+ s of this command", lines[0]
    )
    assert lines[1].split() == ["thread", "that", "computes", "seconds", "share", "what", "it", "is"]
    kinds = {re.split(r"  +", line)[0] for line in lines[2:]}
    assert {"start-up", "features/tiny", "proposals", "regions/tiny", "rest", "outside sealed shards", "total"} <= kinds
    assert "of the thread that computes" in done.stdout, "inline decodes there"
    parts, total = shares(done.stdout)
    assert (parts, total) == (pytest.approx(100, abs=1), 100)
    assert lines[-1].endswith("all sealed")
    again = kinegraph("extract", config, "--profile")
    assert again.stdout.splitlines()[0] == "no profile: this command sealed no shard"


def test_a_stopped_run_has_the_profile_of_what_it_sealed(
    kinegraph: Command, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinegraph("index", config)
    compute = Worker._compute

    def stopped(worker: Worker, shard: Any, batch: Any) -> None:
        if batch.unit.shard == 2:
            raise KeyboardInterrupt
        compute(worker, shard, batch)

    monkeypatch.setattr(Worker, "_compute", stopped)
    done = kinegraph("extract", config, "--profile")
    assert done.exit_code == 130
    assert done.stdout.startswith("where the time went: 4 clips in 2 shards, 1 worker on cpu")
    assert "all sealed" not in done.stdout

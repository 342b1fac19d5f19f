"""Tables of runs: results in forms for other programs, and evaluate on a folder of runs."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.results import RunResults, write_results
from kinegraph.stages.training.options import TrainOptions
from tests.caches import write_config
from tests.conftest import six_videos, tiny_stages

Command = Callable[..., Any]


def a_run(name: str, seed: int, test: float | None) -> RunResults:
    scores = {"val": {"top1": 0.5 + seed / 10, "loss": 1.0}} | ({} if test is None else {"test": {"top1": test}})
    return RunResults(
        name=name, seed=seed, cache="c", cache_fingerprint="f", recipe=TrainOptions(seed=seed), environment={},
        num_parameters=1234, num_train_clips=3, num_failed_videos=0, metric="top1", best_epoch=1, seconds=2.0,
        history=[], scores=scores,
    )  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for seed, test in enumerate([0.25, 0.75, None]):
        write_results(tmp_path / "a_b" / f"seed{seed}", a_run("a_b", seed, test))
    write_results(tmp_path / "c|\x1b[2Jd", a_run("c|\x1b[2Jd", 0, 1.0))
    return tmp_path


def test_csv_has_numbers(kinegraph: Command, table: Path) -> None:
    told = kinegraph("results", table, "--to", "csv")
    first, second = csv.DictReader(io.StringIO(told.stdout))
    assert (first["head"], first["seeds"], first["run"]) == ("a_b", "3", str(table / "a_b"))
    assert (float(first["test_top1"]), float(first["test_top1_std"])) == (0.5, stdev([0.25, 0.75]))
    assert (first["test_top1_seeds"], float(first["val_loss"]), first["parameters"]) == ("2", 1.0, "1234")
    assert (second["head"], second["test_top1"], second["test_top1_std"]) == (r"c|\x1b[2Jd", "1.0", "")
    assert "±: sample standard deviation over seeds" in told.stderr


def test_a_copy_of_a_run_is_no_further_seed(kinegraph: Command, tmp_path: Path) -> None:
    """Two runs of one seed would make the deviation too small."""
    for folder, seed in (("a", 0), ("b", 1), ("copy_of_a", 0)):
        write_results(tmp_path / folder, a_run("strg", seed, None))
    told = kinegraph("results", tmp_path, "--to", "csv")
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert [(row["seeds"], row["run"]) for row in rows] == [
        ("2", str(tmp_path)),
        ("1", str(tmp_path / "copy_of_a")),
    ]
    assert float(rows[0]["val_top1_std"]) == pytest.approx(stdev([0.5, 0.6]))
    words = " ".join(told.stderr.split())
    assert f"strg in {tmp_path}: 2 runs have seed 0. They are not averaged: each has a row of its own" in words
    assert "row for each recipe" not in words


def test_no_deviation_is_explained_where_there_are_no_scores(kinegraph: Command, tmp_path: Path) -> None:
    """Two seeds without a validation split, not evaluated yet."""
    for seed in range(2):
        write_results(tmp_path / "a" / f"seed{seed}", a_run("a", seed, None).model_copy(update={"scores": {}}))
    told = kinegraph("results", tmp_path)
    assert (told.stdout.splitlines()[1].split()[:3], told.stderr) == (["a", "2", "-"], "")


def test_markdown_and_latex(kinegraph: Command, table: Path) -> None:
    assert kinegraph("results", table, "--to", "md").stdout.splitlines() == [
        "| head | seeds | val top1 | test top1 | parameters |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a_b | 3 | 0.600 ± 0.100 | 0.500 ± 0.354 (2 of 3) | 1,234 |",
        r"| c\|\x1b[2Jd | 1 | 0.500 | 1.000 | 1,234 |",
    ]
    assert kinegraph("results", table, "--to", "latex").stdout.splitlines() == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"head & seeds & val top1 & test top1 & parameters \\",
        r"\midrule",
        r"a\_b & 3 & 0.600 $\pm$ 0.100 & 0.500 $\pm$ 0.354 (2 of 3) & 1,234 \\",
        r"c|\textbackslash{}x1b[2Jd & 1 & 0.500 & 1.000 & 1,234 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--to", "html"], "--to html: allowed: csv, md, latex, png"),
        (["--to", "md", "--json"], "--to md: allowed without --json"),
    ],
)
def test_other_forms_are_refused(kinegraph: Command, table: Path, flags: list[str], words: str) -> None:
    refused = kinegraph("results", table, *flags)
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", f"error: {words}\n")


def test_a_folder_of_runs_is_evaluated_and_gives_the_table_of_the_split(
    kinegraph: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = tiny_stages(tmp_path / "cache", six_videos(tmp_path / "videos"))
    del document["proposals"], document["regions"]
    document["backbones"]["tiny"] |= {"taps": ["res2"], "store": ["pooled"]}
    document["run"] |= {"executor": "inline"}
    index(check_config(document, "test"))
    extract(check_config(document, "test"))
    runs = tmp_path / "runs"
    train = {"head": "avg_pool", "epochs": 1, "val_split": None, "test_split": "train", "run": str(runs)}
    config = write_config(tmp_path / "my.yaml", document | {"train": train})
    assert kinegraph("train", config, "--head", "avg_pool,lstm", "--seeds", "2").exit_code == 0
    told = kinegraph("evaluate", runs)
    assert told.exit_code == 0, told.stderr
    found = {run["run"]: run["metrics"]["top1"] for run in json.loads(kinegraph("evaluate", runs, "--json").stdout)}
    assert [*found] == [str(runs / head / f"seed{seed}") for head in ("avg_pool", "lstm") for seed in (0, 1)]
    rows = [line.split() for line in told.stdout.splitlines()]
    assert [row[:4] for row in rows[1:]] == [["avg_pool", "2", "train", "top1"], ["lstm", "2", "train", "top1"]]
    assert float(rows[1][4]) == pytest.approx(mean([*found.values()][:2]), abs=5e-4)
    assert kinegraph("results", runs).stdout == told.stdout, "the scores were added to results.json"
    refused = kinegraph("evaluate", runs, "--confusion", tmp_path / "confusion.csv")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"--confusion: {runs} is a folder of 4 runs. Name one of them." in refused.stderr

    shutil.rmtree(runs / "avg_pool" / "seed1")
    (runs / "lstm" / "seed0" / "results.json").unlink()  # as in runs of older versions
    (runs / "lstm" / "seed1" / "model.safetensors").write_bytes(b"no tensors")
    some = kinegraph("evaluate", runs)
    assert some.exit_code == 1
    assert [line.split()[:2] for line in some.stdout.splitlines()[1:]] == [["avg_pool", "1"], ["lstm", "1"]]
    assert some.stderr.splitlines()[-1] == "1 of 3 runs could not be scored"
    assert f"error: {runs / 'lstm' / 'seed1'}: " in some.stderr
    assert any(text.startswith(f"{runs / 'lstm' / 'seed0'} is a run of an older version") for text in caplog.messages)

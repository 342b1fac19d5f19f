"""What train, results and evaluate print."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from kinegraph.cli.exits import exit_code
from kinegraph.cli.printing import heads as printing
from kinegraph.pipeline.clusters.wanted_run import RunPlace
from kinegraph.pipeline.training.results import RunResults, SplitCounts, write_results
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import EpochRecord, StepRecord
from tests.caches import write_config
from tests.clock import Clock
from tests.terminal import Terminal

Command = Callable[..., Any]


def test_train_evaluate_and_the_table_again(kinegraph: Command, tmp_path: Path, tiny_document: dict[str, Any]) -> None:
    wild = {"learning_rate": 1e6, "weight_decay": 1e6, "batch_size": 1}  # weights grow 1e12 times a step
    variants: dict[str, Any] = {"wild": wild, "calm": {}}
    train = {"head": "avg_pool", "epochs": 2, "val_split": "train", "test_split": "train", "run": str(tmp_path / "run")}
    config = write_config(tmp_path / "my.yaml", tiny_document | {"train": train | {"variants": variants}})
    for command in ("index", "extract"):
        assert kinegraph(command, config).exit_code == 0
    trained = kinegraph("train", config, "--head", "avg_pool,lstm", "--seeds", "2")
    assert re.search(r"waiting for clips: at most [\d.]+% of a training \((avg_pool|lstm)\)", trained.stderr)
    assert trained.exit_code == 0
    assert re.findall(r"run (\d) of 4 \((\w+), seed (\d)\), epoch 2 of 2: loss ", trained.stderr) == [
        ("1", "avg_pool", "0"), ("2", "avg_pool", "1"), ("3", "lstm", "0"), ("4", "lstm", "1"),
    ]  # fmt: skip
    rows = [line.split() for line in trained.stdout.splitlines()]
    assert rows[0] == ["head", "seeds", "scores", "parameters", "seconds", "run"]
    assert [row[:4] for row in rows[1:]] == [["avg_pool", "2", "train", "top1"], ["lstm", "2", "train", "top1"]]
    assert kinegraph("results", tmp_path / "run").stdout == trained.stdout
    again = kinegraph("train", config, "--head", "avg_pool,lstm", "--seeds", "2")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "holds a trained run already" in again.stderr

    alone = kinegraph("train", config, "--set", f"train.run={tmp_path / 'alone'}")
    assert "Trains avg_pool of the config. --head trains variants of train.variants: " in " ".join(alone.stderr.split())

    diverged = kinegraph("train", config, "--head", "wild,calm", "--seeds", "2")
    assert diverged.exit_code == 1
    assert [line.split()[:2] for line in diverged.stdout.splitlines()] == [["head", "seeds"], ["calm", "2"]]
    assert diverged.stderr.splitlines()[-1] == "error: 2 of 4 runs diverged: wild seed 0, wild seed 1."

    run, attributes = tmp_path / "run" / "lstm" / "seed1", tmp_path / "attributes.csv"
    attributes.write_text("class,side\nleft,a\nright,a\n")
    files = ["--submission", tmp_path / "scores.txt", "--confusion", tmp_path / "confusion.csv"]
    scored = kinegraph("evaluate", run, *files, "--attributes", attributes)
    assert scored.exit_code == 0
    assert scored.stdout.splitlines()[0].startswith("top1 ")
    assert scored.stdout.splitlines()[-2].split() == ["attribute", "value", "classes", "mean"]
    assert len((tmp_path / "scores.txt").read_text().splitlines()) == 6
    assert (tmp_path / "confusion.csv").read_text().startswith("class,left,right,failed\n")
    found = json.loads(kinegraph("evaluate", run, "--attributes", attributes, "--json").stdout)
    assert found["per_class"].keys() == {"left", "right"}
    (group,) = found["attributes"]
    assert group["score"] == pytest.approx(sum(found["per_class"].values()) / 2)
    wrong = kinegraph("evaluate", run, "--attributes", tmp_path / "none.csv")
    assert (wrong.exit_code, wrong.stdout) == (2, "")


def _results(seed: int, val: float, test: float | None, **others: Any) -> RunResults:
    scores = {"val": {"top1": val, "loss": 1.0}} | ({} if test is None else {"test": {"top1": test, "top5": 1.0}})
    found = RunResults(
        name="strg", seed=seed, cache="c", cache_fingerprint="f", recipe=TrainOptions(seed=seed), environment={},
        num_parameters=1234, num_train_clips=3, num_failed_videos=0, metric="top1", best_epoch=1, seconds=2.0 * seed,
        history=[], scores=scores,
    )  # fmt: skip
    return found.model_copy(update=others)


def test_seeds_are_a_mean_and_a_sample_deviation(kinegraph: Command, tmp_path: Path) -> None:
    for seed, (val, test) in enumerate([(0.5, 0.4), (0.6, 0.4), (0.7, None)]):
        write_results(tmp_path / "strg" / f"seed{seed}", _results(seed, val, test))
    told = kinegraph("results", tmp_path)
    assert told.stderr == "±: sample standard deviation over seeds\n"
    line = " ".join(told.stdout.splitlines()[1].split())
    assert line == f"strg 3 val top1 0.600 ± 0.100 test top1 0.400 ± 0.000 (2 of 3) 1,234 2.0 {tmp_path / 'strg'}"
    assert [run["seed"] for run in json.loads(kinegraph("results", tmp_path, "--json").stdout)] == [0, 1, 2]


def test_the_table_is_written_to_a_file_or_drawn(kinegraph: Command, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_results(tmp_path / "runs" / "strg" / f"seed{seed}", _results(seed, 0.5, seed / 4, name="$a_{b} <é>"))
    for form in ("csv", "md", "latex"):
        told, file = kinegraph("results", tmp_path / "runs", "--to", form), tmp_path / f"table.{form}"
        written = kinegraph("results", tmp_path / "runs", "--to", form, "--out", file)
        assert (written.exit_code, written.stdout, file.read_text()) == (0, "", told.stdout)
    sizes = []
    for folder in (tmp_path / "runs", tmp_path / "runs", tmp_path / "runs" / "strg" / "seed0"):
        assert kinegraph("results", folder, "--to", "png", "--out", tmp_path / "table.png").exit_code == 0
        pixels = imread(tmp_path / "table.png")
        assert pixels.shape[2] == 4
        assert 0.5 < pixels[..., :3].mean() < 1, "dark letters on white"
        sizes.append((pixels.shape, (tmp_path / "table.png").read_bytes()))
    assert sizes[0] == sizes[1]
    assert sizes[0][0][1] > sizes[2][0][1], "a mean with its deviation is wider"
    for options, words in (
        (["--to", "png"], "--to png: name the file by --out, such as --out table.png"),
        (["--out", tmp_path / "t.csv"], "name the format of the table by --to: csv, md, latex, png"),
        (["--to", "md", "--out", tmp_path], "is a folder. Name a file."),
        (["--to", "png", "--json"], "--to png: allowed without --json"),
    ):
        refused = kinegraph("results", tmp_path / "runs", *options)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words in refused.stderr


def test_the_choice_of_a_candidate_is_told(kinegraph: Command, tmp_path: Path) -> None:
    names = [f"learning rate {rate}, weight decay 0" for rate in (0.1, 0.01, 0.001, 1)]
    candidates = dict(zip(names, (0.25, 0.5, 0.125, None), strict=True))
    write_results(tmp_path / "a", _results(0, 0.5, None, candidate=names[1], of_candidates=candidates))
    write_results(tmp_path / "b", _results(1, 0.5, None, candidate=names[1], of_candidates={names[1]: 0.5}))
    _, told = kinegraph("results", tmp_path).stderr.splitlines()
    assert told == (
        "strg seed 0: val chose learning rate 0.01, weight decay 0, of 4 candidates (top1 0.500, the others 0.125 to "
        "0.250, 1 diverged)"
    )


def test_runs_of_several_recipes_or_clips_have_rows_of_their_own(kinegraph: Command, tmp_path: Path) -> None:
    clips, fewer = {"train": {"clips": 3}}, {"train": {"clips": 2}}
    recipe = TrainOptions(seed=2, epochs=3)
    for seed, others in enumerate([{"trained_on": clips}, {"trained_on": fewer}, {"recipe": recipe}, {}]):
        write_results(tmp_path / "strg" / f"seed{seed}", _results(seed, 0.5, None, **({"trained_on": clips} | others)))
    told = kinegraph("results", tmp_path)
    assert [line.split()[:2] for line in told.stdout.splitlines()[1:]] == [["strg", "2"], ["strg", "1"], ["strg", "1"]]
    start = f"strg in {tmp_path / 'strg'} has a row for each recipe: "
    assert told.stderr.splitlines()[1:] == [f"{start}trained_on.train.clips: 3 -> 2", f"{start}epochs: 20 -> 3"]


def test_scores_on_other_clips_are_not_averaged(kinegraph: Command, tmp_path: Path) -> None:
    """Those of before results told their clips go with the rest, as long as that is of one kind."""
    known = [SplitCounts(num_videos=5, num_failed=0, num_unsealed_clips=0, digest=digest) for digest in ("", "a", "b")]

    def told(*which: int) -> tuple[str, list[str]]:
        for seed, number in enumerate(which):
            write_results(tmp_path / f"seed{seed}", _results(seed, 0.5, seed / 4, counts={"test": known[number]}))
        found = kinegraph("results", tmp_path)
        return " ".join(found.stdout.splitlines()[1].split()[5:-3]), found.stderr.splitlines()[1:]

    assert told(0, 1, 1) == ("± 0.000 test top1 0.250 ± 0.250", [])
    scores, words = told(1, 2, 2)
    assert scores == "± 0.000 test top1 0.000 (1 of 3) test top1 0.375 ± 0.177 (2 of 3)"
    assert words == ["strg, test: scores on other clips or labels are not averaged. Evaluate all again"]


def test_the_table_tells_what_is_missing_in_its_scores(kinegraph: Command, tmp_path: Path) -> None:
    whole, less = ({"num_videos": 5, "num_failed": failed, "num_unsealed_clips": 3 * failed} for failed in (0, 1))
    for seed, counts in enumerate([whole, less]):
        write_results(tmp_path / f"seed{seed}", _results(seed, 0.5, None, counts={"val": SplitCounts(**counts)}))
    (told,) = kinegraph("results", tmp_path).stderr.splitlines()[1:]
    failed = "strg, val: 5 videos, 1 of them without an ok clip, counted as wrong"
    assert told == f"{failed}; 3 clips are not extracted yet and left out"


def test_results_that_are_not_there(kinegraph: Command, tmp_path: Path) -> None:
    missing = kinegraph("results", tmp_path)
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert f"There is no results.json in {tmp_path} or below" in missing.stderr
    (tmp_path / "results.json").write_text("{}")
    assert "results.json is damaged: name: Field required" in kinegraph("results", tmp_path).stderr


def test_a_full_gpu_is_told_what_makes_room(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert exit_code(command) == 1
    told, advice = capsys.readouterr().err.splitlines()
    assert told == "error: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert all(key in advice for key in ("run.batch_size", "train.batch_size", "run.workers"))


@pytest.mark.parametrize("width", [70, 80, 120])
def test_progress_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that changes is no longer than the terminal is wide: else nothing goes back over it."""
    drawn = Terminal()
    monkeypatch.setattr(sys, "stderr", drawn)
    monkeypatch.setenv("COLUMNS", str(width))
    run = RunPlace(name="strg_spatial_temporal", seed=1, number=3, num_runs=6, num_epochs=20)
    printing.TrainingLines().step(run, StepRecord(
        epoch=2, step=1000, num_steps=20_000, loss=0.5, clips_per_second=123.4, metric=("mAP", 0.25),
    ))  # fmt: skip
    line = drawn.getvalue().removeprefix("\r\033[K")
    assert len(line) < width
    assert line.startswith("run 3 of 6 (strg_spatial_temporal, seed 1), epoch 2 of 20")


def test_progress_is_quiet_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StepRecord(epoch=2, step=7, num_steps=200, loss=0.5, clips_per_second=123.4, metric=("mAP", 0.25))
    epoch = EpochRecord(epoch=2, loss=0.5, metrics={"mAP": 0.3}, seconds=1.5, learning_rate=0.1, clips_per_second=123.4)
    run = RunPlace(name="strg", seed=1, number=3, num_runs=6, runs_after=3, num_epochs=20)
    now = Clock()
    monkeypatch.setattr("kinegraph.pipeline.machine.terminal.time.monotonic", now)
    lines = printing.TrainingLines()
    lines.step(run, replace(step, step=10))
    assert capsys.readouterr().err == ""
    now.now += 30
    lines.step(run, replace(step, step=20))
    told = "epoch 2 of 20, step 20 of 200, 0:39:00 left in all, loss 0.5000, val mAP 0.250, 123 clips/s\n"
    assert re.sub(r"^\d\d:\d\d:\d\d ", "", capsys.readouterr().err) == f"run 3 of 6 (strg, seed 1), {told}"
    alone = RunPlace(name="strg", seed=0, num_epochs=20)
    lines.epoch(alone, epoch)
    told = "strg seed 0, epoch 2 of 20: loss 0.5000, val mAP 0.300, 0:00:27 left, 123 clips/s, 1.5 s\n"
    assert capsys.readouterr().err[9:] == told
    lines.epoch(alone, replace(epoch, epoch=20))
    assert "left" not in capsys.readouterr().err

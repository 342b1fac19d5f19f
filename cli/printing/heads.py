"""Prints the output of `train`, `results`, `evaluate`, `models` and `demo`."""

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from math import isnan
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.fingerprint import canonical, differences
from kinegraph.cache_schemas.words import counted, shown
from kinegraph.cli.printing.result_tables import folder_of, on_equal_clips, splits_of, spread, table_file
from kinegraph.cli.printing.text import few, listed, note, note_at_work, say, say_page, say_table, say_whole, wrapped
from kinegraph.pipeline.machine.terminal import USUAL_COLUMNS, LineTimer, Pace, columns, fitting, speed

if TYPE_CHECKING:
    from kinegraph.pipeline.clusters.wanted_run import RunPlace
    from kinegraph.pipeline.demo import DemoResult, FinetuneDemoResult
    from kinegraph.pipeline.training.breakdown import AttributeScore
    from kinegraph.pipeline.training.results import RunResults, SplitCounts
    from kinegraph.pipeline.training.scoring import RunScores
    from kinegraph.pipeline.training.table import TrainedRun
    from kinegraph.stages.training.records import EpochRecord, StepRecord

SHOWN_CLASSES = 5
MUCH_WAITING = 0.05


class TrainingLines:
    """Prints the progress of a training to stderr: a line for each epoch, and the current step between epochs.

    On a terminal, the line of the current step is updated in place. In a log, a line for the current step is written
    every 30 s, later every 5 min.
    """

    def __init__(self) -> None:
        self._timer = LineTimer()
        self._paces: dict[RunPlace, Pace] = {}

    def epoch(self, run: "RunPlace", record: "EpochRecord") -> None:
        metrics = [f"val {key} {value:.3f}" for key, value in record.metrics.items()]
        done = record.epoch / run.num_epochs
        pace = self._paces.setdefault(run, Pace(done - 1 / run.num_epochs, record.seconds))
        parts = [f"{_epoch(run, record.epoch)}: loss {record.loss:.4f}", *metrics, *_left(pace, done, run)]
        print(_line_start(), end="", file=sys.stderr)
        note_at_work(", ".join([*parts, speed(record.clips_per_second), f"{record.seconds:.1f} s"]))

    def step(self, run: "RunPlace", record: "StepRecord") -> None:
        done = record.step / record.num_steps
        metric = [f"val {record.metric[0]} {record.metric[1]:.3f}"] if record.metric else []
        left = _left(self._paces.setdefault(run, Pace(done)), done, run)
        step = f"step {record.step:,} of {record.num_steps:,}"
        parts = [_epoch(run, record.epoch), step, *left, f"loss {record.loss:.4f}", *metric]
        parts.append(speed(record.clips_per_second))
        if sys.stderr.isatty():
            line = shown(fitting(parts, (columns(sys.stderr) or USUAL_COLUMNS) - 1))
            print(f"{_line_start()}{line}", end="", file=sys.stderr, flush=True)
        elif self._timer.is_due():
            note_at_work(", ".join(parts))


def _epoch(run: "RunPlace", epoch: int) -> str:
    return f"{run.title}, epoch {epoch:,} of {run.num_epochs:,}"


def _left(pace: Pace, done: float, run: "RunPlace") -> list[str]:
    """Returns a list with the time left for all runs of the table, as text. Returns an empty list if the time is not
    known.

    `pace` measures the speed of the current run. `done` is the finished part of the current run, from 0 to 1. `run`
    says how many runs come after it.
    """
    return [f"{left} in all" if run.num_runs > 1 else left for left in pace.left(done, 1 + run.runs_after)]


def _line_start() -> str:
    """Returns the codes that clear the current line of a terminal, or "" if stderr is no terminal."""
    return "\r\033[K" if sys.stderr.isatty() else ""


def trained(runs: Sequence["TrainedRun"]) -> None:
    results([(run.folder, run.results) for run in runs])
    if now := [run.results for run in runs if not run.kept]:
        slowest = max(now, key=_waited)
        note(f"waiting for clips: at most {_waited(slowest):.1%} of a training ({slowest.name})")
        if _waited(slowest) > MUCH_WAITING:
            note("`train.preload: true` reads all clips into memory first, which is faster for small clips.")
    if kept := sum(run.kept for run in runs):
        note(f"{kept} of {counted(len(runs), 'run')} kept: they were finished before. --overwrite trains them again")


def _waited(run: "RunResults") -> float:
    """Returns the share of the training time, from 0 to 1, in which the network waited for clips. Returns 0 for a run
    of an early version, which did not record it.
    """
    return float(mean(epoch.get("waited", 0.0) for epoch in run.history))


def results(runs: Sequence[tuple[Path, "RunResults"]], form: str | None = None, out: Path | None = None) -> None:
    """Prints a table with one row per head and recipe. A recipe is the options of the training without the seed. Each
    row shows means over the seeds. If two runs of a row have the same seed, the second run gets a row of its own.

    - `runs`: (folder, results) of each run.
    - `form`: "csv", "md", "latex" or "png", to print the table for another program. None means a plain table.
    - `out`: the file to write, with `form`. None means stdout.
    """
    heads: dict[tuple[str, Path], dict[tuple[str, int], list[tuple[Path, RunResults]]]] = {}
    copies: Counter[tuple[str, Path, str, int]] = Counter()
    for folder, run in runs:
        of_head, row = heads.setdefault((run.name, folder.parent), {}), canonical(run.row())
        copy = copies[run.name, folder.parent, row, run.seed]
        copies[run.name, folder.parent, row, run.seed] += 1
        of_head.setdefault((row, copy), []).append((folder, run))
    alike = [group for of_head in heads.values() for group in of_head.values()]
    header = ["head", "seeds", "scores", "parameters", "seconds", "run"]
    if form is None:
        say_table(header, [_row(group) for group in alike], ["scores", "run"])
    elif out is None:
        say_whole(table_file(alike, form).decode())
    else:
        write_whole(out, [table_file(alike, form)])
    if any(len(group) > 1 and splits_of([run for _, run in group]) for group in alike):
        note("±: sample standard deviation over seeds")
    for (name, parent), of_head in heads.items():
        first, *others = (group[0][1].row() for group in of_head.values())
        for other in others:
            if changed := differences(first, other):
                note(f"{name} in {parent} has a row for each recipe: {'; '.join(changed)}")
    for (name, parent, _, seed), count in copies.items():
        if count > 1:
            several = counted(count, "run")
            note(f"{name} in {parent}: {several} have seed {seed}. They are not averaged: each has a row of its own")
    for alike_runs in ([run for _, run in group] for group in alike):
        for split in splits_of(alike_runs):
            if len(on_equal_clips(alike_runs, split)) > 1:
                name = alike_runs[0].name
                note(f"{name}, {split}: scores on other clips or labels are not averaged. Evaluate all again")
    incomplete = {
        f"{run.name}, {split}: {_counted(counts, run.scores[split])}": None
        for _, run in runs
        for split, counts in run.counts.items()
        if counts.num_failed or counts.num_unsealed_clips
    }
    for line in listed([*incomplete]):
        note(line)
    for line in listed([_choice(run) for _, run in runs if run.candidate is not None and len(run.of_candidates) > 1]):
        note(line)


def _choice(run: "RunResults") -> str:
    """Returns a sentence that names the candidate that validation chose in `run`, with its score and the scores of the
    other candidates. A candidate is a set of weights that was trained with its own learning rate and weight decay.
    """
    values = {name: value for name, value in run.of_candidates.items() if value is not None}
    others = [value for name, value in values.items() if name != run.candidate]
    parts = [f"{run.metric} {values[str(run.candidate)]:.3f}"]
    if others:
        parts.append(f"the others {min(others):.3f} to {max(others):.3f}")
    if diverged := len(run.of_candidates) - len(values):
        parts.append(f"{diverged} diverged")
    split = run.recipe.val_split
    return (
        f"{run.name} seed {run.seed}: {split} chose {run.candidate}, of {len(run.of_candidates)} candidates "
        f"({', '.join(parts)})"
    )


def _row(runs: "Sequence[tuple[Path, RunResults]]") -> list[str]:
    """Returns the cells of one row of the table of results. `runs` has (folder, results) of each run of the row. The
    runs differ only in their seeds.
    """
    results = [run for _, run in runs]
    scores = "  ".join(_score(results, split) for split in splits_of(results)) or "-"
    seconds = mean(run.seconds for run in results)
    text = "-" if isnan(seconds) else f"{seconds:.1f}"  # runs of old versions did not record seconds
    folder = folder_of(runs)
    return [results[0].name, str(len(results)), scores, f"{results[0].num_parameters:,}", text, str(folder)]


def _score(runs: Sequence["RunResults"], split: str) -> str:
    """Returns the mean score of `runs` on `split` as text: "test top1 0.781 ± 0.012".

    The score is the metric by which the first run chose its best epoch. If no run has this metric on `split`, it is the
    first metric there. Runs that were scored on different clips or labels are not averaged. Each group of runs with
    equal clips and labels has its own mean.
    """
    metric = runs[0].metric
    metrics = [name for run in runs for name in run.scores.get(split, {})]
    name = metric if metric in metrics else metrics[0]
    texts = []
    for group in on_equal_clips(runs, split):
        if values := [run.scores[split][name] for run in group if name in run.scores[split]]:
            missing = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""
            texts.append(f"{split} {name} {spread(values)}{missing}")
    return "  ".join(texts)


def evaluated(scores: "RunScores", groups: Sequence["AttributeScore"]) -> None:
    result = scores.result
    if scores.predictions is not None:
        note(f"scores of all videos: {scores.predictions}")
    if not scores.is_labelled:
        videos = counted(result.num_videos, "video")
        say(f"scored: {videos} of split {scores.split}. No video has a label, so there are no metrics")
        return
    say("  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items()))
    say(_counted(scores.counts, result.metrics))
    per_video = result.seconds / max(1, result.num_videos)
    note(f"{result.seconds:.1f} s from cached features to scores, {1000 * per_video:.1f} ms a video")
    if absent := scores.absent_classes:
        classes = counted(len(absent), "class has no positive and is", "classes have no positive and are")
        say(f"{classes} left out of means over classes: {few(absent)}")
    per_class = sorted(scores.per_class().items(), key=lambda item: -item[1])
    if len(per_class) > 2:
        name = "AP" if "mAP" in result.metrics else "accuracy"
        num = min(SHOWN_CLASSES, len(per_class) // 2)
        for word, shown in (("highest", per_class[:num]), ("lowest", per_class[-num:])):
            say(f"{word} {name}: " + ", ".join(f"{label} {value:.3f}" for label, value in shown))
    if groups:
        rows = [[group.attribute, group.value, str(group.num_classes), f"{group.score:.4f}"] for group in groups]
        say_table(["attribute", "value", "classes", "mean"], rows, ["value"])


def _counted(counts: "SplitCounts", metrics: Collection[str]) -> str:
    fate = "ranked last" if "mAP" in metrics else "counted as wrong"
    failed = f", {counts.num_failed:,} of them without an ok clip, {fate}" if counts.num_failed else ""
    unsealed = f"; {counted(counts.num_unsealed_clips, 'clip is', 'clips are')} not extracted yet and left out"
    return f"{counted(counts.num_videos, 'video')}{failed}{unsealed if counts.num_unsealed_clips else ''}"


def models(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a few lines for each network: the numbers of parameters and operations, the input, the taps, the options
    and the weights. `rows` are the entries of `kinegraph models --json`.
    """
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say_page(f"{row['name']:<{width}}{row['params']:>12,} parameters {row['gmacs']:>8.3f} GMACs")
        shown = [tap for tap in row["taps"] if "about" not in row or tap["name"] in _ends(row["taps"])]
        taps = [f"{tap['name']} {tap['channels']}/{tap['stride']}{_in_time(tap)}" for tap in shown]
        options = [f"{key}: {' or '.join(map(str, values))}" for key, values in row["options"].items()]
        weights = [f"{source['name']} ({source['licence']})" for source in row["weights"]]
        words_of = {
            "about": [row["about"], f"here {row['usual']}"] if "about" in row else [],
            "input": [_counted_for(row)],
            "taps": taps,
            "options": options,
            "weights": weights,
        }
        for name, words in words_of.items():
            if words:
                say_page(wrapped(f"  {name + ':':<10}", words))
    say_page("taps: name channels/stride, stride in pixels; after t the stride in frames. --json lists sources, sha256")
    say_page(
        "options: the value of the paper first. Named weights set the options that they were trained with (--json)"
    )
    say_page("source: the value of `proposals.source`. Detectors run without their second stage")
    say_page("kinegraph models NAME tells all about one network")
    say_page(
        "transformers/<family>: a config names transformers/<folder>, or transformers/<repository> of the Hugging Face "
        "hub's cache (pip install 'kinegraph[transformers]'). Numbers and taps are those of the network after `here`"
    )
    say_page("timm/<model>: any image model of timm that returns its maps (pip install 'kinegraph[timm]')")
    say_page(
        "timm's transformers: a tap is the map of a block's patch tokens, the last one after the final norm. `tokens: "
        "class` stores class tokens, and `head: true` the pooled vector or, of CLIP, the projection."
    )


def _ends(taps: Sequence[dict[str, Any]]) -> set[str]:
    """Returns the names of the first and the last layer among `taps`, and "norm" for the final norm."""
    layers = [tap["name"] for tap in taps if tap["name"] != "norm"]
    return {layers[0], layers[-1], "norm"}


def _counted_for(row: dict[str, Any]) -> str:
    form = row["input"]
    if row["kind"] == "proposals":
        return f"{form['width']}x{form['height']} px, source: {row['source']}"
    classes = counted(form["num_classes"], "class") if form["num_classes"] else "no classes"
    frames = f"{counted(form['num_frames'], 'frame')} of " if form["num_frames"] > 1 else ""
    flow = " of optical flow" if row.get("sees") == "flow" else ""
    return f"{frames}{form['size']} px{flow}, {classes}"


def heads(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a few lines for each head: the numbers of parameters and operations, its sizes, the arrays that it reads
    and the published scores. `rows` are the entries of `kinegraph models --heads --json`.
    """
    for row in rows:
        say_page(f"{row['name']:<18}{row['params']:>11,} parameters {row['gmacs']:>8.4g} GMACs")
        say_page(wrapped(f"  {'size:':<11}", row["about"].split(", ")))
        say_page(wrapped(f"  {'reads:':<11}", row["reads"]))
        say_page(wrapped("  published: ", row["published"].split(), " "))
    say_page("Counts are for one clip at the sizes of the papers. --json lists the options of each head")


def _in_time(tap: dict[str, Any]) -> str:
    return f"t{tap['temporal_stride']}" if tap["temporal_stride"] > 1 else ""


def finetune_demo(result: "FinetuneDemoResult") -> None:
    """Prints the table of `demo --finetune`, with one row for each way of training. Scores are means over the seeds."""
    found, epochs = result.comparisons, counted(result.epochs, "epoch", "epochs")
    longest = counted(max(each.epochs_at_cost for each in found), "epoch", "epochs")
    rows = [
        ["start", spread([each.start for each in found]), result.start],
        ["joint", spread([each.joint for each in found]), f"then {epochs} of backbone and head, from the videos"],
        ["head alone", spread([each.head_alone for each in found]), f"then {epochs} of the head, same rate"],
        ["head alone", spread([each.head_at_cost for each in found]), f"as long as joint, up to {longest}"],
    ]
    say_table(["training", "test accuracy", "what it is"], rows, ["test accuracy", "what it is"])
    seeds = "" if len(found) == 1 else " (±: sample standard deviation)"
    say(f"{counted(len(found), 'seed')}{seeds}, joint epochs took {mean(each.joint_seconds for each in found):.0f} s")


def demo(result: "DemoResult") -> None:
    rows = [
        [row.name, spread(row.scores), f"{row.num_parameters:,}", f"{mean(row.seconds):.1f}", row.about]
        for row in result.rows
    ]
    score = "test accuracy" if result.metric == "top1" else f"test {result.metric}"
    say_table(["head", score, "parameters", "seconds", "what it is"], rows, [score, "what it is"])
    seeds = "" if result.seeds == 1 else " (±: sample standard deviation)"
    say(f"{counted(result.num_test, 'unseen test video')}, {counted(result.seeds, 'seed')}{seeds}")
    say(
        f"generating {counted(result.num_videos, 'video')} took {result.generate_seconds:.0f} s, "
        f"extraction {result.extract_seconds:.0f} s, everything {result.seconds:.0f} s"
    )
    say(
        "These heads are not trained to the end. `kinegraph demo --finetune` trains one of them five times as long, "
        "then with its backbone."
    )

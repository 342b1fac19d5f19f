"""What commands print: results to stdout, everything else to stderr."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from pipeline.breakdown import AttributeScore
    from pipeline.calibration import Calibration
    from pipeline.demo import DemoResult
    from pipeline.estimate import Estimate
    from pipeline.exporting import ExportedCache
    from pipeline.exporting_npy import ExportedFiles
    from pipeline.extraction import Outcome
    from pipeline.importing import Imported
    from pipeline.indexing import Indexed
    from pipeline.plan import Plan
    from pipeline.results import RunResults
    from pipeline.scoring import RunScores
    from pipeline.training import TrainedRun
    from pipeline.verification import Verification
    from stages.training.records import EpochRecord, StepRecord

MAX_LISTED, MAX_LOGS, MAX_COLUMNS, SHOWN_CLASSES = 10, 3, 120, 5
QUIET_SECONDS = 30.0
CLIP_STATES = ("ok", "warned", "failed", "missing")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback (what, done, total; total 0 if not known) that draws a bar on a terminal."""
    bars: dict[str, Any] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total or None, desc=what, disable=not sys.stderr.isatty(), file=sys.stderr)
        bars[what].update(done - bars[what].n)

    yield progress
    for bar in bars.values():
        bar.close()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()) -> str:
    """Columns wide enough for their cells; the first and those named in `words` flush left, numbers flush right."""
    columns = list(zip(header, *rows, strict=True))
    for number, column in enumerate(columns):
        width = max(map(len, column))
        flush_left = number == 0 or column[0] in words
        columns[number] = tuple(cell.ljust(width) if flush_left else cell.rjust(width) for cell in column)
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def duration(seconds: float) -> str:
    """`0 s`, `12 min`, `3.4 h`, ..."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


def _listed(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], f"  ... and {more} more"] if more > 0 else list(lines)


def indexed(found: "Indexed") -> None:
    cache = found.cache
    print(
        f"{cache.root}: {found.num_videos} videos, {len(cache.clips)} rows ({found.num_new_rows} new), "
        f"{cache.num_shards} shards of up to {cache.shard_clips}"
    )
    if found.unreadable:
        note(f"{len(found.unreadable)} videos could not be opened; extract will mark their clips as failed:")
        note("\n".join(_listed([f"  {video}: {error}" for video, error in found.unreadable.items()])))


def plan(made: "Plan", cost: "Estimate") -> None:
    stages = made.to_json()["stages"]
    rows = [[key, str(shards["done"]), str(shards["missing"])] for key, shards in stages.items()]
    print(table(["stage", "shards done", "to do"], rows))
    if made.changed_videos:
        note("changed since they were cached (videos or the files beside them), their shards run again:")
        note("\n".join(_listed([f"  {video}" for video in made.changed_videos])))
    if made.unchecked:
        note(f"{', '.join(made.unchecked)}: extract first compares the digests of the weights with the cache")
    free = "" if cost.free_bytes is None else f", {size(cost.free_bytes)} free"
    print(f"{cost.units} work units, {cost.files} files, {size(cost.bytes)} to write{free}")
    if made.units:
        pace = "no shard sealed yet to tell the time" if cost.hours is None else f"about {duration(3600 * cost.hours)}"
        print(f"up to {size(cost.worker_bytes)} a worker for pixels and outputs, networks come on top; {pace}")


def calibrated(measured: "Calibration | None") -> None:
    if measured is None:
        print("nothing is missing: nothing to measure")
        return
    one = f"{measured.clips} clips in {measured.seconds:.1f} s ({measured.clips_per_second:.3g} clips/s)"
    where = f"on {measured.device} with {measured.threads} threads, peak memory {size(measured.peak_bytes)}"
    print(f"measured: {one} {where}")
    print("  " + ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in measured.stage_seconds.items()))
    if measured.failed:
        note(f"{measured.failed} of these clips failed, so the others may take longer")
    if measured.hours is not None:
        workers = f", {measured.workers} workers side by side" if measured.workers > 1 else ""
        print(f"at this pace about {duration(3600 * measured.hours)} for all that is missing{workers}")


def differences(found: dict[str, list[str] | None]) -> None:
    """Per stage key what `plan --why` found, cached -> asked for."""
    for key, lines in found.items():
        print(f"{key}: {'not begun' if lines is None else 'as cached' if not lines else 'differs'}")
        for line in lines or ():
            print(f"  {line}")


def extracted(outcome: "Outcome", cache: str) -> None:
    if outcome.plan.units:
        rate = outcome.clips_run / outcome.seconds if outcome.seconds else 0.0
        others = f"; other runs did {outcome.units_elsewhere} of {len(outcome.plan.units)} shards"
        print(
            f"{cache}: {outcome.clips_run} clips in {outcome.seconds:.1f} s ({rate:.1f} clips/s), all sealed"
            f"{others if outcome.units_elsewhere else ''}"
        )
    else:
        print(f"{cache}: nothing to do, all {outcome.num_clips} clips are sealed")
    if outcome.failures:
        note(f"{len(outcome.failures)} of {outcome.num_clips} clips failed (--retry-failed runs them again):")
        note("\n".join(_listed([f"  {f.clip_id}: {f.reason}: {f.detail}" for f in outcome.failures])))


def status(found: dict[str, Any]) -> None:
    print(f"{found['clips']} clips in {found['shards']} shards")
    rows = []
    for key, stage in found["stages"].items():
        shards, clips = stage["shards"], stage["clips"]
        failed = ", ".join(f"{count} {reason}" for reason, count in stage["failed"].items())
        cells = (*(shards[k] for k in ("done", "running", "missing")), *(clips[k] for k in CLIP_STATES))
        rate, left = stage["clips_per_second"], stage["seconds_left"]
        pace = ["-", "-"] if rate is None else [f"{rate:.3g}", duration(left)]
        rows.append([key, *map(str, cells), size(stage["bytes"]), *pace, failed])
    if rows:
        header = ["stage", "shards", "running", "to do", *CLIP_STATES, "size", "clips/s", "time left", "why"]
        print(table(header, rows, ["why"]))
    else:
        print("no stage was begun yet; run `kinegraph extract CONFIG`")
    for job in found["jobs"]:
        _job(job)


def _job(job: dict[str, Any]) -> None:
    """A job array: how many of its tasks are in which state, and the ends of a few logs."""
    tasks = ", ".join(f"{count} {state}" for state, count in job["tasks"].items() if count)
    print(f"SLURM job {job['job_id']} ({job['kind']}, {job['submitted_at']}): {tasks}; logs in {job['folder']}")
    for task in job["failed"][:MAX_LOGS]:
        print(f"  task {task['task']}: {task['state']} {task['detail']}".rstrip())
        print("\n".join(f"    {line}" for line in task["log"] or ["(no log)"]))


def verified(found: "Verification", repaired: bool) -> None:
    for problem in found.problems:
        where = problem.stage if problem.shard is None else f"{problem.stage} shard {problem.shard}"
        print(f"{where}: {problem.kind}: {problem.object}")
    for warning in found.warnings:
        note(f"warning: {warning.stage} shard {warning.shard}: {warning.kind}: {warning.object}")
    if found.proposals_per_frame is not None:
        print(f"{found.proposals_per_frame:g} proposals a frame on average")
    if found.ok:
        print("every sealed object is there, whole and unchanged")
    elif repaired:
        print(
            f"{len(found.problems)} problems; metadata is written anew, the shards are un-marked: "
            "`kinegraph extract CONFIG` redoes them"
        )
    else:
        print(
            f"{len(found.problems)} problems; --repair writes metadata anew and un-marks the shards, then "
            "`kinegraph extract CONFIG` redoes them"
        )


def exported_cache(found: "ExportedCache") -> None:
    there = found.num_sealed - found.num_copied - len(found.damaged)
    unsealed = f"; {found.num_unsealed} are not sealed in the source" if found.num_unsealed else ""
    print(f"{found.cache.root}: {found.num_copied} shards of stages copied, {there} were there{unsealed}")
    _damaged(found.damaged)


def exported_files(found: "ExportedFiles", out: str) -> None:
    print(f"{out}: {found.num_files} files, clips.csv says which row is which clip")
    if found.num_failed:
        note(f"{found.num_failed} clips failed in a stage: they hold fill values, clips.csv says why")
    for stage, videos in found.unsealed.items():
        note(f"{len(videos)} videos are not sealed in {stage} yet and left out:")
        note("\n".join(_listed([f"  {video}" for video in videos])))
    _damaged(found.damaged)


def imported(found: "Imported") -> None:
    names = [f"{spec.name} {list(spec.shape)}" for stage in found.stages for spec in stage.arrays]
    print(f"{found.cache.root}: {found.num_videos} videos from {found.kind} files: {', '.join(names)}")
    if found.left_out:
        note(f"{len(found.left_out)} videos of the files have no row in the cache and are left out:")
        note("\n".join(_listed([f"  {video}" for video in found.left_out])))
    if found.failures:
        note(f"{len(found.failures)} of {found.cache.num_rows} clips failed:")
        note("\n".join(_listed([f"  {f.clip_id}: {f.reason}: {f.detail}" for f in found.failures])))
    if found.cache.classes:
        print(f"`kinegraph train CONFIG` needs no more of a config than this:\n{_train_config(found)}", end="")
    else:
        print("no labels yet: the same command with --annotations CSV (path,label[,split]) adds them")


def _train_config(found: "Imported") -> str:
    """A config that trains on imported features, on the splits there are."""
    import yaml

    name, tap = found.naming.name, found.naming.tap
    splits = {str(split) for split in found.cache.clips.column("split")}
    head = "strg" if f"regions/{name}" in found.cache.stage_keys() else "avg_pool"
    train: dict[str, Any] = {"head": head, "options": {"backbone": name, "tap": tap}, "run": f"runs/{name}"}
    if "val" not in splits:
        train["val_split"] = None
    return yaml.safe_dump({"cache": found.cache.root, "train": train}, sort_keys=False)


def _damaged(sentences: Sequence[str]) -> None:
    if sentences:
        note(f"{len(sentences)} shards are damaged and left out:")
        note("\n".join(_listed([f"  {sentence}" for sentence in sentences])))


class TrainingLines:
    """Lines about training: one per epoch, between them one that changes on a terminal, else one now and then."""

    def __init__(self) -> None:
        self._last_line = time.monotonic()

    def epoch(self, name: str, seed: int, record: "EpochRecord") -> None:
        metrics = "".join(f"  val {key} {value:.3f}" for key, value in record.metrics.items())
        self._last_line = time.monotonic()
        note(
            f"{_line_start()}{name} seed {seed} epoch {record.epoch}: loss {record.loss:.4f}{metrics}  "
            f"{record.clips_per_second:.0f} clips/s  {record.seconds:.1f} s"
        )

    def step(self, name: str, seed: int, record: "StepRecord") -> None:
        metric = f"  val {record.metric[0]} {record.metric[1]:.3f}" if record.metric else ""
        line = (
            f"{name} seed {seed} epoch {record.epoch}, step {record.step} of {record.num_steps}: loss {record.loss:.4f}"
            f"{metric}  {record.clips_per_second:.0f} clips/s"
        )
        if sys.stderr.isatty():
            print(f"{_line_start()}{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last_line >= QUIET_SECONDS:
            self._last_line = time.monotonic()
            note(line)


def _line_start() -> str:
    """Goes back over the line on a terminal, and clears it."""
    return "\r\033[K" if sys.stderr.isatty() else ""


def with_range(values: Sequence[float]) -> str:
    """Mean, and half the range where there are several."""
    half = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{half}"


def spread(values: Sequence[float]) -> str:
    """Mean, and the sample standard deviation where there are several."""
    deviation = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{deviation}"


def trained(runs: Sequence["TrainedRun"]) -> None:
    results([(run.folder, run.results) for run in runs])
    if kept := sum(run.kept for run in runs):
        note(f"{kept} of {len(runs)} runs were finished before and are kept; --overwrite trains them again")


def results(runs: Sequence[tuple[Path, "RunResults"]]) -> None:
    """A line per head: means over its seeds."""
    rows, several = [], False
    for (name, parent), group in groupby(runs, key=lambda run: (run[1].name, run[0].parent)):
        of_name = list(group)
        several |= len(of_name) > 1
        found = [run for _, run in of_name]
        splits = dict.fromkeys(split for run in found for split in run.scores)
        scores = "  ".join(filter(None, (_score(found, split) for split in splits))) or "-"
        seconds = mean(run.seconds for run in found)
        folder = of_name[0][0] if len(of_name) == 1 else parent
        rows.append([name, str(len(found)), scores, f"{found[0].num_parameters:,}", f"{seconds:.1f}", str(folder)])
    print(table(["head", "seeds", "scores", "parameters", "seconds", "run"], rows, ["scores", "run"]))
    if several:
        note("±: sample standard deviation over seeds")


def _score(runs: Sequence["RunResults"], split: str) -> str:
    """The metric that chose the epoch, or the first of a split that chose nothing."""
    metric = runs[0].metric
    known = [name for run in runs for name in run.scores.get(split, {})]
    name = metric if metric in known else known[0]
    values = [run.scores[split][name] for run in runs if name in run.scores.get(split, {})]
    missing = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""
    return f"{split} {name} {spread(values)}{missing}"


def evaluated(found: "RunScores", groups: Sequence["AttributeScore"]) -> None:
    result = found.result
    print("  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items()))
    failed = f", {result.num_failed} of them without an ok clip, counted as wrong" if result.num_failed else ""
    print(f"{result.num_videos} videos{failed}")
    if absent := found.absent_classes:
        print(f"{len(absent)} classes have no positive and are left out of means over classes: {_few(absent)}")
    per_class = sorted(found.per_class().items(), key=lambda item: -item[1])
    if len(per_class) > 2:
        name = "AP" if "mAP" in result.metrics else "accuracy"
        few = min(SHOWN_CLASSES, len(per_class) // 2)
        for word, shown in (("highest", per_class[:few]), ("lowest", per_class[-few:])):
            print(f"{word} {name}: " + ", ".join(f"{label} {value:.3f}" for label, value in shown))
    if groups:
        rows = [[group.attribute, group.value, str(group.num_classes), f"{group.score:.4f}"] for group in groups]
        print(table(["attribute", "value", "classes", "mean"], rows, ["value"]))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def models(rows: Sequence[dict[str, Any]]) -> None:
    """Per network a line of counts, then its taps and weights, wrapped."""
    for row in rows:
        form = row["input"]
        frames = f"{form['num_frames']} frames of " if form["num_frames"] > 1 else ""
        print(
            f"{row['name']:<18}{row['params']:>11,} parameters {row['gmacs']:>8.3f} GMACs  "
            f"{frames}{form['size']} px, {form['num_classes'] or 'no'} classes"
        )
        taps = [f"{tap['name']} {tap['channels']}/{tap['stride']}{_in_time(tap)}" for tap in row["taps"]]
        options = [f"{key}: {' or '.join(map(str, values))}" for key, values in row["options"].items()]
        weights = [f"{source['name']} ({source['licence']})" for source in row["weights"]]
        for name, words in (("taps", taps), ("options", options), ("weights", weights)):
            if words:
                print(_wrapped(f"  {name + ':':<10}", words))
    print("taps: channels/stride in pixels, and after t the stride in frames; sources and sha256: --json")
    print("timm/<model>: any image model of timm that gives its maps (pip install 'kinegraph[timm]')")


def heads(rows: Sequence[dict[str, Any]]) -> None:
    """Per head a line of counts, then what it reads and what its paper gives, wrapped."""
    for row in rows:
        print(f"{row['name']:<18}{row['params']:>11,} parameters {row['gmacs']:>8.4g} GMACs  {row['about']}")
        print(_wrapped(f"  {'reads:':<11}", row["reads"]))
        print(textwrap.fill(row["published"], MAX_COLUMNS, initial_indent="  published: ", subsequent_indent=" " * 13))
    print("at the sizes of the papers, of one clip; options of each: --json")


def _wrapped(start: str, words: Sequence[str]) -> str:
    """`start` and the words, separated by commas, in lines that break between words only."""
    whole = start + ", ".join(word.replace(" ", "\0") for word in words)
    return textwrap.fill(whole, MAX_COLUMNS, subsequent_indent=" " * len(start)).replace("\0", " ")


def _in_time(tap: dict[str, Any]) -> str:
    return f"t{tap['temporal_stride']}" if tap["temporal_stride"] > 1 else ""


def demo(found: "DemoResult") -> None:
    rows = [
        [row.name, with_range(row.accuracies), f"{row.num_parameters:,}", f"{mean(row.seconds):.1f}", row.about]
        for row in found.rows
    ]
    print(
        table(["head", "test accuracy", "parameters", "seconds", "what it is"], rows, ["test accuracy", "what it is"])
    )
    print(
        f"{found.num_test} unseen test videos, {found.seeds} seeds (± half the range); "
        f"generating {found.num_videos} videos took {found.generate_seconds:.0f} s, "
        f"extraction {found.extract_seconds:.0f} s, everything {found.seconds:.0f} s"
    )

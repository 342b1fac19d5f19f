"""Prints the output of `index`, `plan`, `extract`, `status` and `verify`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.data_set_documents import MISSING
from kinegraph.cache_schemas.words import counted, on_one_line, size
from kinegraph.cli.printing.failures import by_video
from kinegraph.cli.printing.text import duration, note, note_listed, say, say_table, wrapped
from kinegraph.pipeline.machine.terminal import speed

if TYPE_CHECKING:
    from kinegraph.pipeline.caches.index_summary import SplitSummary
    from kinegraph.pipeline.caches.indexing import Indexed
    from kinegraph.pipeline.caches.plan import Plan
    from kinegraph.pipeline.caches.verification import Verification
    from kinegraph.pipeline.extraction.calibration import Calibration
    from kinegraph.pipeline.extraction.estimate import Estimate
    from kinegraph.pipeline.extraction.run import Outcome
    from kinegraph.pipeline.upgrading.upgrade import FrameReport

MAX_LOGS = 3
CLIP_STATES = ("ok", "warned", "failed", "missing")
SHOWN_IF_ANY = ("running", "warned", "speed", "time left", "why")  # columns of status that may be left out


def indexed(result: "Indexed", strict: bool) -> None:
    """Prints the result of `index`. `strict` is true if the user gave `--strict`."""
    cache = result.cache
    intervals = f" {counted(result.num_intervals, 'interval')}," if result.num_intervals else ""
    say(
        f"{cache.root}: {counted(result.num_videos, 'video')},{intervals} {counted(len(cache.clips), 'row')} "
        f"({result.num_new_rows:,} new), {counted(cache.num_shards, 'shard')} of up to {cache.shard_clips}"
    )
    _splits(result.splits)
    _files(result, strict)
    if result.left_out:
        endings = [f"{count} {ending}" for ending, count in result.left_out.items()]
        note(wrapped(f"left out, as they are no videos: {counted(sum(result.left_out.values()), 'file')}: ", endings))
    for warning in result.warnings:
        note(f"warning: {on_one_line(warning)}")
    note_listed(
        f"{counted(len(result.unreadable), 'video')} could not be opened. extract will mark the clips as failed:",
        [f"{video}: {error}" for video, error in result.unreadable.items()],
    )
    note_listed(
        f"{counted(len(result.complaints), 'video has', 'videos have')} faults. All frames that can be read are used:",
        [f"{path}: {words}" for path, words in result.complaints.items()],
    )
    ends, fails = ("are kept as listed",) * 2 if result.has_windows else ("end with it", "will fail")
    note_listed(
        f"intervals that go beyond the end of their video, and {ends}: {len(result.beyond_end):,}", result.beyond_end
    )
    note_listed(
        f"intervals that begin after the end of their video, and {fails}: {len(result.after_end):,}", result.after_end
    )
    note_listed(
        f"videos that are shorter than a window, and have no row without `tail: pad`: {len(result.without_window):,}",
        result.without_window,
    )
    note_listed(
        f"videos and intervals without an annotated frame, which have no row: {len(result.without_frame):,}",
        result.without_frame,
    )


def _files(result: "Indexed", strict: bool) -> None:
    """Prints a table that compares, for each split, the videos in the label files with the published numbers and with
    the video files. Only data sets in their owners' layout have such a table. Also prints the notes about the data set.

    If `strict` is true, also prints the differences as an error.
    """
    header = ["split", "listed", "published", "present", "missing", "unreadable"]
    rows = [
        [
            split,
            *(
                "-" if count is None else f"{count:,}"
                for count in (files.listed, files.published, files.present, files.missing, files.unreadable)
            ),
        ]
        for split, files in result.files.items()
    ]
    if rows:
        say()
        say_table(header, rows)
    if result.classes_from:
        say(f"{counted(len(result.cache.classes), 'class')}, in the order of {result.classes_from}")
    for sentence in result.notes:
        note(sentence)
    if result.missing:
        note(f"missing videos are listed in {result.cache.root}/{MISSING}: name, split, what was looked for")
    if strict:
        note_listed("error: --strict: the data set is not whole as published:", result.differences)


def _splits(splits: "dict[str, SplitSummary]") -> None:
    """Prints a table with a row for each split: its numbers of videos, clips, hours and classes. A column without any
    value is left out.
    """
    header = ["split", "videos", "clips", "hours", "classes", "labels per class", "unlabelled", "unreadable"]
    rows = []
    for split, summary in splits.items():
        spread = "-" if summary.labels_per_class is None else "{} / {:g} / {}".format(*summary.labels_per_class)
        counts = [str(count or "") for count in (summary.unlabelled, summary.unreadable)]
        rows.append(
            [
                *(split, str(summary.videos), str(summary.clips), f"{summary.hours:.2f}"),
                *(str(summary.classes), spread, *counts),
            ]
        )
    kept = [column for column in range(len(header)) if any(row[column] for row in rows)]
    say_table([header[column] for column in kept], [[row[column] for column in kept] for row in rows])
    if any(summary.labels_per_class for summary in splits.values()):
        say("labels per class: fewest / median / most")


def plan(made: "Plan", cost: "Estimate") -> None:
    stages = made.to_json()["stages"]
    rows = [[key, str(shards["done"]), str(shards["missing"])] for key, shards in stages.items()]
    say_table(["stage", "shards done", "to do"], rows)
    note_listed(
        "videos that changed since they were cached, or whose files beside them did. Their shards run again:",
        made.changed_videos,
    )
    if made.unchecked:
        note(f"{', '.join(made.unchecked)}: extract first compares the digests of the weights with the cache")
    free = "" if cost.free_bytes is None else f", {size(cost.free_bytes)} free"
    free += "" if cost.free_inodes is None else f", {counted(cost.free_inodes, 'inode')} free"
    say(f"{counted(cost.units, 'work unit')}, {counted(cost.files, 'file')}, {size(cost.bytes)} to write{free}")
    if made.units:
        pace = "time unknown: no shard is sealed" if cost.hours is None else f"about {duration(3600 * cost.hours)}"
        say(f"up to {size(cost.worker_bytes)} a worker for pixels and outputs, plus the networks; {pace}")


def calibrated(measured: "Calibration | None") -> None:
    if measured is None:
        say("nothing to measure, because no shard is missing")
        return
    one = f"{counted(measured.clips, 'clip')} in {measured.seconds:.1f} s ({speed(measured.clips_per_second)})"
    threads = counted(measured.threads, "thread")
    where = f"on {measured.device} with {threads}, peak memory {size(measured.peak_bytes)}"
    say(f"measured: {one} {where}")
    say("  " + ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in measured.stage_seconds.items()))
    for title, of_kinds in (("beside", measured.thread_seconds), ("on the GPU", measured.device_seconds)):
        if of_kinds:
            say(f"  {title}: " + ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in of_kinds.items()))
    say(measured.limit)
    if measured.failed:
        note(f"{measured.failed} of these clips failed, so the others may take longer")
    if measured.hours is not None:
        workers = f", {measured.workers} workers side by side" if measured.workers > 1 else ""
        say(f"at this pace about {duration(3600 * measured.hours)} for all that is missing{workers}")


def differences(lines_of: dict[str, list[str] | None]) -> None:
    """Prints, for each stage, whether its options in the config differ from those of the cache. Prints each option that
    differs as `option: value in the cache -> value in the config`.

    `lines_of` is {stage key: lines to print}. An empty list means that no option differs. None means that the cache
    does not have the stage yet.
    """
    for key, lines in lines_of.items():
        say(f"{key}: {'not begun' if lines is None else 'as cached' if not lines else 'differs'}")
        for line in lines or ():
            say(f"  {line}")


def extracted(outcome: "Outcome", cache: str) -> None:
    if outcome.plan.units:
        rate = outcome.clips_run / outcome.seconds if outcome.seconds else 0.0
        others = f"; other runs did {outcome.units_elsewhere:,} of {counted(len(outcome.plan.units), 'shard')}"
        say(
            f"{cache}: {counted(outcome.clips_run, 'clip')} in {outcome.seconds:.1f} s ({speed(rate)}), all sealed"
            f"{others if outcome.units_elsewhere else ''}"
        )
    else:
        say(f"{cache}: nothing to do, all is sealed ({counted(outcome.num_clips, 'clip')})")
    note_listed(
        f"{len(outcome.failures):,} of {counted(outcome.num_clips, 'clip')} failed (--retry-failed runs them again):",
        by_video(outcome.failures, cache),
    )


def status(document: dict[str, Any]) -> None:
    say(f"{counted(document['clips'], 'clip')} in {counted(document['shards'], 'shard')}")
    rows = []
    for key, stage in document["stages"].items():
        shards, clips = stage["shards"], stage["clips"]
        failed = ", ".join(f"{count:,} {reason}" for reason, count in stage["failed"].items())
        cells = (*(shards[k] for k in ("done", "running", "missing")), *(clips[k] for k in CLIP_STATES))
        rate, left = stage["clips_per_second"], stage["seconds_left"]
        pace = ["-", "-"] if rate is None else [speed(rate), duration(left) if left else "-"]
        rows.append([key, *(f"{cell:,}" for cell in cells), size(stage["bytes"]), *pace, failed])
    if rows:
        header = ["stage", "shards", "running", "to do", *CLIP_STATES, "size", "speed", "time left", "why"]
        kept = [column for column, name in enumerate(header) if name not in SHOWN_IF_ANY or _any(rows, column)]
        say_table([header[column] for column in kept], [[row[column] for column in kept] for row in rows], ["why"])
    else:
        say("no stage has begun yet. Run `kinegraph extract CONFIG`")
    if any(stage["clips"]["failed"] for stage in document["stages"].values()):
        say("failures in full: `kinegraph status CACHE --failed` (--csv, --json)")
    for job in document["jobs"]:
        _job(job)


def _any(rows: Sequence[Sequence[str]], column: int) -> bool:
    return any(row[column] not in ("", "-", "0") for row in rows)


def _job(job: dict[str, Any]) -> None:
    """Prints how many tasks of a SLURM job are in each state, and the last lines of the logs of up to 3 failed tasks.

    `job` is an item of `jobs` in the output of `status --json`.
    """
    tasks = ", ".join(f"{count} {state}" for state, count in job["tasks"].items() if count)
    say(f"SLURM job {job['job_id']} ({job['kind']}, {job['submitted_at']}): {tasks}; logs in {job['folder']}")
    for task in job["failed"][:MAX_LOGS]:
        say(f"  task {task['task']}: {task['state']} {task['detail']}".rstrip())
        say("\n".join(f"    {line}" for line in task["log"] or ["(no log)"]))


def verified(verification: "Verification", repaired: bool) -> None:
    for problem in verification.problems:
        where = problem.stage if problem.shard is None else f"{problem.stage} shard {problem.shard}"
        say(f"{where}: {problem.kind}: {problem.object}" if where else f"{problem.kind}: {problem.detail}")
    for warning in verification.warnings:
        if warning.kind == "document":
            note(f"warning: {warning.detail}")
            continue
        note(f"warning: {warning.stage} shard {warning.shard}: {warning.kind}: {warning.object}")
    if verification.proposals_per_frame is not None:
        say(f"{verification.proposals_per_frame:g} proposals a frame on average")
    if verification.ok:
        say("every sealed object is there, whole and unchanged")
        return
    documents = sum(problem.kind == "document" for problem in verification.problems)
    metadata = sum(problem.kind == "metadata" for problem in verification.problems)
    if documents:
        wrong = "missing, damaged, or do not fit what is sealed"
        one, several = f"document is {wrong.replace('do not', 'does not')}", f"documents are {wrong}"
        say(f"{counted(documents, one, several)}; --repair leaves documents as they are")
    if metadata:
        text = "once documents are mended" if documents else "now" if repaired else "by --repair"
        say(f"{counted(metadata, 'problem')} of metadata, which is written anew {text}")
    if shards := len(verification.problems) - documents - metadata:
        text = "they are marked as not done:" if repaired else "--repair marks them as not done, then"
        say(f"{counted(shards, 'problem')} of shards; {text} `kinegraph extract CONFIG` redoes them")


def compared(report: "FrameReport", repair: bool) -> None:
    """Prints the result of `verify --frames`: how many clips would show other frames than the cache has, if they were
    extracted now. If the cache was upgraded, also prints what the upgrade changed. `repair` is true if the user gave
    `--repair`.
    """
    if report.is_latest:
        say(f"{report.cache}: made by the latest rules for videos, so there is nothing to compare")
        return
    shards, clips = report.shards, report.clips
    say(
        f"{report.cache}: `clips` version {report.version}; {counted(report.num_shards, 'shard')}: {shards['same']:,} "
        f"with the same frames at the same times, {shards['retimed']:,} with the same at other times "
        f"({counted(clips['retimed'], 'clip')}), {shards['differ']:,} with other frames "
        f"({counted(clips['differ'], 'clip')})"
    )
    or_unread = ", or could not be compared" if report.dropped else ""
    differing = counted(clips["differ"], "clip shows", "clips show")
    note_listed(f"{differing} other frames{or_unread}:", _videos(report.differing))
    note_listed(
        f"{counted(clips['unread'], 'clip')} of {counted(shards['unread'], 'shard')} cannot be compared, as videos "
        "cannot be read:",
        _videos(report.unread),
    )
    if report.upgraded:
        left = ". `kinegraph extract CONFIG` computes the other shards again" if shards["differ"] else ""
        say(f"upgraded: shards with the same frames are kept{left}")
        if report.dropped:
            say("When the videos that could not be read are back, run `kinegraph index CONFIG` before extract")
    elif shards["unread"]:
        say(
            f"{'nothing was changed' if repair else 'an upgrade would change nothing'} as long as videos are missing: "
            "put them back, or add --drop-unread, which marks their shards as not done"
        )
    else:
        say("--frames --repair upgrades the cache. It keeps right shards and marks the others as not done")


def _videos(clips: dict[str, str]) -> list[str]:
    """Returns lines of the form `video: message`. `clips` is {clip id: message}. Clips of one video with the same
    message share a line.

    If only one clip of a video has a message, its line begins with the clip id.
    """
    from kinegraph.cache_schemas.clips_table import video_of

    alike: dict[tuple[str, str], list[str]] = {}
    for clip, words in clips.items():
        alike.setdefault((video_of(clip), words), []).append(clip)
    return [f"{video if of_video[1:] else of_video[0]}: {words}" for (video, words), of_video in alike.items()]

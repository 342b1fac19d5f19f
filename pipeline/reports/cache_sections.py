"""Makes the sections of a report that describe a cache. Each function returns a Section, or an Absent with the reason
why there is nothing to show.

Torch-free.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import numpy as np

from kinegraph.cache_schemas.fingerprint import Options
from kinegraph.cache_schemas.scene_graphs import GRAPHS
from kinegraph.cache_schemas.words import counted, few_of, size
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.frames import WITHOUT_VIDEOS, FramesMissingError
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.samples import BOXES, COUNT
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, ReportTable, Section, SectionPart
from kinegraph.stages.pictures.bars import number
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.strips import Strip

MOST_FAILURES, MOST_WORDS, MOST_LINES = 1000, 300, 12
MOST_CLASSES, CLIPS_OF_CLASS, STRIP_FRAMES, STRIP_BOXES = 8, 2, 8, 5
MOST_DEAD, NEIGHBOUR_STRIPS, SCENE_STRIPS = 12, 3, 3
ALL, NO_CACHE = "All rows of the ledger.", "The report was made without a cache."


def figure(caption: str, draw: Callable[[], Picture | Strip]) -> SectionPart:
    """Calls `draw` and returns its result as a figure of the report, with the caption `caption`. If `draw` raises
    NothingToShowError or FramesMissingError, returns the message of the error as a paragraph.
    """
    try:
        return ReportFigure(draw(), caption)
    except (NothingToShowError, FramesMissingError) as error:
        return Paragraph(str(error))


def provenance(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    stages = look.numbers.stages
    if not stages:
        return Absent("No stage has begun yet. Run `kinegraph extract CONFIG`.")
    rows = [
        [key, _network(it.stage.options), it.stage.weights or "-",
         str(it.stage.options.get("weights_sha256", "-"))[:12], it.stage.fingerprint[:12],
         ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in it.stage.arrays)]
        for key, it in stages.items()
    ]  # fmt: skip
    made: dict[tuple[str, str, str], dict[str, int]] = {}
    for key, it in stages.items():
        for how, count in it.made_by.items():
            made.setdefault(how, {})[key] = count
    by = [
        [
            ", ".join(of_stage),
            ", ".join(f"{count:,}" for count in of_stage.values()),
            device or "-",
            host or "-",
            versions or "-",
        ]
        for (versions, device, host), of_stage in made.items()
    ]  # fmt: skip
    options = [[key, name, value] for key, it in stages.items() for name, value in _flat(it.stage.options)]
    dataset = look.cache.dataset
    about = [["clips", name, value] for name, value in _flat(look.cache.manifest["clips"])]
    about += [["dataset", name, value] for name, value in _flat(dataset or {})]
    return Section([
        ReportTable(caption="Stages", rows=rows,
                    header=["stage", "network", "weights", "sha256", "fingerprint", "arrays"]),
        ReportTable(caption="Made by", header=["stages", "shards", "device", "host", "versions"], rows=by,
                    sortable=True, closed=len(by) > MOST_LINES),
        ReportTable(caption="All options", header=["stage", "option", "value"], rows=about + options,
                    closed=True, filterable=True),
    ])  # fmt: skip


def coverage(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    numbers = look.numbers
    parts: list[SectionPart] = [
        figure(ALL, look.coverage),
        figure("All clips; a clip with several labels counts in each class.", look.classes),
        figure("All clips with known times.", look.durations),
        figure("All clips.", look.frame_sizes),
    ]
    counts, names = numbers.class_counts, numbers.class_names
    rows = [
        [names[at] if at < len(names) else str(at), *(f"{counts[split, at]:,}" for split in range(len(numbers.splits)))]
        for at in range(counts.shape[1])
    ]
    if rows:
        header = ["class", *numbers.splits]
        numeric = frozenset(range(1, len(header)))
        parts.append(
            ReportTable(
                caption="Clips by class and split",
                header=header,
                rows=rows,
                numeric=numeric,
                sortable=True,
                filterable=len(rows) > 20,
                closed=True,
            )
        )
    return Section(parts)


def failures(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    failed = look.numbers.failures
    if not failed:
        return Absent("No clip has failed.")
    counts = Counter((clip.reason, key) for clip in failed for key in clip.stages)
    by_reason = [
        [reason, key, f"{count:,}"] for (reason, key), count in sorted(counts.items(), key=lambda entry: -entry[1])
    ]
    rows = [
        [clip.video, clip.clip, clip.reason, ", ".join(clip.stages), clip.words[:MOST_WORDS]]
        for clip in islice(failed, MOST_FAILURES)
    ]
    more = len(failed) - len(rows)
    note = (
        f"{counted(more, 'further failure is', 'further failures are')} left out. --failures FILE.csv writes all."
        if more
        else ""
    )
    retry = "`kinegraph extract CONFIG --retry-failed` runs failed clips again, once the videos are mended."
    return Section([
        ReportTable(caption="By reason", header=["reason", "stage", "clips"], rows=by_reason,
                    numeric=frozenset({2}), sortable=True),
        ReportTable(caption="Failed clips", header=["video", "clip", "reason", "stages", "message"], rows=rows,
                    sortable=True, filterable=True, note=note),
        Paragraph(retry),
    ])  # fmt: skip


def disk_and_time(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    return Section([
        figure("Bytes on disk, all sealed objects.", look.disk),
        figure("All work units of the ledger. `threads:` and `device:` ran beside the other kinds.", look.time),
        figure("All shards of the stage that was sealed last.", look.sealed),
    ])  # fmt: skip


def features(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    arrays = look.samples.vector_arrays()
    if not arrays:
        return Absent("The cache has no features of regions or frames yet.")
    parts: list[SectionPart] = []
    rows = []
    for array in arrays:
        try:
            summary = look.vectors(array)
        except NothingToShowError as error:
            parts.append(Paragraph(str(error)))
            continue
        sample = f"Sample of {len(summary.rows):,} of {counted(summary.num_usable, 'usable clip')}, evenly drawn."
        rows.append([
            array, f"{len(summary.rows):,}", number(float(np.median(summary.norms))), f"{summary.zero_share:.1%}",
            f"{len(summary.dead):,} of {len(summary.std):,}", f"{summary.num_not_finite:,}",
            ", ".join(
                f"{split} {number(float(norm))}"
                for split, norm in zip(look.numbers.splits, summary.split_norms, strict=True)
                if np.isfinite(norm)
            ),
        ])  # fmt: skip
        parts += [
            figure(sample, partial(look.norms, array)),
            figure(sample, partial(look.spread, array)),
        ]
        if len(summary.norm_by_step) > 1:
            parts.append(figure(sample, partial(look.norm_by_step, array)))
        if len(summary.dead):
            dead = few_of([str(channel) for channel in summary.dead], MOST_DEAD)
            parts.append(Paragraph(f"{array}: these channels have one value in the whole sample: {dead}."))
    header = ["array", "clips read", "median norm", "zeros", "dead channels", "not finite", "mean norm by split"]
    table = ReportTable(caption="Features", header=header, rows=rows, numeric=frozenset({1, 2, 3, 4, 5}), sortable=True)
    return Section([table, *parts])


def proposals(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    try:
        boxes = look.boxes
    except NothingToShowError as error:
        return Absent(str(error))
    sample = f"Sample of {counted(len(boxes.rows), 'clip')}, evenly drawn."
    drawings = (
        look.boxes_a_frame,
        look.scores_by_rank,
        look.box_sizes,
        look.box_centres,
        look.box_cover,
        look.box_overlaps,
    )
    return Section([figure(sample, draw) for draw in drawings])


def clips(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    rows = rows_to_show(look)
    if not rows:
        return Absent("No clip is usable yet.")
    strips: list[SectionPart] = []
    missing: list[str] = []
    for row in rows:
        try:
            strips.append(
                ReportFigure(
                    look.strip(row, STRIP_BOXES, STRIP_FRAMES),
                    f"Clip {look.numbers.clip_ids[row].as_py()}, row {row:,}.",
                )
            )
        except FramesMissingError as error:
            missing.append(str(error))
    if not strips:
        return Absent(f"No frame of {counted(len(rows), 'clip')} can be shown. {missing[0]}")
    text = f"Frames of {len(strips)} of {counted(len(rows), 'clip')}: up to two of each of up to 8 classes."
    if missing:
        text += f" Not shown: {' '.join(missing[:3])}"
    return Section([Paragraph(text), *strips])


def rows_to_show(look: Look) -> list[int]:
    """Returns the row numbers of the clips whose frames the report shows: up to two clips of each of up to 8 classes,
    and one clip that was decoded with a warning, if there is one.
    """
    numbers = look.numbers
    usable = np.flatnonzero(numbers.usable)
    if not len(usable):
        return []
    labels = numbers.first_label[usable]
    present = np.unique(labels)
    chosen = present[np.linspace(0, len(present) - 1, min(MOST_CLASSES, len(present))).round().astype(int)]
    rows: list[int] = []
    for label in np.unique(chosen):
        of_class = usable[labels == label]
        rows += {int(of_class[0]), int(of_class[-1])} if len(of_class) > 1 else {int(of_class[0])}
    warned = [row for row in np.flatnonzero(_warned(look)) if row not in rows]
    return sorted(rows) + [int(row) for row in warned[:1]]


def _warned(look: Look) -> np.ndarray:
    masks = [stage.state == 3 for stage in look.numbers.stages.values()]
    return np.logical_or.reduce(masks) if masks else np.zeros(0, bool)


def neighbours(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    if BOXES not in look.samples.specs or not any(name.startswith("regions/") for name in look.samples.specs):
        return Absent(
            "The cache has no features of regions. The sections `proposals` and `regions` of a config make them."
        )
    strips: list[SectionPart] = []
    why = ""
    for row in rows_to_show(look)[::CLIPS_OF_CLASS]:
        if len(strips) == NEIGHBOUR_STRIPS:
            break
        counts = look.samples.read(COUNT, np.array([row]))[0]
        if not counts[:1].max(initial=0):
            continue
        try:
            strip = look.neighbours(row, 0, 0)
        except (FramesMissingError, NothingToShowError) as error:
            why = str(error)
            continue
        strips.append(ReportFigure(strip, f"The box with the best score of row {row:,}, and its nearest regions."))
    if not strips:
        return Absent(why or f"No clip with boxes can be shown. {WITHOUT_VIDEOS}")
    text = "Cosine of the cached region features. Nearest neighbours show what the features call alike."
    return Section([Paragraph(text), *strips])


def scene_graphs(contents: Contents) -> Section | Absent:
    look = contents.look
    if look is None:
        return Absent(contents.why_no_cache)
    if GRAPHS not in look.numbers.stages:
        return Absent("The cache has no scene graphs. A config with the section `graphs` makes them.")
    rows = [row for row in rows_to_show(look) if look.numbers.stages[GRAPHS].usable[row]][::CLIPS_OF_CLASS]
    parts = [
        figure(f"Clip {look.numbers.clip_ids[row].as_py()}, row {row:,}.", partial(look.scene_graph, row))
        for row in rows[:SCENE_STRIPS]
    ]
    return Section(parts) if parts else Absent("No clip with scene graphs is usable yet.")


def _network(options: Options) -> str:
    return str(options.get("model") or options.get("network") or options.get("source") or options.get("kind") or "-")


def _flat(options: Options, prefix: str = "") -> list[tuple[str, str]]:
    """Returns (name, value) of each option, both as text. The names of nested options are joined with dots: {"a": {"b":
    1}} -> ("a.b", "1").
    """
    pairs: list[tuple[str, str]] = []
    for name, value in sorted(options.items()):
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", str(value)[:MOST_WORDS]))
    return pairs


def cache_facts(look: Look) -> Sequence[tuple[str, str]]:
    """Returns the table at the top of the report as rows (name, value), for example ("clips", "3,900")."""
    numbers = look.numbers
    done = sum(stage.num_shards for stage in numbers.stages.values())
    wanted = look.cache.num_shards * len(numbers.stages)
    failed = max((stage.counts["failed"] for stage in numbers.stages.values()), default=0)
    last = max((at for stage in numbers.stages.values() for at, _, _ in stage.seals), default="")
    return [
        ("clips", f"{numbers.num_rows:,}"),
        ("videos", f"{numbers.num_videos:,}"),
        ("classes", f"{len(numbers.class_names):,}"),
        ("stages", f"{len(numbers.stages)}"),
        ("shards sealed", f"{done:,} of {wanted:,}"),
        ("failed clips", f"{failed:,}"),
        ("on disk", size(numbers.num_bytes)),
        ("last sealed", last[:16].replace("T", " ") or "-"),
    ]

"""Makes the sections of a report that describe trained runs. Each function returns a Section, or an Absent with the
reason why there is nothing to show.

Torch-free.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.cache_sections import STRIP_BOXES, figure
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.frames import FramesMissingError
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, ReportTable, Section, SectionPart
from kinegraph.pipeline.training.breakdown import Attributes
from kinegraph.pipeline.training.results import ResultsError

MOST_MISTAKES, MISTAKE_FRAMES, MOST_OPEN = 12, 4, 20

NO_RUNS = "The report was made without runs. Name a folder of trained runs beside the cache."
SEEDS = "A circle is a seed, a tick the mean, a line ± the sample standard deviation."
BY_EPOCH = "results.json of all runs: the mean of the seeds, and a band from the smallest to the largest value."


def heads(contents: Contents) -> Section | Absent:
    runs = contents.runs
    if runs is None:
        return Absent(NO_RUNS)
    header, rows = runs.table()
    numeric = frozenset(range(1, len(header) - 2))
    by_key = [figure("results.json of all runs: the mean of the seeds, and a band of all of them.", runs.by_key)]
    return Section([
        figure(f"results.json of all runs. {SEEDS}", runs.heads),
        *(part for part in by_key if isinstance(part, ReportFigure)),
        ReportTable(caption="Heads", header=header, rows=rows, numeric=numeric, sortable=True,
                    note="Published scores are on the data sets of the papers, so they are no target on other data."),
    ])  # fmt: skip


def learning(contents: Contents) -> Section | Absent:
    runs = contents.runs
    if runs is None:
        return Absent(NO_RUNS)
    metric = runs.runs[0][1].metric
    metrics = (
        ([metric] if metric else [])
        + (["loss"] if metric and metric != "loss" else [])
        + ["train loss", "learning rate"]
    )
    parts: list[SectionPart] = [figure(BY_EPOCH, partial(runs.curves, name)) for name in metrics]
    return Section(parts)


def classes(contents: Contents) -> Section | Absent:
    return _of_predictions(contents, partial(_classes, contents.attributes))


def confusion(contents: Contents) -> Section | Absent:
    return _of_predictions(contents, _confusion)


def calibration(contents: Contents) -> Section | Absent:
    return _of_predictions(contents, lambda runs: Section([figure(_source(runs), runs.calibration)]))


def mistakes(contents: Contents) -> Section | Absent:
    return _of_predictions(contents, partial(_mistakes, contents.look))


def _of_predictions(contents: Contents, make: Callable[[Runs], Section]) -> Section | Absent:
    """Returns `make(runs)`, a section about the predictions of the runs. Returns an Absent with the reason if there are
    no runs or no predictions.
    """
    if contents.runs is None:
        return Absent(NO_RUNS)
    try:
        contents.runs.best()
        return make(contents.runs)
    except (ResultsError, NothingToShowError) as error:
        return Absent(str(error))


def _source(runs: Runs) -> str:
    name, best = runs.best()
    left_out = (
        f", without {counted(best.num_left_out, 'video')} of failed clips or no label" if best.num_left_out else ""
    )
    return f"Kept predictions of the first seed of {name}{left_out}."


def _classes(attributes: Attributes | None, runs: Runs) -> Section:
    name, best = runs.best()
    control = runs.control()
    columns = {name: best.per_class()} | ({control[0]: control[1].per_class()} if control else {})
    counts = best.truth.sum(0)
    rows = [
        [best.class_names[at], f"{counts[at]:,}", *(f"{values[at]:.3f}" for values in columns.values())]
        for at in range(len(counts))
    ]
    numeric = frozenset(range(1, 2 + len(columns)))
    table = ReportTable(
        caption="Scores by class", header=["class", "videos", *columns], rows=rows, numeric=numeric, sortable=True,
        filterable=len(rows) > MOST_OPEN, closed=True,
    )  # fmt: skip
    by_attribute = [] if attributes is None else [figure(_source(runs), partial(runs.attributes, attributes))]
    return Section([figure(_source(runs), runs.classes), table, *by_attribute])


def _confusion(runs: Runs) -> Section:
    _, best = runs.best()
    rows = [[best.class_names[true], best.class_names[guess], f"{count:,}"] for true, guess, count in best.confused(15)]
    caption = "Most frequent false positives" if best.is_multi_label else "Most frequent confusions"
    header = ["true class", "predicted class", "videos"]
    table = ReportTable(caption=caption, header=header, rows=rows, numeric=frozenset({2}), sortable=True)
    return Section([figure(_source(runs), runs.confusion), table])


def _mistakes(look: Look | None, runs: Runs) -> Section:
    name, best = runs.best()
    wrong = best.mistakes(MOST_MISTAKES)
    if not wrong:
        raise NothingToShowError(f"{name} has no wrong prediction.")
    names = best.class_names
    rows = [
        [it.video_id, ", ".join(names[at] for at in it.true), names[it.predicted], f"{it.confidence:.3f}"]
        for it in wrong
    ]
    header = ["video", "true", "predicted", "confidence"]
    parts: list[SectionPart] = [
        ReportTable(caption="Most confident mistakes", header=header, rows=rows, numeric=frozenset({3}), sortable=True)
    ]
    rows_of = look.numbers.first_rows([it.video_id for it in wrong]) if look else {}
    missing = "" if look else "Frames need the cache: name it beside the runs."
    for it in wrong:
        if look is None or it.video_id not in rows_of:
            continue
        try:
            strip = look.strip(rows_of[it.video_id], STRIP_BOXES, MISTAKE_FRAMES)
        except FramesMissingError as error:
            missing = str(error)
            continue
        text = f"{', '.join(names[at] for at in it.true)}, taken for {names[it.predicted]} ({it.confidence:.2f})"
        parts.append(ReportFigure(replace(strip, name=f"mistake_{rows_of[it.video_id]}", title=text), strip.title))
    return Section([*parts, *([Paragraph(missing)] if missing else [])])

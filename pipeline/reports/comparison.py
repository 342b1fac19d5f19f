"""Compares the cache and the runs of a report with another cache and other runs: `report --against OTHER`.
Torch-free.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.cache_sections import figure
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.predicted import Predicted
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportTable, Section, SectionPart
from kinegraph.pipeline.reports.varied import ABSENT, flat
from kinegraph.pipeline.training.results import ResultsError
from kinegraph.stages.pictures.bars import number

HERE, THERE = "here", "there"
MOST_CHANGED, MOST_LINES, MOST_LETTERS = 200, 20, 200
NO_OTHER = "Nothing to compare with. `kinegraph report ... --against OTHER` compares with another cache or other runs."


def comparison(contents: Contents) -> Section | Absent:
    """Returns the section that compares the cache and the runs of the report ("here") with the cache and the runs of
    `--against` ("there"). Returns an Absent if the user did not give `--against`.
    """
    other = contents.against
    if other is None:
        return Absent(NO_OTHER)
    parts: list[SectionPart] = [Paragraph(f"Here is this report, there is {contents.against_name}.")]
    if contents.look is not None and other.look is not None:
        parts += _caches(contents.look, other.look)
    if contents.runs is not None and other.runs is not None:
        parts += _runs(contents.runs, other.runs)
    elif other.runs is not None or contents.runs is not None:
        lacks = "there" if other.runs is None else "here"
        parts.append(Paragraph(f"No runs are compared, because none are {lacks}."))
    return Section(parts)


def _caches(here: Look, there: Look) -> Iterator[SectionPart]:
    rows = _different(_settings(here), _settings(there))
    if rows:
        yield ReportTable(caption="Different options", header=["option", HERE, THERE], rows=rows, sortable=True,
                          filterable=len(rows) > MOST_LINES, closed=len(rows) > MOST_LINES)  # fmt: skip
    else:
        yield Paragraph("All options of clips, data set and stages are equal.")
    counts = [
        [what, f"{one:,}", f"{other:,}"]
        for (what, one), other in zip(_counts(here).items(), _counts(there).values(), strict=True)
    ]
    yield ReportTable(caption="Clips of both", header=["what", HERE, THERE], rows=counts, numeric=frozenset({1, 2}))
    arrays = [name for name in here.samples.vector_arrays() if name in there.samples.vector_arrays()]
    shifts = []
    for array in arrays:
        try:
            one, other = here.vectors(array), there.vectors(array)
        except NothingToShowError as error:
            yield Paragraph(str(error))
            continue
        moved = f"{one.shift(other):.1%}" if len(one.mean) == len(other.mean) else "other channels"
        shifts.append([array, *(number(float(np.median(it.norms))) for it in (one, other)), moved])
        yield figure("Samples of both, evenly drawn.", partial(here.norms_against, there, array))
    header = ["array", f"median norm {HERE}", f"median norm {THERE}", "channels that moved"]
    note = "A channel moved if its means are more than half a pooled standard deviation apart."
    if shifts:
        yield ReportTable(
            caption="Features of both", header=header, rows=shifts, numeric=frozenset({1, 2, 3}), note=note
        )


def _settings(look: Look) -> dict[str, Any]:
    cache = look.cache
    settings = flat({"clips": cache.manifest["clips"], "dataset": cache.dataset or {}})
    for key, it in look.numbers.stages.items():
        settings |= flat(it.stage.options, f"{key}: ") | {f"{key}: weights": it.stage.weights}
    return settings


def _different(here: dict[str, Any], there: dict[str, Any]) -> list[list[str]]:
    return [
        [key, str(one)[:MOST_LETTERS], str(other)[:MOST_LETTERS]]
        for key in sorted(here.keys() | there.keys())
        for one, other in [(here.get(key, ABSENT), there.get(key, ABSENT))]
        if one != other
    ]


def _counts(look: Look) -> dict[str, int]:
    numbers = look.numbers
    failed = max((stage.counts["failed"] for stage in numbers.stages.values()), default=0)
    return {
        "clips": numbers.num_rows, "videos": numbers.num_videos, "classes": len(numbers.class_names),
        "failed clips": failed, "bytes": numbers.num_bytes,
    }  # fmt: skip


def _runs(here: Runs, there: Runs) -> Iterator[SectionPart]:
    try:
        yield _scores(here, there)
        (name, best), (other_name, other) = here.pair(there)
    except (ResultsError, NothingToShowError) as error:
        yield Paragraph(str(error))
        return
    settings = [flat(runs.groups[of][0][1].row()) for runs, of in ((here, name), (there, other_name))]
    rows = _different(*settings)
    caption = f"Different settings of {name} {HERE} and {other_name} {THERE}"
    if rows:
        yield ReportTable(caption=caption, header=["key", HERE, THERE], rows=rows, closed=len(rows) > MOST_LINES)
    else:
        yield Paragraph(f"All settings of {name} {HERE} and {other_name} {THERE} are equal.")
    yield figure("Kept predictions of the first seeds.", partial(here.classes_against, there))
    yield from _changed(best, other)


def _scores(here: Runs, there: Runs) -> ReportTable:
    tables = [{row[0]: row[2] for row in runs.table()[1]} for runs in (here, there)]
    names = [*dict.fromkeys([*tables[0], *tables[1]])]
    header = ["head", *(f"{where}: {runs.table()[0][2]}" for where, runs in ((HERE, here), (THERE, there)))]
    rows = [[name, *(table.get(name, "-") for table in tables)] for name in names]
    return ReportTable(caption="Scores of both", header=header, rows=rows, numeric=frozenset({1, 2}), sortable=True)


def _changed(here: Predicted, there: Predicted) -> Iterator[SectionPart]:
    """Yields a sentence that counts the videos by where their prediction is right: in both runs, in one of them, or in
    neither. Then yields a table of the videos whose prediction differs.
    """
    if here.class_names != there.class_names:
        yield Paragraph("The classes differ, so predictions are not compared.")
        return
    places = {video: at for at, video in enumerate(there.video_ids)}
    both = [(at, places[video]) for at, video in enumerate(here.video_ids) if video in places]
    right = [(bool(here.is_right[one]), bool(there.is_right[other])) for one, other in both]
    text = ", ".join(
        f"{right.count(pair):,} {words}"
        for words, pair in {
            "right in both": (True, True), "wrong in both": (False, False), f"right {HERE} alone": (True, False),
            f"right {THERE} alone": (False, True),
        }.items()
    )  # fmt: skip
    yield Paragraph(f"{counted(len(both), 'video')} with predictions in both: {text}.")
    rows = [
        [here.video_ids[one], here.names_of(one), *(
            f"{it.class_names[it.predicted[at]]} ({it.probabilities[at].max():.2f})"
            for it, at in ((here, one), (there, other))
        )]
        for one, other in both
        if here.predicted[one] != there.predicted[other]
    ]  # fmt: skip
    if not rows:
        return
    left_out = len(rows) - MOST_CHANGED
    note = f"{counted(left_out, 'further video')} left out." if left_out > 0 else ""
    header = ["video", "true", f"predicted {HERE}", f"predicted {THERE}"]
    yield ReportTable(caption="Predictions that changed", header=header, rows=rows[:MOST_CHANGED], sortable=True,
                      filterable=len(rows) > MOST_LINES, closed=len(rows) > MOST_LINES, note=note)  # fmt: skip

"""Makes the sections of a report about trained runs. Each function returns a Section, or Absent with a reason.

Torch-free.
"""

from functools import partial

from kinegraph.pipeline.reports.cache_sections import figure
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.section import Absent, ReportTable, Section, SectionPart

NO_RUNS = "The report was made without runs. Name a folder of trained runs beside the cache."
SEEDS = "A circle is a seed, a tick the mean, a line ± the sample standard deviation."
BY_EPOCH = "results.json of all runs: the mean of the seeds, and a band from the smallest to the largest value."


def heads(contents: Contents) -> Section | Absent:
    runs = contents.runs
    if runs is None:
        return Absent(NO_RUNS)
    header, rows = runs.table()
    numeric = frozenset(range(1, len(header) - 2))
    return Section([
        figure(f"results.json of all runs. {SEEDS}", runs.heads),
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

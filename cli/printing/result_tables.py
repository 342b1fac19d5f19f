"""Makes tables of results for other programs: csv, Markdown, LaTeX and PNG."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.words import on_one_line
from kinegraph.stages.pictures.packages import require_look

if TYPE_CHECKING:
    from kinegraph.pipeline.training.results import RunResults

TABLE_FORMS = ("csv", "md", "latex", "png")
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """Returns the mean of `values` as text. With several values, adds the sample standard deviation: "0.781 ±
    0.012".
    """
    deviation = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{deviation}"


def splits_of(runs: Sequence["RunResults"]) -> list[str]:
    return [*dict.fromkeys(split for run in runs for split in run.scores)]


def on_equal_clips(runs: Sequence["RunResults"], split: str) -> "list[list[RunResults]]":
    """Returns the runs that have scores on `split`, in groups. All runs of a group were scored on the same clips and
    labels, so their scores may be averaged.

    Runs of earlier versions of kinegraph did not record their clips. They join the other runs if these are one group,
    else they are a group of their own.
    """
    groups: dict[str, list[RunResults]] = {}
    scored = [run for run in runs if split in run.scores]
    for run in scored:
        groups.setdefault(run.counts[split].digest if split in run.counts else "", []).append(run)
    return [*groups.values()] if len(groups.keys() - {""}) > 1 else [scored]


def folder_of(runs: "Sequence[tuple[Path, RunResults]]") -> Path:
    """Returns the folder of the run if `runs` has only one run. Otherwise returns the folder that holds the folders of
    the runs. `runs` has (folder, results) of each run.
    """
    return runs[0][0] if len(runs) == 1 else runs[0][0].parent


def table_file(rows: "Sequence[Sequence[tuple[Path, RunResults]]]", form: str) -> bytes:
    """Returns the content of a file with the table of results. `form` is "csv", "md", "latex" or "png".

    Each item of `rows` is one row: the (folder, results) of the runs of one head and recipe, one run per seed. The
    table has one column for each split and metric. A csv has three columns for each: mean, sample standard deviation
    and number of seeds. A cell is empty if the runs of its row were scored on different clips, because such scores may
    not be averaged.

    Raises UsageError for a png without matplotlib.
    """
    scores = dict.fromkeys(
        (split, name)
        for row in rows
        for _, run in row
        for split in run.scores
        for name in run.scores[split]
        if form == "csv" or name != "loss"
    )
    values = [[_values([run for _, run in row], *score) for score in scores] for row in rows]
    if form == "csv":
        header = [
            "head",
            "seeds",
            *(f"{split}_{name}{end}" for split, name in scores for end in ("", "_std", "_seeds")),
        ]
        lines = [
            [row[0][1].name, len(row), *(cell for seed_scores in row_values for cell in _numbers(seed_scores)),
             row[0][1].num_parameters, mean(run.seconds for _, run in row), folder_of(row)]
            for row, row_values in zip(rows, values, strict=True)
        ]  # fmt: skip
        return csv_text([[*header, "parameters", "seconds", "run"], *lines]).encode()
    header = ["head", "seeds", *(f"{split} {name}" for split, name in scores), "parameters"]
    cells = [
        [row[0][1].name, str(len(row)), *(_cell(seed_scores, len(row)) for seed_scores in row_values),
         f"{row[0][1].num_parameters:,}"]
        for row, row_values in zip(rows, values, strict=True)
    ]  # fmt: skip
    if form == "png":
        require_look()
        from kinegraph.stages.pictures.tables import table_png  # imports matplotlib, an optional package

        return table_png(header, cells)
    return (_markdown(header, cells) if form == "md" else _latex(header, cells)).encode()


def _values(runs: "Sequence[RunResults]", split: str, name: str) -> list[float]:
    """Returns the values of the metric `name` on `split`, one for each run that has it.

    Returns an empty list if the runs were scored on different clips, so that no mean may be taken.
    """
    if len(on_equal_clips(runs, split)) > 1:
        return []
    return [run.scores[split][name] for run in runs if name in run.scores.get(split, {})]


def _numbers(values: Sequence[float]) -> list[object]:
    return [mean(values) if values else "", stdev(values) if len(values) > 1 else "", len(values)]


def _cell(values: Sequence[float], num_runs: int) -> str:
    missing = f" ({len(values)} of {num_runs})" if len(values) < num_runs else ""
    return f"{spread(values)}{missing}" if values else ""


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[on_one_line(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines.insert(1, ["---", *("---:" for _ in header[1:])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns the text of a LaTeX table. Its horizontal lines need the LaTeX package booktabs."""
    first, *others = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (header, *rows)]
    start, end = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\end{tabular}"
    return "\n".join([start, r"\toprule", first, r"\midrule", *others, r"\bottomrule", end, ""])


def _latex_cell(cell: str) -> str:
    return "".join(LATEX.get(c, c) for c in on_one_line(cell)).replace(" ± ", r" $\pm$ ")

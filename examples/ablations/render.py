"""Writes docs/ablations.md from the figures of `python -m examples.ablations`."""

import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.ablations.record import MeasuredRow
from examples.ablations.rows import ABLATIONS, ACCURACY, Ablation, Claim, Figure
from kinegraph.cache_schemas.words import counted

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"
WIDTH = 100
PACKAGES = ("python", "kinegraph", "torch", "numpy")
ABOUT = (
    "This page compares variants of the five papers' networks on generated videos. `python -m examples.ablations` "
    "trains all rows, prints this page and writes it. Every figure is as it came out. The command needs no network and "
    "no GPU. It goes on where it was stopped.",
    "The experiments are small. Heads are narrow and stand behind frozen features. Few videos are seen for few epochs, "
    "and the last epoch is kept. Learning rates and epochs were chosen by speed and by a few runs of the first seed, "
    "some of them by their test accuracy. So a claim that does not show up here may hold in the paper's experiment, "
    "and a claim that shows up here is no proof of it. [papers.md](papers.md) lists the configs of the papers' own "
    "rows.",
)
HOW = (
    "Each row is trained with {seeds}. ± is the sample standard deviation over seeds. The seconds are those of one "
    "training run on one thread; the machine did other work beside it. Training has 1,200 videos of ten classes, so "
    "guessing scores 0.10. There are 500 unseen test videos (250 in the transfer). Their number alone makes a standard "
    "error of about 0.02 in each accuracy. [all_heads.md](all_heads.md) describes the videos.",
    "A claim is a list of pairs of figures of which the first is to be larger. It **shows up** if this holds for each "
    "pair with every seed. **The opposite shows up** if the second is larger for each pair with every seed. Otherwise "
    "it **does not show up here**. Without any effect, three seeds agree by chance once in eight pairs. Behind the "
    "claim stand the mean differences, with the least and the largest over seeds.",
)


def page(document: Mapping[str, Any]) -> str:
    """Returns the text of docs/ablations.md. `document` has the figures that `python -m examples.ablations`
    recorded.
    """
    machine, versions = document["machine"], document["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if name in PACKAGES)
    seconds = sum(row["seconds"] * len(row["values"][ACCURACY]) for rows in document["rows"].values() for row in rows)
    runs = sum(len(row["values"][ACCURACY]) for rows in document["rows"].values() for row in rows)
    made = (
        f"Made on {document['date'][:10]} on {machine['cpu']}, {machine['cores']} cores, of which each run used one. "
        f"{packages}. {counted(runs, 'run')} trained for {seconds / 60:,.0f} minutes in all, while the machine did "
        "other work."
    )
    how = [text.format(seeds=counted(document["seeds"], "seed")) for text in HOW]
    parts = ["# Ablations", *map(_wrapped, (*ABOUT, made)), "## How to read it", *map(_wrapped, how)]
    for ablation in ABLATIONS:
        if ablation.paper in document["rows"]:
            parts += section(ablation, [MeasuredRow(**row) for row in document["rows"][ablation.paper]])
    return "\n\n".join(parts) + "\n"


def section(ablation: Ablation, rows: Sequence[MeasuredRow]) -> Iterator[str]:
    """Yields the parts of the page about the paper of `ablation`. `rows` are its measured rows."""
    yield f"## {ablation.title}"
    yield "\n".join(_table(ablation, rows))
    if ablation.measures:
        yield "\n".join(_wrapped(f"- **{name}**: {about}.", "  ") for name, about in ablation.measures.items())
    yield "What the paper says, and what the table shows:"
    yield "\n".join(_wrapped(f"- {claim.text} {verdict(claim, rows)}", "  ") for claim in ablation.claims)


def _table(ablation: Ablation, rows: Sequence[MeasuredRow]) -> Iterator[str]:
    yield f"| row | what it is | {ACCURACY} | parameters | seconds |"
    yield "|---|---|---|---|---|"
    for row in rows:
        cells = [_cell(row, ACCURACY), f"{row.num_parameters:,}", f"{row.seconds:.1f}"]
        yield f"| `{row.name}` | {ablation.rows[row.name]} | {' | '.join(cells)} |"
    if measured := [name for name in ablation.measures if any(name in row.values for row in rows)]:
        yield ""
        yield "\n".join([f"| row | {' | '.join(measured)} |", f"|---{'|---' * len(measured)}|"])
        for row in rows:
            if any(name in row.values for name in measured):
                yield f"| `{row.name}` | {' | '.join(_cell(row, name) for name in measured)} |"


def _cell(row: MeasuredRow, measure: str) -> str:
    if measure not in row.values:
        return "-"
    return f"{row.mean(measure):.3f} ± {row.spread(measure):.3f}"


def verdict(claim: Claim, rows: Sequence[MeasuredRow]) -> str:
    """Returns a sentence that says whether `claim` shows up in the figures of `rows`, with the differences of its
    pairs.
    """
    differences = [_differences(pair, {row.name: row for row in rows}) for pair in claim.larger]
    if all(value > 0 for of_pair in differences for value in of_pair):
        word = "**Shows up**"
    elif all(value < 0 for of_pair in differences for value in of_pair):
        word = "**The opposite shows up**"
    else:
        word = "**Does not show up here**"
    told = [
        f"{_named(first)} - {_named(second)}: {_difference(of_pair)}"
        for (first, second), of_pair in zip(claim.larger, differences, strict=True)
    ]
    return f"{word}. {'; '.join(told)}."


def _difference(of_pair: Sequence[float]) -> str:
    return f"{statistics.fmean(of_pair):+.3f} ({min(of_pair):+.3f} to {max(of_pair):+.3f})"


def _differences(pair: tuple[Figure, Figure], rows: Mapping[str, MeasuredRow]) -> list[float]:
    """Returns the difference between the two figures of `pair`, for each seed. `rows` is {name: row}."""
    first, second = (rows[name].values[measure] for name, measure in pair)
    return [a - b for a, b in zip(first, second, strict=False)]


def _named(figure: Figure) -> str:
    row, measure = figure
    return f"`{row}`" if measure == ACCURACY else f"`{row}` {measure}"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

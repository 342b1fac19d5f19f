"""Writes the measured tables of docs/benchmarks.md from benchmarks/measured/*.json: `python -m benchmarks.render`.

Only the text between two marks changes. `make bench` measures, and then runs this script. A test fails if the page
differs from the files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.machine.alternation import Spread, ratios

RESULTS = Path(__file__).parent / "measured"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- `python -m benchmarks.render` writes from here -->", "<!-- to here -->"
NONE_YET = "No figures are recorded yet. `make bench` measures them and writes them here."
ABOUT = (
    "Seconds and ratios are medians, with the least and the most of all rounds in brackets. A ratio is the time of a "
    "way, divided by the time of the first way in the same round. Above 1 the first way is faster."
)


def page(text: str, documents: list[dict[str, Any]]) -> str:
    """Returns the page `text` with the tables of `documents` between its two marks. Raises ValueError if a mark is
    missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: the marks {BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n\n{measured(documents)}\n\n{END}{after}"


def measured(documents: list[dict[str, Any]]) -> str:
    if not documents:
        return NONE_YET
    return "\n\n".join([ABOUT, *(part for document in documents for part in of_document(document))])


def of_document(document: dict[str, Any]) -> Iterator[str]:
    """Yields the heading, the machine and the tables of `document`, the content of one file of measurements, as lines
    of Markdown.
    """
    machine, versions = document["machine"], document["versions"]
    load = "unknown" if document["load"] is None else f"{document['load']}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "ffmpeg")
    yield f"### Measured: {document['benchmark']} on {machine['device']}"
    yield (
        f"`python -m benchmarks.{document['benchmark']}` on {document['date'][:10]}: {machine['cpu']}, "
        f"{machine['cores']} cores ({', '.join(machine['instructions'])}), load {load} before. {packages}."
    )
    if document["quick"]:
        yield "This was a quick run of a few clips, whose figures say little."
    for case in document["cases"]:
        yield "\n".join(table(case))
        if case["left_out"]:
            yield "\n".join(f"Left out: {way}: {reason}." for way, reason in case["left_out"].items())


def table(case: dict[str, Any]) -> Iterator[str]:
    first = next(iter(case["seconds"]))
    rounds = len(case["seconds"][first])
    yield f"**{case['name']}**: {case['about']}, {counted(rounds, 'round')}"
    yield ""
    yield f"| way | {case['unit']}/s | seconds | ratio |"
    yield "|---|---|---|---|"
    for way, seconds in case["seconds"].items():
        took, ratio = Spread.of(seconds), ratios(case["seconds"], way, first)
        yield f"| {way} | {_figure(case['amount'] / took.median)} | {_spread(took)} | {_spread(ratio)} |"


def _spread(spread: Spread) -> str:
    return f"{_figure(spread.median)} ({_figure(spread.lowest)} to {_figure(spread.highest)})"


def _figure(value: float) -> str:
    """Returns `value` as text with three digits. A number from 1,000 on has all digits of its whole part."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def documents() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), documents()), encoding="utf-8")


if __name__ == "__main__":
    main()

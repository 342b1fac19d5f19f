"""Defines what the scripts print and write: cases, each with the seconds of several ways to do the same work.

The other ways of a case are compared with its first way. A ratio above 1 says that the first way is faster. `python -m
benchmarks.NAME --json FILE` writes the document that benchmarks/render.py renders.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.files import write_whole
from kinegraph.pipeline.machine import hardware
from kinegraph.pipeline.machine.alternation import Spread, ratios

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it; this module is imported before torch


@dataclass(frozen=True, kw_only=True)
class Case:
    """The measurements of one case: several ways to do the same work.

    `amount`, `unit`: the work of one run, such as 64 clips.
    `seconds`: {way: seconds of each round}.
    `left_out`: {way: reason} of the ways that were not measured.
    `about`: says what the work is.
    """

    name: str
    unit: str
    amount: float
    seconds: Mapping[str, Sequence[float]]
    about: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    def lines(self, pairs: Sequence[tuple[str, str]] = ()) -> list[str]:
        """Returns one line of text for each of the `pairs` of ways. By default, the first way is paired with each other
        way.
        """
        first, *others = self.seconds
        lines = []
        for way, other in pairs or [(first, other) for other in others]:
            ratio = ratios(self.seconds, other, way)
            rates = " / ".join(f"{self.amount / Spread.of(self.seconds[name]).median:.4g}" for name in (way, other))
            spread = f"{ratio.median:.2f} ({ratio.lowest:.2f} to {ratio.highest:.2f})"
            lines.append(f"{self.name}, {way} / {other}: {rates} {self.unit}/s, ratio {spread}")
        return lines + [f"{self.name}, left out: {way}: {reason}" for way, reason in self.left_out.items()]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the options that every script has. The first line of `description` is the description in the
    help.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to this file")
    return parser


def report(
    name: str,
    measured: Callable[[], Iterable[Case]],
    file: Path | None,
    *,
    device: str = "cpu",
    quick: bool = False,
    pairs: Sequence[tuple[str, str]] = (),
) -> None:
    """Calls `measured`, prints the lines of each Case when it is measured, and writes all cases to `file`, if it is
    given.

    `name` is the name of the script, `device` the device on which it runs. `quick` is written to the file. `pairs` are
    the pairs of ways to print.
    """
    run = hardware.described_run(device)
    print(f"{name}: load {run['load']} on {run['machine']['cores']} cores before the measurement")
    cases = []
    for case in measured():
        cases.append(asdict(case))
        print("\n".join(case.lines(pairs)), flush=True)
    if file is not None:
        document: dict[str, Any] = {"schema": 1, "benchmark": name, "quick": quick} | run
        document |= {"load_after": hardware.load(), "cases": cases}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, [json.dumps(document, indent=1).encode() + b"\n"])

"""Trains the ablations of the five papers on generated data, prints docs/ablations.md and writes it.

Run `python -m examples.ablations` at the root of the repository. If the command was stopped, the same command goes on.
"""

import argparse
import json

from examples.ablations.record import document, measured_rows, prepared
from examples.ablations.render import PAGE, page
from examples.ablations.rows import ABLATIONS, HERE
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.stopping import say_after_stop
from kinegraph.cli.exits import end_process, exit_code, stop_on_signals
from kinegraph.cli.printing.text import note_at_work
from kinegraph.pipeline.machine import hardware

SEEDS = 3
FIGURES = HERE / "measured.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"seeds of each row ({SEEDS})")
    parser.add_argument(
        "--paper", choices=[each.paper for each in ABLATIONS], help="only this one; the page is not written"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a config value; the page is not written",
    )
    given = parser.parse_args()
    chosen = [each for each in ABLATIONS if given.paper in (None, each.paper)]
    described = hardware.described_run("cpu")
    of_file = {path: prepared(path, given.set, note_at_work) for path in {each.config for each in chosen}}
    configs = {each.paper: of_file[each.config] for each in chosen}
    rows = {}
    for seeds in range(1, given.seeds + 1):  # a stopped command has whole seeds first
        for each in chosen:
            rows[each.paper] = document(measured_rows(configs[each.paper], each, seeds, note_at_work))
    recorded = described | {"seeds": given.seeds, "rows": rows}
    print(page(recorded), end="")
    if not given.paper and not given.set and given.seeds == SEEDS:
        write_whole(FIGURES, [json.dumps(recorded, indent=1).encode() + b"\n"])
        PAGE.write_text(page(recorded), encoding="utf-8")


if __name__ == "__main__":
    stop_on_signals()
    say_after_stop("Finished runs are kept. The same command goes on from there.")
    end_process(exit_code(main))

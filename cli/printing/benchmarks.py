"""Prints the output of the command `bench`."""

from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing.text import note, say, say_table
from kinegraph.pipeline.machine.alternation import Spread, ratios

if TYPE_CHECKING:
    from kinegraph.pipeline.extraction.benchmark.comparison import SpeedComparison

HEADER = ("way", "seconds", "least", "most", "clips/s", "ratio", "least", "most")


def compared(comparison: "SpeedComparison") -> None:
    """Prints a table of the speeds that `bench` measured. Each row is one way of working, such as the whole extraction
    or a plain loop. The column `ratio` is the time of the row, divided by the time of the whole extraction in the same
    round.
    """
    whole = next(iter(comparison.seconds))
    rounds = counted(len(comparison.seconds[whole]), "round")
    say(
        f"{counted(comparison.clips, 'clip')} ({counted(comparison.frames, 'frame')}) of "
        f"{counted(comparison.videos, 'video')}, {rounds}, {counted(comparison.threads, 'thread')}, batches of "
        f"{comparison.batch_size}"
    )
    say(described_machine(comparison.run))
    rows = []
    for name, seconds in comparison.seconds.items():
        took, ratio = Spread.of(seconds), ratios(comparison.seconds, name, whole)
        rows.append([name, *_figures(took), f"{comparison.clips / took.median:.3g}", *_figures(ratio)])
    say_table(HEADER, rows)
    say("seconds and ratio: median, least and most of all rounds")
    say("ratio: seconds, divided by the seconds of the whole extraction in that round")
    for name, reason in comparison.left_out.items():
        note(f"left out: {name}: {reason}")
    if comparison.failed:
        note(f"left out: {counted(comparison.failed, 'clip')} that failed. `kinegraph extract` says why")
    if (busy := busy_words(comparison.run)) is not None:
        note(busy)


def _figures(spread: Spread) -> list[str]:
    values = (spread.median, spread.lowest, spread.highest)
    return [f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in values]


def described_machine(run: dict[str, Any]) -> str:
    """Returns a line with the processor, the device and the versions of a measurement. `run` has them under "machine"
    and "versions".
    """
    machine, versions = run["machine"], run["versions"]
    instructions = ", ".join(machine["instructions"]) or "no vector instructions known"
    return (
        f"{machine['cpu']}, {counted(machine['cores'], 'core')} ({instructions}), device {machine['device']}, "
        f"kinegraph {versions['kinegraph']}, torch {versions['torch']}, Python {versions['python']}"
    )


def busy_words(run: dict[str, Any]) -> str | None:
    """Returns a warning if other programs used the machine when the measurement began, else None. `run` has the load of
    the machine under "load".
    """
    load, cores = run["load"], run["machine"]["cores"]
    if load is None or load < cores / 2:
        return None
    return (
        f"warning: the load was {load:.1f} on {counted(cores, 'core')} before the measurement. Other programs slow "
        "it down. Ratios suffer less than seconds"
    )

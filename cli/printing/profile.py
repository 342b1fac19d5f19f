"""Prints where the time of an extraction went: `extract --profile`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing.text import say, say_table
from kinegraph.stages.clock import (
    ASSEMBLE,
    CONVERT,
    COPY,
    DECODE,
    DECODE_WAIT,
    FETCH,
    FETCH_WAIT,
    FIRST_BATCH,
    REST,
    WRITE,
    WRITER_WAIT,
)
from kinegraph.stages.remote.staging import COPIERS

if TYPE_CHECKING:
    from kinegraph.pipeline.extraction.profile import Profile

ABOUT = {
    FIRST_BATCH: "nothing to compute yet",
    DECODE_WAIT: "frames come too late",
    COPY: "results to the host",
    WRITER_WAIT: "the shard before is still written",
    REST: "everything else in this thread",
    "features": "forward of the backbone",
    "proposals": "boxes (RPN, grid or files)",
    "regions": "RoIAlign",
    "tracks": "linking of boxes",
    "graphs": "reading of scene graphs",
}


def profile(measured: "Profile | None") -> None:
    """Prints where the time of an extraction went. One table is for the threads that compute, one for the other
    threads, and one for a GPU. The shares of the first table add up to 100 %.

    If `measured` is None, prints that the command finished no shard.
    """
    if measured is None:
        say("no profile: this command sealed no shard")
        return
    workers = counted(measured.workers, "worker")
    say(
        f"where the time went: {counted(measured.num_clips, 'clip')} in {counted(measured.num_shards, 'shard')}, "
        f"{workers} on {', '.join(measured.devices)}, {measured.wall:.1f} s of this command"
    )
    _computing(measured)
    _beside(measured)
    if measured.on_device:
        rows = [[kind, f"{seconds:.1f}"] for kind, seconds in _longest(measured.on_device)]
        say()
        say_table(["on the GPU, by events", "seconds"], rows)
        say("In the first table, a stage has the time in which its work was started on the GPU.")
    elif any(device.startswith("cuda") for device in measured.devices):
        say("The time on the GPU is not known: a stage has the time in which its work was started there.")
    if not measured.is_one_process:
        say("Not known: queues, idle workers, shards that were begun and not sealed, the last write of a worker.")


def _longest(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def _computing(measured: "Profile") -> None:
    rest = {REST: measured.computing[REST]} if REST in measured.computing else {}
    lines = [("start-up", measured.start_up, "imports, plan, loading of networks")]
    for kind, seconds in (
        *_longest({kind: s for kind, s in measured.computing.items() if kind != REST}),
        *rest.items(),
    ):
        lines.append((kind, seconds, ABOUT.get(kind, ABOUT.get(kind.partition("/")[0], ""))))
    if measured.is_one_process:
        lines.append(("outside sealed shards", measured.outside, "last write, work not sealed, end"))
    lines.append(("total", measured.total, "" if measured.workers == 1 else "of all workers"))
    share = 100 / measured.total if measured.total else 0.0
    rows = [[kind, f"{seconds:.1f}", f"{share * seconds:.1f} %", about] for kind, seconds, about in lines]
    say_table(["thread that computes", "seconds", "share", "what it is"], rows, ["what it is"])


def _beside(measured: "Profile") -> None:
    """Prints a table of the threads that work beside the computing thread, such as decoders. Each kind of work has a
    row with its seconds and the mean number of busy threads.
    """
    decoders = counted(measured.decoders, "thread") if measured.decoders else "the thread that computes"
    of = {DECODE: decoders, CONVERT: decoders, FETCH_WAIT: decoders, FETCH: counted(COPIERS, "thread")}
    of |= {ASSEMBLE: "1 thread" if measured.decoders else decoders, WRITE: "1 thread"}
    rows = [
        [kind, f"{seconds:.1f}", f"{measured.busy(kind):.2f} of {of.get(kind, '?')}"]
        for kind, seconds in _longest(measured.beside)
    ]
    if rows:
        say()
        say_table(["threads beside it", "seconds", "busy on average"], rows, ["busy on average"])
        if measured.workers > 1:
            say("busy: of each worker")

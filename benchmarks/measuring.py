"""Measures what the measuring of times costs, and prints its share of an extraction.

    python -m benchmarks.measuring [UNITS]   (100 units)

A unit is one clip of a small video, with the features of a tiny network. So there is much to measure and little to
compute. The script counts how often the clocks of all threads change the kind of work, and times one change alone. The
product is divided by the CPU time of all threads in the extraction, which includes start-up without imports. A
comparison of runs with and without clocks would need hours, because two runs differ by more.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from benchmarks.sharing import document, videos
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.clock import REST, Clock

BLOCKS = 200_000


def counted_changes(run: str) -> tuple[int, float]:
    """Extracts once into the cache folder `run`. Returns (number of changes of all clocks, CPU seconds of the
    extraction).
    """
    counter, original = itertools.count(), Clock._change

    def counting(clock: Clock, kind: str) -> str:
        next(counter)
        return original(clock, kind)

    import kinegraph.pipeline.extraction.executors.local  # noqa: F401  (torch)

    with patch.object(Clock, "_change", counting):
        begun = time.process_time()
        extract(check_config(document(run, Path(run).parent / "videos"), "measuring"))
        return next(counter), time.process_time() - begun


def seconds_of_a_change() -> float:
    """Returns the seconds that a clock needs to change the kind of work once."""
    clock = Clock(REST)
    begun = time.thread_time()
    for _ in range(BLOCKS):
        with clock.during("copy"):
            pass
    return (time.thread_time() - begun) / BLOCKS / 2


def main() -> None:
    units = int(sys.argv[1]) if sys.argv[1:] else 100
    with tempfile.TemporaryDirectory() as folder:
        videos(Path(folder, "videos"), units)
        index(check_config(document(f"{folder}/cache", Path(folder, "videos")), "measuring"))
        changes, seconds = counted_changes(f"{folder}/cache")
    each = seconds_of_a_change()
    print(
        f"{units} units took {seconds:.2f} s of CPU time: {changes} changes of the kind of work, "
        f"{1e6 * each:.2f} us each, {changes * each / seconds:.3%} of it"
    )


if __name__ == "__main__":
    main()

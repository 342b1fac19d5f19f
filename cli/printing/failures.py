"""Prints failed clips. `extract` and `import` print one line per video and reason. `kinegraph status --failed` prints
every failed clip.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.words import counted, on_one_line
from kinegraph.cli.printing.text import say

if TYPE_CHECKING:
    from kinegraph.cache_schemas.ledger import Failure
    from kinegraph.pipeline.caches.failures import FailedClip

COLUMNS = ("video", "clip", "stages", "reason", "words")


def by_video(failures: "Sequence[Failure]", cache: str) -> list[str]:
    """Returns one line for each video and reason, with the message of the first clip: "a.mp4: timeout: no answer (2
    clips)". `cache` is the path or URL of the cache.

    If only one clip of the video failed for the reason, the line begins with the clip id. A clip of an interval counts
    for the video from which the interval was cut.
    """
    from kinegraph.cache_schemas.clips_table import ClipsTable, video_of
    from kinegraph.cache_schemas.storages import open_storage

    whole = ClipsTable.read_video_names(open_storage(cache)) if failures else {}
    failures_of: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        video = video_of(failure.clip_id)
        failures_of.setdefault((whole.get(video, video), failure.reason), []).append(failure)
    return [_line(video, of_video) for (video, _), of_video in failures_of.items()]


def _line(video: str, failures: "Sequence[Failure]") -> str:
    first, count = failures[0], len(failures)
    if count == 1:
        return f"{first.clip_id}: {first.reason}: {first.detail}"
    are_alike = all(failure.detail == first.detail for failure in failures)
    return f"{video}: {first.reason}: {first.detail} ({'' if are_alike else 'the first of '}{counted(count, 'clip')})"


def as_text(failures: "Iterable[FailedClip]") -> None:
    """Prints two lines for each failed clip: first its id, the reason and the stages, then the message. The last line
    is the number of failures.

    Each failure is printed as soon as it is read, because a cache may have a million failures.
    """
    count = 0
    for failed in failures:
        count += 1
        first = f"{failed.clip}: {failed.reason} in {', '.join(failed.stages)}"
        say(on_one_line(first))
        say(f"  {on_one_line(failed.words)}")
    say(
        "no clip has failed"
        if not count
        else f"{counted(count, 'failure')}; `kinegraph extract CONFIG --retry-failed` tries again"
    )


def as_json(failures: "Iterable[FailedClip]") -> None:
    """Prints one JSON document with all `failures`, one failure per line."""
    print('{"schema": 1, "failures": [', end="")
    for index, failed in enumerate(failures):
        print(",\n" if index else "\n", json.dumps(failed.to_json()), sep="", end="")
    print("\n]}")


def as_csv(failures: "Iterable[FailedClip]") -> None:
    """Prints a csv with a header and one row per failure. If stdout is a terminal, control characters in names are
    replaced by escapes.
    """
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(COLUMNS)
    for failed in failures:
        row = [failed.video, failed.clip, ";".join(failed.stages), failed.reason, failed.words]
        lines.writerow(map(on_one_line, row) if sys.stdout.isatty() else row)

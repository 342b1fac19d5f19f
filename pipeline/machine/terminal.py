"""Shows the progress of a command: as a bar on a terminal, or as lines with the time of day in a log. Also formats
texts for terminals.
"""

import datetime
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.utils import disp_len

from kinegraph.cache_schemas.words import on_one_line, shown

USUAL_COLUMNS = 80
TIME_OF_DAY = "%H:%M:%S"
LEAST_BAR = 10  # smallest width of a bar, in columns
LINE_EVERY_SECONDS, RARE_LINES_SECONDS = 30.0, 300.0


def columns(stream: TextIO) -> int | None:
    """Returns the width of the terminal `stream` in characters. Returns None if `stream` is a file or a pipe, whose
    lines have no limit.

    If the environment variable COLUMNS is set, returns its number for any stream.
    """
    if (number := os.environ.get("COLUMNS", "")).isdecimal() and int(number):
        return int(number)
    if not stream.isatty():
        return None
    with suppress(OSError, ValueError):  # the stream has no descriptor, or it is no terminal
        return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
    return USUAL_COLUMNS


def folded(text: str, columns: int | None) -> str:
    """Returns `text` with long lines broken between words, so that each line has at most `columns` characters. If
    `columns` is None, returns `text` unchanged.

    The continuation of a broken line is indented by two more blanks than the line.
    """
    if columns is None:
        return text
    lines = (_folded_line(line, columns) for line in text.split("\n"))
    return "\n".join(lines)


def _folded_line(line: str, columns: int) -> str:
    if disp_len(line) <= columns:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
    return joined(re.findall(r" *[^ ]+", line), columns, indent)


def joined(pieces: Sequence[str], columns: int, indent: str) -> str:
    """Joins the texts `pieces` without separators and breaks the result into lines of at most `columns` characters.
    Returns the lines as one text.

    Lines are broken only between pieces, so a longer piece makes a longer line. Each line after the first begins with
    `indent`.
    """
    lines = [""]
    for piece in pieces:
        if lines[-1].strip() and disp_len(lines[-1] + piece.rstrip()) > columns:
            lines[-1] = lines[-1].rstrip()
            lines.append(indent + piece.lstrip(" "))
        else:
            lines[-1] += piece
    return "\n".join(lines).rstrip()


def fitting(parts: Sequence[str], columns: int) -> str:
    """Returns the first texts of `parts`, joined by commas, as many as fit into `columns` characters.

    The first text is always in the result. If it is too long, it is cut and ends in "...".
    """
    line = parts[0] if disp_len(parts[0]) <= columns else f"{parts[0][: max(columns - 3, 0)]}..."
    for part in parts[1:]:
        if disp_len(f"{line}, {part}") > columns:
            break
        line = f"{line}, {part}"
    return line


def clock(seconds: float) -> str:
    """Returns a duration of `seconds` as text: 750 -> "0:12:30", 86400 -> "1 day, 0:00:00"."""
    return str(datetime.timedelta(seconds=round(seconds)))


def speed(clips_per_second: float) -> str:
    """Returns a speed as text: 12 -> "12 clips/s". Below 0.1 clips per second: 0.04 -> "25 s/clip"."""
    if 0 < clips_per_second < 0.1:
        return f"{_figure(1 / clips_per_second)} s/clip"
    return f"{_figure(clips_per_second)} clips/s"


def _figure(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


class ShownLines(logging.Formatter):
    """A formatter of `logging` that writes lines for people, without control characters.

    On a terminal, long lines are broken at the width of the terminal. In a log file, each line begins with the time of
    day.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = shown(super().format(record)).rstrip()
        if not sys.stderr.isatty():
            return f"{self.formatTime(record, TIME_OF_DAY)} {line}"
        return folded(line, columns(sys.stderr))


def log_to_stderr() -> None:
    """Makes `logging` write log lines and Python's warnings to stderr. Every command and every worker process calls
    this function once.
    """
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(ShownLines())
    logging.basicConfig(handlers=[lines])
    logging.captureWarnings(True)


class Pace:
    """Estimates the time that is left for a job of many parts, from its speed so far.

    The speed is measured from a moment `seconds_ago` seconds before this object was made. At that moment, `done` parts
    of the job were done.
    """

    def __init__(self, done: float = 0.0, seconds_ago: float = 0.0) -> None:
        self.done, self.since = done, time.monotonic() - seconds_ago

    def seconds_left(self, done: float, total: float) -> float | None:
        """Returns the estimated seconds until all `total` parts are done, if `done` parts are done now.

        Returns None if all parts are done, or if no part was done since the measurement began.
        """
        if done <= self.done or done >= total:
            return None
        return (time.monotonic() - self.since) / (done - self.done) * (total - done)

    def left(self, done: float, total: float) -> list[str]:
        """Returns the time left as a list with one text, for example ["0:12:30 left"]. Returns [] if the time left is
        unknown.

        `done` of `total` parts are done now.
        """
        seconds = self.seconds_left(done, total)
        return [] if seconds is None else [f"{clock(seconds)} left"]


class LineTimer:
    """Decides when a log gets its next progress line: every 30 s in the first hour, then less often, at last every 5
    min.
    """

    def __init__(self) -> None:
        self.begun = self.last = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether a progress line is due now. If so, the caller must print the line, because the wait for the
        next line begins with this call.
        """
        now = time.monotonic()
        if now - self.last < min(max(LINE_EVERY_SECONDS, (now - self.begun) / 120), RARE_LINES_SECONDS):
            return False
        self.last = now
        return True


class Bar:
    """A progress bar with text beside it, on stderr. If stderr is not a terminal, nothing is shown.

    `total` is the number of steps, for example of clips. A `total` of 0 means that the number is unknown. Then only the
    text is shown, and the line is cleared at the end.
    """

    def __init__(self, total: int) -> None:
        self.is_shown, self.total = sys.stderr.isatty(), total
        self._bar: Any = None

    def show(self, done: int, total: int, parts: Sequence[str]) -> None:
        """Shows that `done` of `total` steps are done. Beside the bar, shows as many of the first texts in `parts` as
        fit.

        The bar keeps at least ten characters. Does nothing if stderr is not a terminal.
        """
        if not self.is_shown:
            return
        width = columns(sys.stderr) or USUAL_COLUMNS
        room = width - len("100%|| ") - LEAST_BAR if self.total else width - 1
        words = fitting([*map(on_one_line, parts)], room)
        if self._bar is None:
            form = "{percentage:3.0f}%|{bar}| {desc}" if self.total else "{desc}"
            self._bar = tqdm(
                total=total or None, desc=words, ncols=width, file=sys.stderr, bar_format=form, leave=self.total > 0
            )
        self._bar.ncols, self._bar.total = width, total or None
        self._bar.set_description_str(words, refresh=False)
        if done > self._bar.n:
            self._bar.update(done - self._bar.n)
        else:
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar. The bar stays on the terminal if its total is known. Otherwise its line is cleared."""
        self.is_shown = False
        if self._bar is not None:
            self._bar.close()

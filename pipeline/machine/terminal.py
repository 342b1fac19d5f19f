"""Shows the progress of a command: a bar on a terminal, lines with the time of day in a log."""

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
    """Returns the number of characters in a line of the terminal `stream`. Returns None if `stream` is a file or a
    pipe. The caller then breaks no lines.

    If the environment variable COLUMNS is set, returns its number in all cases.
    """
    if (told := os.environ.get("COLUMNS", "")).isdecimal() and int(told):
        return int(told)
    if not stream.isatty():
        return None
    with suppress(OSError, ValueError):  # the stream has no descriptor, or it is no terminal
        return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
    return USUAL_COLUMNS


def folded(text: str, columns: int | None) -> str:
    """Returns the text in lines of at most `columns` characters, broken between words.

    The continuation of a broken line is indented by two more blanks. With `columns` None, no line is broken.
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
    """Returns `pieces`, put together without separators, as one text with lines of at most `columns` characters.

    Lines are broken only between pieces, so a longer piece makes a longer line. Lines after the first begin with the
    text `indent`.
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
    """Returns as many of the first texts in `parts` as fit into `columns` characters, joined by commas.

    The first text is always there. If it does not fit, it is cut and ends in `...`.
    """
    line = parts[0] if disp_len(parts[0]) <= columns else f"{parts[0][: max(columns - 3, 0)]}..."
    for part in parts[1:]:
        if disp_len(f"{line}, {part}") > columns:
            break
        line = f"{line}, {part}"
    return line


def clock(seconds: float) -> str:
    """Returns a duration of `seconds` as text: `0:12:30` or `1 day, 0:00:00`."""
    return str(datetime.timedelta(seconds=round(seconds)))


def speed(clips_per_second: float) -> str:
    """Returns a speed as text: `12 clips/s`, or `25 s/clip` if the speed is below 0.1 clips per second."""
    if 0 < clips_per_second < 0.1:
        return f"{_figure(1 / clips_per_second)} s/clip"
    return f"{_figure(clips_per_second)} clips/s"


def _figure(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


class ShownLines(logging.Formatter):
    """Formats log lines, without control characters.

    On a terminal, long lines are folded. In a log, each line begins with the time of day.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = shown(super().format(record)).rstrip()
        if not sys.stderr.isatty():
            return f"{self.formatTime(record, TIME_OF_DAY)} {line}"
        return folded(line, columns(sys.stderr))


def log_to_stderr() -> None:
    """Makes `logging` write log lines and Python's warnings to stderr. Commands and worker processes call this."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(ShownLines())
    logging.basicConfig(handlers=[lines])
    logging.captureWarnings(True)


class Pace:
    """Estimates the time that is left for a job of many parts, from its speed so far.

    The measurement began `seconds_ago` seconds before this object was made. When it began, `done` parts of the job
    were done already.
    """

    def __init__(self, done: float = 0.0, seconds_ago: float = 0.0) -> None:
        self.done, self.since = done, time.monotonic() - seconds_ago

    def seconds_left(self, done: float, total: float) -> float | None:
        """Returns the estimated seconds until all `total` parts are done, if `done` of them are done now.

        Returns None if all parts are done. Returns None also if no part was done since the estimate began, because the
        speed is not known yet.
        """
        if done <= self.done or done >= total:
            return None
        return (time.monotonic() - self.since) / (done - self.done) * (total - done)

    def left(self, done: float, total: float) -> list[str]:
        """Returns the time left as text in a list, such as [`0:12:30 left`]. Returns [] if the time left is unknown.
        `done` of `total` parts are done.
        """
        seconds = self.seconds_left(done, total)
        return [] if seconds is None else [f"{clock(seconds)} left"]


class LineTimer:
    """Says when a log gets its next progress line. That is every 30 s in the first hour, then less often, at last every
    5 min.
    """

    def __init__(self) -> None:
        self.begun = self.last = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether a progress line is to be printed now. If it returns True, the time until the next line
        begins, so the caller must print the line.
        """
        now = time.monotonic()
        if now - self.last < min(max(LINE_EVERY_SECONDS, (now - self.begun) / 120), RARE_LINES_SECONDS):
            return False
        self.last = now
        return True


class Bar:
    """Shows a bar with text beside it on stderr. Shows nothing if stderr is no terminal.

    The bar is full at `total`, for example the number of clips. A `total` of 0 means that the total is unknown. Then
    only the text is shown, and the line is cleared at the end.
    """

    def __init__(self, total: int) -> None:
        self.is_shown, self.total = sys.stderr.isatty(), total
        self._bar: Any = None

    def show(self, done: int, total: int, parts: Sequence[str]) -> None:
        """Shows a progress bar for `done` of `total` steps. Shows as many of the texts `parts` as fit beside the bar.

        The bar keeps at least ten characters. Nothing is shown if the progress is not on a terminal.
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
        """Ends the bar. If the total is known, the bar stays on the terminal in its last state. Otherwise its line is
        cleared.
        """
        self.is_shown = False
        if self._bar is not None:
            self._bar.close()

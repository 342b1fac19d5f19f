"""Lines and tables for a terminal: results go to stdout, all else to stderr."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

MAX_LISTED, MAX_COLUMNS = 10, 120
LINE_EVERY_SECONDS = 30.0
KEPT = "\n\u200c\u200d"  # two that scripts of India and Iran spell with


def note(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)


def say(text: str = "", *, end: str = "\n") -> None:
    """Print a result."""
    print(shown(text), end=end)


def shown(text: str) -> str:
    """The text without what a terminal would obey: names and labels may hold escape sequences. Line ends stay."""
    return text if text.isprintable() else "".join(map(_shown_character, text))


def on_one_line(text: str) -> str:
    """A name, or words with one in them, as a line of a list or a cell of a table."""
    return shown(text.replace("\n", "\\n"))


def _shown_character(character: str) -> str:
    if character.isprintable() or character in KEPT:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback (what, done, total; total 0 if not known): a bar on a terminal, else a line now and then."""
    bars: dict[str, Any] = {}
    begun: dict[str, tuple[float, int]] = {}  # when, and at which count
    told = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        since, first = begun.setdefault(what, (now, done))
        if not sys.stderr.isatty() and first < done < total and now - told >= LINE_EVERY_SECONDS:
            told = now
            left = (now - since) / (done - first) * (total - done)
            note(f"{what}: {done:,} of {total:,}, about {duration(left)} left")
        if what not in bars:
            bars[what] = tqdm(total=total or None, desc=what, disable=not sys.stderr.isatty(), file=sys.stderr)
        bars[what].update(done - bars[what].n)

    yield progress
    for bar in bars.values():
        bar.close()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()) -> str:
    """Columns wide enough for their cells; the first and those named in `words` flush left, numbers flush right."""
    columns = [tuple(map(on_one_line, column)) for column in zip(header, *rows, strict=True)]
    for number, column in enumerate(columns):
        width = max(map(len, column))
        flush_left = number == 0 or column[0] in words
        columns[number] = tuple(cell.ljust(width) if flush_left else cell.rjust(width) for cell in column)
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def duration(seconds: float) -> str:
    """`0 s`, `12 min`, `3.4 h`, ..."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


def listed(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], f"  ... and {more} more"] if more > 0 else list(lines)


def note_listed(title: str, lines: Sequence[str]) -> None:
    """A title, and the first lines below it; nothing where there are none."""
    if lines:
        note("\n".join([title, *listed([f"  {on_one_line(line)}" for line in lines])]))


def few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(map(on_one_line, names[:MAX_LISTED])) + more


def wrapped(start: str, words: Sequence[str]) -> str:
    """`start` and the words, separated by commas, in lines that break between words only."""
    whole = start + ", ".join(word.replace(" ", "\0") for word in words)
    return textwrap.fill(whole, MAX_COLUMNS, subsequent_indent=" " * len(start)).replace("\0", " ")

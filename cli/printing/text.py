"""Prints lines and tables. Results go to stdout, and everything else goes to stderr."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm.utils import disp_len

from kinegraph.cache_schemas.words import few_of, on_one_line, shown
from kinegraph.pipeline.machine.terminal import (
    TIME_OF_DAY,
    USUAL_COLUMNS,
    Bar,
    LineTimer,
    Pace,
    columns,
    folded,
    joined,
)

MAX_LISTED = 10
LEAST_WORDS = 20  # smallest width of a folded cell, in columns


def note(text: str) -> None:
    """Prints a message to stderr. On a terminal, long lines are broken between words."""
    print(folded(shown(text), columns(sys.stderr)), file=sys.stderr, flush=True)


def note_at_work(text: str) -> None:
    """Prints a message about work in progress to stderr. If stderr is no terminal, the line begins with the time of
    day.
    """
    note(text if sys.stderr.isatty() else f"{time.strftime(TIME_OF_DAY)} {text}")


def say(text: str = "", *, end: str = "\n") -> None:
    """Prints `text` and then `end` to stdout. On a terminal, long lines are broken between words."""
    print(folded(shown(text), columns(sys.stdout)), end=end, flush=True)


def say_whole(text: str) -> None:
    """Prints a result for other programs to stdout. Lines are never broken."""
    print(shown(text), end="", flush=True)


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()) -> None:
    print(table(header, rows, words, columns(sys.stdout)), flush=True)


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a callback that shows the progress of work. Its arguments are the name of the work, such as "reading
    headers", the number done and the total. A total of 0 means that the total is not known.

    On a terminal, the callback shows a bar. In a log, it writes a line every 30 s, later every 5 min.
    """
    bars: dict[str, Bar] = {}
    paces: dict[str, Pace] = {}
    timer = LineTimer()

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what], paces[what] = Bar(total), Pace(done)
        left = paces[what].left(done, total)
        parts = [f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}", *left]
        bars[what].show(done, total, parts)
        if 0 < total <= done:
            bars[what].close()
        if not sys.stderr.isatty() and left and timer.is_due():
            note_at_work(", ".join(parts))

    yield progress
    for bar in bars.values():
        bar.close()


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = (), columns: int | None = None
) -> str:
    """Returns a table as text. No cell is cut. If the table is too wide, the text has several tables, and each repeats
    the first column.

    - `header`: the names of the columns.
    - `rows`: the cells of each row.
    - `words`: the names of columns that are aligned to the left, as the first column is. All others are aligned to the
      right.
    - `columns`: the width of the terminal in characters, or None for no limit.
    """
    cells = [[*map(on_one_line, column)] for column in zip(header, *rows, strict=True)]
    if columns and len(cells) > 1 and max(map(disp_len, cells[0])) > columns // 2:
        least = _width(cells[:-1], range(len(cells) - 1)) + 2 + _least(cells[-1], words)
        if least > columns:
            return "\n".join(_under_first_cells(cells, words, columns))
    blocks: list[list[int]] = [[0]]
    for index in range(1, len(cells)):
        if columns and len(blocks[-1]) > 1 and _width(cells, blocks[-1]) + 2 + _least(cells[index], words) > columns:
            blocks.append([0])
        blocks[-1].append(index)
    return "\n\n".join("\n".join(_block([cells[index] for index in block], words, columns)) for block in blocks)


def _under_first_cells(cells: list[list[str]], words: Sequence[str], columns: int) -> Iterator[str]:
    """Yields the lines of a table that is at most `columns` characters wide. The first cell of each row is a line of
    its own. The other cells follow on the next line, indented.

    `cells` has a list for each column, its header first. `words` are the headers of columns with long texts. If the
    last column is one of them, its texts may go over several lines.
    """
    for first, row in zip(cells[0], _block(cells[1:], words, columns - 2), strict=True):
        if first:
            yield first
        yield "  " + row.replace("\n", "\n  ")


def _width(cells: Sequence[Sequence[str]], block: Sequence[int]) -> int:
    return sum(max(map(disp_len, cells[column])) for column in block) + 2 * (len(block) - 1)


def _least(column: Sequence[str], words: Sequence[str]) -> int:
    """Returns the smallest width of a table column, in characters. `column` has its texts, the header first. If the
    header is in `words`, texts may go over several lines, so the column may be narrower than its texts.
    """
    width = max(map(disp_len, column))
    if column[0] not in words:
        return width
    return min(width, max(LEAST_WORDS, *(disp_len(word) for cell in column for word in cell.split())))


def _block(cells: list[list[str]], words: Sequence[str], columns: int | None) -> list[str]:
    """Returns the lines of a table with the columns `cells` side by side. A column is a list of texts, its header
    first.

    `columns` is the width of the terminal in characters, or None for a file. If the header of the last column is in
    `words`, its long texts go over several lines.
    """
    before = _width(cells, range(len(cells) - 1)) + 2
    if columns and len(cells) > 1 and cells[-1][0] in words:
        cells[-1] = [folded(cell, max(columns - before, LEAST_WORDS)) for cell in cells[-1]]
    for column_index, column in enumerate(cells[:-1]):
        cells[column_index] = _justified(column, flush_left=column_index == 0 or column[0] in words)
    if len(cells) == 1 or cells[-1][0] not in words:
        cells[-1] = _justified(cells[-1], flush_left=len(cells) == 1)
    lines = ("  ".join(line).replace("\n", "\n" + " " * before) for line in zip(*cells, strict=True))
    return [line.rstrip() for line in lines]


def _justified(column: Sequence[str], *, flush_left: bool) -> list[str]:
    width = max(map(disp_len, column))
    blanks = [" " * (width - disp_len(cell)) for cell in column]
    return [cell + blank if flush_left else blank + cell for cell, blank in zip(column, blanks, strict=True)]


def duration(seconds: float) -> str:
    """Returns a duration as text: `0 s`, `12 min`, `3.4 h`, ..."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


def listed(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], f"  ... and {more:,} more"] if more > 0 else list(lines)


def note_listed(title: str, lines: Sequence[str]) -> None:
    """Prints `title` to stderr, then the first 10 of `lines` and the number of further lines. Prints nothing if `lines`
    is empty.
    """
    if lines:
        note("\n".join([title, *listed([f"  {on_one_line(line)}" for line in lines])]))


def few(names: Sequence[str]) -> str:
    return few_of([*map(on_one_line, names)], MAX_LISTED)


def say_page(text: str) -> None:
    """Prints `text` to stdout. Lines are broken at the width of the terminal, or at 80 columns if stdout is a file."""
    say(folded(text, columns(sys.stdout) or USUAL_COLUMNS))


def wrapped(start: str, words: Sequence[str], between: str = ", ") -> str:
    """Returns `start` and all `words` as text, with `between` after each word but the last. Lines break only between
    two words.

    A line is as long as the terminal is wide, or 80 columns if stdout is a file.
    """
    pieces = [start, *(f"{word}{between}" for word in words[:-1]), *words[-1:]]
    return joined(pieces, columns(sys.stdout) or USUAL_COLUMNS, " " * len(start))

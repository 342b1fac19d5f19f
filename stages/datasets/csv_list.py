"""Reads a csv that lists videos. If a line is malformed, the error names the line. Torch-free."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from kinegraph.cache_schemas.regular import TABLE_BYTES, read_regular
from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.remote.urls import is_url

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "split", "start", "end")  # columns that are read; other columns are ignored
EXPECTED = "path,label[,split][,start,end]"
UTF_16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
LOOKED_AT_BYTES = 4096


def decode_text(path: str, content: bytes) -> str:
    """Returns the text of the file `path`, whose content is `content`. Raises DatasetError unless the file is UTF-8,
    with or without a byte order mark.
    """
    start = content[:LOOKED_AT_BYTES]
    if start.startswith(UTF_16_OR_32) or start.count(0) > len(start) // 4:
        raise DatasetError(f"{path}: it looks like UTF-16, or is no text. Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{path}: line {line}: not UTF-8: {sentence(error)} Save it as UTF-8.") from error


def text_of(key: str, path: str, tries: int = 1) -> str:
    """Returns the text of the file or URL `path`. Raises DatasetError if it cannot be read.

    `key` is the config key that states the path, for messages. A URL is requested at most `tries` times.
    """
    try:
        if is_url(path):
            from kinegraph.stages.remote.remote import Remote  # imported here, because files do not need it

            return decode_text(path, Remote(tries).read(path, TABLE_BYTES))
        return decode_text(path, read_regular(path, TABLE_BYTES))
    except FileNotFoundError:
        raise DatasetError(f"{key}: no file {path} (looked from {Path.cwd()}).") from None
    except OSError as error:
        raise DatasetError(f"{key}: {sentence(error)}") from error
    except DecodeError as error:
        raise DatasetError(f"{key}: {sentence(error.detail)}") from error


def csv_lines(
    annotations: str, text: str, required: Sequence[str] = REQUIRED, *, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (place, fields) for each line of a csv. The place is the file and the line number, for messages. The
    fields are {column: text}. Empty lines are skipped.

    `annotations` is the path of the csv, for messages, and `text` is its content. Raises DatasetError if the header
    lacks one of the columns `required` or has a column twice, or if a line is damaged.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    header = _next_line(annotations, reader, 1) or []
    _check_header(annotations, header, required)
    read = COLUMNS if required is REQUIRED else required
    while True:
        line = reader.line_num + 1
        fields = _next_line(annotations, reader, line)
        if fields is None:
            return
        where = f"{annotations}: line {line}"
        if not any(map(str.strip, fields)) and len(fields) < 2:  # the line is empty
            continue
        if len(fields) != len(header):
            raise DatasetError(f"{where}: {len(fields)} fields, but the header has {len(header)}: {','.join(header)}")
        row = dict(zip(header, fields, strict=True))
        for column in read:
            value = row.get(column, "")
            if "\n" in value or "\r" in value:
                raise DatasetError(f"{where}: a line break in {column}. Close the quote that begins there.")
            # A path with a NUL names no file. Its video is marked as missing later.
            if "\0" in value and column != "path":
                raise DatasetError(f"{where}: a NUL in {column}")
        yield where, row


def _next_line(annotations: str, reader: Iterator[list[str]], line: int) -> list[str] | None:
    """Returns the fields of the next record of `reader`, a csv reader of the file `annotations`. Returns None at the
    end of the file.

    `line` is the number of the line where the record begins, for messages. Raises DatasetError if the csv reader cannot
    read the record.
    """
    try:
        return next(reader, None)
    except csv.Error as error:
        explanations = {
            "unexpected end of data": "a quote that begins there is not closed before the end of the file",
            f"field larger than field limit ({csv.field_size_limit()})": f"a field of over {csv.field_size_limit()} "
            "characters. Is a quote before it not closed?",
        }
        raise DatasetError(f"{annotations}: line {line}: {explanations.get(str(error), error)}") from None


def _check_header(annotations: str, header: list[str], required: Sequence[str]) -> None:
    if missing := set(required) - set(header):
        raise DatasetError(
            f"{annotations}: no column {', '.join(sorted(missing))} in its header {header}; "
            f"expected {EXPECTED if required is REQUIRED else ','.join(required)}."
        )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise DatasetError(f"{annotations}: column {twice[0]!r} stands twice in its header {header}")
    if len(bounds := {"start", "end"} & set(header)) == 1:
        raise DatasetError(f"{annotations}: column {bounds.pop()} alone in its header; intervals need start and end.")

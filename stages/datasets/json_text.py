"""Parses the JSON text of label files. Torch-free."""

import json
from typing import Any

from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.datasets.errors import DatasetError


def parse_json(path: str, text: str) -> Any:
    """Returns the value of the JSON text `text`, the content of the file `path`.

    Raises DatasetError if the text is not JSON, for example because its end is missing, and if an object has a key
    twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in entries if keys.count(key) > 1)
            raise DatasetError(f"{path}: an object has the key {twice!r} twice. Keep one entry.")
        return entries

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        place, words = f"line {error.lineno}, column {error.colno}", sentence(error.msg.removesuffix(" starting at"))
        raise DatasetError(
            f"{path}: {place}: not JSON: {words} Is the end of the file missing, or is it another file? Get it again."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        raise DatasetError(f"{path}: no JSON that can be read: {sentence(str(error))}") from error

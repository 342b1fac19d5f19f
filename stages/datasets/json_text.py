"""Parses JSON that other people wrote. Torch-free."""

import json
from typing import Any

from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.datasets.errors import DatasetError


def parsed_json(path: str, text: str) -> Any:
    """Returns the content of the JSON file `path`, which has the text `text`.

    Raises DatasetError where the text is not JSON, for example because its end is missing. Raises it also where a key
    stands twice in an object.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in entries if keys.count(key) > 1)
            raise DatasetError(f"{path}: {twice!r} stands there twice. Keep one entry.")
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

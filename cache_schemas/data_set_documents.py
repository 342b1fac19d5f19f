"""Writes and checks two documents about a data set, missing.txt and class_attributes.csv.

`kinegraph index` writes missing.txt if listed videos have no file. It writes class_attributes.csv if the owners of the
data set publish attributes of the classes, such as the object of an action.
"""

from collections.abc import Mapping

from kinegraph.cache_schemas.cache import INDEX_AGAIN
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.storage import Storage

MISSING, ATTRIBUTES = "missing.txt", "class_attributes.csv"
CLASS_COLUMN = "class"
OF_DATA_SET = (MISSING, ATTRIBUTES)
MISSING_FIELDS = 3  # name, split, words


def write_missing(storage: Storage, missing: Mapping[str, tuple[str, str]]) -> None:
    """Writes missing.txt, which lists the videos of the data set that have no file. A line has the name of the video,
    its split, and words that say which file was looked for, with tabs between.

    `missing` maps the name of a video to (split, words). If it is empty, an existing missing.txt is removed.
    """
    if missing:
        lines = ("\t".join((name, *of_video)) + "\n" for name, of_video in missing.items())
        storage.put(MISSING, ["".join(lines).encode()])
    else:
        storage.delete(MISSING)


def write_attributes(storage: Storage, attributes: Mapping[str, Mapping[str, str]]) -> None:
    """Writes class_attributes.csv, with a line for each class and a column for each attribute.

    `attributes` maps the name of a class to its attributes, for example to {"object": "cup"}. All classes have the same
    attributes. If `attributes` is empty, an existing class_attributes.csv is removed.
    """
    if attributes:
        columns = [*next(iter(attributes.values()))]
        lines = ([name, *(of_class[column] for column in columns)] for name, of_class in attributes.items())
        storage.put(ATTRIBUTES, [csv_text([[CLASS_COLUMN, *columns], *lines]).encode()])
    else:
        storage.delete(ATTRIBUTES)


def check_document(storage: Storage, name: str) -> None:
    """Raises CacheError if the document `name` is damaged. `name` is "missing.txt" or "class_attributes.csv". A
    document that does not exist is no error.
    """
    try:
        lines = storage.get(name).decode().splitlines()
    except FileNotFoundError:
        return
    except UnicodeDecodeError as error:
        raise CacheError(f"{storage.root}/{name} is damaged: not UTF-8. {INDEX_AGAIN}") from error
    if name == MISSING and any(line.count("\t") != MISSING_FIELDS - 1 for line in lines):
        raise CacheError(f"{storage.root}/{name} is damaged: a line has not {MISSING_FIELDS} fields. {INDEX_AGAIN}")
    if name == ATTRIBUTES and not "".join(lines[:1]).startswith(f"{CLASS_COLUMN},"):
        raise CacheError(f"{storage.root}/{name} is damaged: no column {CLASS_COLUMN}. {INDEX_AGAIN}")

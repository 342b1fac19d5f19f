"""Computes the mean score of the classes that have the same value of an attribute, such as the same object. Torch-free.

Fig. 5 of the paper "Videos as Space-Time Region Graphs" by Wang and Gupta (2018) shows such scores.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from kinegraph.cache_schemas.cache import open_cache
from kinegraph.cache_schemas.data_set_documents import ATTRIBUTES, CLASS_COLUMN
from kinegraph.cache_schemas.regular import read_regular
from kinegraph.stages.errors import UsageError

OF_CACHE = "cache"
Attributes = Mapping[str, Mapping[str, str]]  # class -> attribute -> value


@dataclass(frozen=True, kw_only=True)
class AttributeScore:
    """The mean score of all classes that have the same value of an attribute, for example of all classes whose
    attribute "object" is "ball".
    """

    # `attribute`, `value`: the names of the attribute and of its value
    attribute: str
    value: str
    num_classes: int  # the number of classes with this value that have a score
    score: float  # the mean score of these classes


def by_attribute(per_class: Mapping[str, float], attributes: Attributes) -> list[AttributeScore]:
    """Returns one AttributeScore for each attribute and each of its values: the mean score of the classes with this
    value.

    `per_class` maps classes to scores. `attributes` maps each class to its attributes, for example {"throw": {"object":
    "ball"}}. Classes without a score and empty values are left out.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for name, of_class in attributes.items():
        for attribute, value in of_class.items():
            if value and name in per_class:
                groups.setdefault((attribute, value), []).append(per_class[name])
    scores_of_groups = [
        AttributeScore(attribute=attribute, value=value, num_classes=len(scores), score=mean(scores))
        for (attribute, value), scores in groups.items()
    ]
    return sorted(scores_of_groups, key=lambda score: (score.attribute, score.value))


def _of_cache(root: str) -> bytes:
    """Returns the content of class_attributes.csv of the cache at `root`. Raises UsageError if the cache has no such
    file.
    """
    try:
        return open_cache(root).storage.get(ATTRIBUTES)
    except FileNotFoundError as error:
        raise UsageError(
            f"--attributes cache: {root}/{ATTRIBUTES} does not exist. `kinegraph index` writes it where the label "
            "files of the data set have attributes, as Charades_v1_mapping.txt. Else give a csv."
        ) from error


def read_attributes(table: Path | str, class_names: Sequence[str], cache: str = "") -> Attributes:
    """Reads a csv file with attributes of classes. Returns {class: {attribute: value}}.

    `table` is the path of the file, which has the column `class` and a column for each attribute. If `table` is
    "cache", class_attributes.csv of the cache at the path `cache` is read. Raises UsageError if a column is missing, or
    if the file names a class twice or one that is not in `class_names`.
    """
    try:
        content = _of_cache(cache) if str(table) == OF_CACHE else read_regular(Path(table))
        text = content.decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restval=""))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--attributes {table}: cannot be read: {error}") from error
    if not rows or CLASS_COLUMN not in rows[0] or len(rows[0]) < 2:
        raise UsageError(f"--attributes {table}: expected a header class,<attribute>[,...] and a line per class")
    attributes: dict[str, dict[str, str]] = {}
    for line_number, row in enumerate(rows, start=2):
        name = row.pop(CLASS_COLUMN)
        if None in row:
            raise UsageError(f"--attributes {table}: line {line_number} has more cells than the header")
        if name not in class_names:
            raise UsageError(f"--attributes {table}: line {line_number}: {name!r} is no class of the cache")
        if name in attributes:
            raise UsageError(f"--attributes {table}: line {line_number}: class {name!r} stands there twice")
        attributes[name] = {attribute: value.strip() for attribute, value in row.items()}
    return attributes

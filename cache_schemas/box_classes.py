"""Finds the names of the classes of boxes. The array `proposals/labels` holds the class number of each box, and the
options of the stage `proposals` hold the names.
"""

from collections.abc import Iterable, Sequence

from kinegraph.cache_schemas.cache import Cache

BOX_LABELS = "proposals/labels"


def box_class_names(cache: Cache) -> tuple[str, ...]:
    """Returns the names of the classes of boxes. The name of class number i is item i. Returns an empty tuple if the
    boxes of the cache have no classes.
    """
    if BOX_LABELS not in cache.arrays():
        return ()
    return tuple(map(str, cache.stage("proposals").options.get("labels", ())))


def named(numbers: Iterable[int], names: Sequence[str]) -> list[str]:
    """Returns the name of each class number in `numbers`. `names` are all names, in the order of their numbers. A
    number without a name becomes `class <number>`.
    """
    return [names[number] if 0 <= number < len(names) else f"class {number}" for number in numbers]

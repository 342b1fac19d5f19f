"""Finds the stages that depend on other stages, directly or through others. Failures, changed files and requested work
spread along these dependencies.

A stage reads another stage if its rows are made from rows of the other stage (`regions/i3d` reads `features/i3d`). The
attribute `reads` of a stage has the keys of the stages that it reads. The parameter `stages` maps stage key -> stage.
In `stages`, every stage must come after the stages that it reads.
"""

from collections.abc import Iterable, Mapping

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.stage import Stage


def with_readers(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns `keys` and the keys of all stages that are made from the stages `keys`, directly or through other stages.
    For example, `features/i3d` adds `regions/i3d`.

    `stages` maps stage keys to stages, each after the stages that it reads. The result has the order of `stages`.
    """
    chosen = {*keys}
    for key, stage in stages.items():
        if stage.reads.keys() & chosen:
            chosen.add(key)
    return [key for key in stages if key in chosen]


def with_read(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns `keys` together with the keys of all stages that a stage in `keys` reads, directly or through other
    stages.

    The result is in the order of `stages`.
    """
    chosen = {*keys}
    for key in reversed([*stages]):
        if key in chosen:
            chosen |= stages[key].reads.keys()
    return [key for key in stages if key in chosen]


def stages_in_order(cache: Cache) -> dict[str, Stage]:
    """Returns key -> stage for all stages of a cache. Every stage comes after the stages that it reads."""
    left = {key: cache.stage(key) for key in cache.stage_keys()}
    ordered: dict[str, Stage] = {}
    while left:
        free = (key for key, stage in left.items() if not stage.reads.keys() & left.keys() - {key})
        key = next(free, next(iter(left)))  # only damaged documents can contain a circle
        ordered[key] = left.pop(key)
    return ordered

"""Follows the dependencies between stages. Failures, changed files and requested work spread along these dependencies.

A stage's attribute `reads` names the stages that the rows of the stage are made from. The functions of this module
follow `reads` through any number of stages. In the mapping `stages`, every stage must come after the stages that it
reads, as `Declared.stages` and `stages_in_order` return them.
"""

from collections.abc import Iterable, Mapping

from kinegraph.cache_schemas.cache import Cache, Stage


def with_readers(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns `keys` and the keys of all stages that are made from stages in `keys`, directly or through other stages.

    The order is that of `stages`.
    """
    chosen = {*keys}
    for key, stage in stages.items():
        if stage.reads.keys() & chosen:
            chosen.add(key)
    return [key for key in stages if key in chosen]


def with_read(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns `keys` and the keys of all stages that the stages in `keys` are made from, directly or through others.

    The order is that of `stages`.
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

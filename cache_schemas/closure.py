"""Follows which stages read which. One rule serves failures that spread, files that changed, and work that comes along.

Each stage lists the stages that its rows are made from in `reads`. The functions of this module follow `reads` through
any number of stages.
"""

from collections.abc import Iterable, Mapping

from kinegraph.cache_schemas.cache import Cache, Stage


def in_order(stages: Mapping[str, Stage]) -> list[str]:
    """Returns the keys so that each key follows the keys that it reads. Otherwise the given order stays."""
    left, ordered = dict(stages), list[str]()
    while left:
        free = (key for key, stage in left.items() if not stage.reads.keys() & left.keys() - {key})
        key = next(free, next(iter(left)))  # only damaged documents can contain a circle
        ordered.append(key)
        del left[key]
    return ordered


def with_readers(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns the keys and all keys that are made from them. Each key follows the keys that it reads."""
    chosen, ordered = {*keys}, in_order(stages)
    for key in ordered:
        if stages[key].reads.keys() & chosen:
            chosen.add(key)
    return [key for key in ordered if key in chosen]


def with_read(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns the keys and all keys that they are made from. Each key follows the keys that it reads."""
    chosen, ordered = {*keys}, in_order(stages)
    for key in reversed(ordered):
        if key in chosen:
            chosen |= stages[key].reads.keys()
    return [key for key in ordered if key in chosen]


def stages_in_order(cache: Cache) -> dict[str, Stage]:
    """Returns all stages of a cache by key. Each stage follows the stages that it reads."""
    stages = {key: cache.stage(key) for key in cache.stage_keys()}
    return {key: stages[key] for key in in_order(stages)}

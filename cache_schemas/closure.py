"""Which stages read which: the one rule for failures that spread, files that changed, and work that comes along.

A stage says in `reads` whose rows it was made from. Functions here follow that through any number of stages.
"""

from collections.abc import Iterable, Mapping

from kinegraph.cache_schemas.cache import Cache, Stage


def in_order(stages: Mapping[str, Stage]) -> list[str]:
    """The keys as given, but each behind those that it reads."""
    left, ordered = dict(stages), list[str]()
    while left:
        free = (key for key, stage in left.items() if not stage.reads.keys() & left.keys() - {key})
        key = next(free, next(iter(left)))  # a circle can only be in damaged documents
        ordered.append(key)
        del left[key]
    return ordered


def with_readers(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """The keys and all that is made from them, read ones first."""
    chosen, ordered = {*keys}, in_order(stages)
    for key in ordered:
        if stages[key].reads.keys() & chosen:
            chosen.add(key)
    return [key for key in ordered if key in chosen]


def with_read(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """The keys and all that they are made from, read ones first."""
    chosen, ordered = {*keys}, in_order(stages)
    for key in reversed(ordered):
        if key in chosen:
            chosen |= stages[key].reads.keys()
    return [key for key in ordered if key in chosen]


def stages_in_order(cache: Cache) -> dict[str, Stage]:
    """All stages of a cache, each behind those that it reads."""
    stages = {key: cache.stage(key) for key in cache.stage_keys()}
    return {key: stages[key] for key in in_order(stages)}

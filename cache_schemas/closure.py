"""Follows the dependencies between stages. A stage reads another stage if its rows are made from rows of that stage:
`regions/i3d` reads `features/i3d`. Failures, changed files and requested work spread along these dependencies.

The attribute `reads` of a stage has the keys of the stages that it reads directly. The parameter `stages` is {stage
key: stage}, in which every stage comes after the stages that it reads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.fingerprint import Options, fingerprint
from kinegraph.cache_schemas.stage import Stage


def with_readers(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns `keys` and the keys of all stages that are made from these stages, directly or through other stages. For
    example, `features/i3d` adds `regions/i3d`.

    `stages` maps stage keys to stages. Each stage comes after the stages that it reads. The result has the order of
    `stages`.
    """
    chosen = {*keys}
    for key, stage in stages.items():
        if stage.reads.keys() & chosen:
            chosen.add(key)
    return [key for key in stages if key in chosen]


def with_read(stages: Mapping[str, Stage], keys: Iterable[str]) -> list[str]:
    """Returns `keys` and the keys of all stages that these stages are made from, directly or through other stages. For
    example, `regions/i3d` adds `features/i3d`.

    `stages` maps stage keys to stages. Each stage comes after the stages that it reads. The result has the order of
    `stages`.
    """
    chosen = {*keys}
    for key in reversed([*stages]):
        if key in chosen:
            chosen |= stages[key].reads.keys()
    return [key for key in stages if key in chosen]


def stages_in_order(cache: Cache) -> dict[str, Stage]:
    """Returns key -> stage for all stages of a cache, sorted so that every stage comes after the stages that it
    reads.
    """
    left = {key: cache.stage(key) for key in cache.stage_keys()}
    ordered: dict[str, Stage] = {}
    while left:
        free = (key for key, stage in left.items() if not stage.reads.keys() & left.keys() - {key})
        key = next(free, next(iter(left)))  # only damaged documents can contain a circle
        ordered[key] = left.pop(key)
    return ordered


def features_fingerprint(cache: Cache, arrays: Sequence[str], *, before_upgrade: bool = False) -> str:
    """Returns one digest of all options that change the values of `arrays`, which are names of arrays. Two caches with
    equal digests have equal values for equal videos.

    If `before_upgrade` is true, returns the digest that the arrays had before the cache was upgraded.
    """
    stages = [cache.stage(key) for key in {cache.array(name).stage for name in arrays}]
    first = {stage.key: stage.upgraded_from for stage in stages if before_upgrade and stage.upgraded_from}
    return fingerprint({stage.key: stage.fingerprint for stage in stages} | first)


def features_options(cache: Cache, arrays: Sequence[str]) -> dict[str, Options]:
    """Returns stage key -> options of the stage. The result has all stages of `cache` from which the arrays named in
    `arrays` were made, directly or through other stages.
    """
    return options_behind([cache.array(name).stage for name in arrays], cache.stage)


def options_behind(keys: Sequence[str], stage_of: Callable[[str], Stage]) -> dict[str, Options]:
    """Returns stage key -> options of the stage, for the stages `keys` and all stages that they read, directly or
    through other stages. The option `reads`, which has the fingerprints of other stages, is left out.

    `stage_of` is a function that returns the Stage of a key.
    """
    options_of: dict[str, Options] = {}
    wanted = [*keys]
    while wanted:
        stage = stage_of(wanted.pop())
        wanted += stage.reads
        options_of[stage.key] = {name: value for name, value in stage.options.items() if name != "reads"}
    return options_of

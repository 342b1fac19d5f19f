"""Makes the stages that a config asks for, and says which stages run together and in which order. Imports no torch.

A key is a stage key, such as `features/i3d`. A work unit is one shard with the keys to compute for it. A stage may pass
arrays in memory to other stages of the same work unit. The cache need not store these arrays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from kinegraph.cache_schemas import closure
from kinegraph.cache_schemas.arrays import CLIPS, ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.fingerprint import Options, fingerprint
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.decode.wanted import Wanted
from kinegraph.stages.kinds import KINDS, kind_of
from kinegraph.stages.recipe import Recipe

MAX_OBJECT_BYTES = 256 * 2**20
MAX_SHARD_CLIPS = 64
UNKNOWN = "unknown until the network is built"

Digests = Mapping[str, str]  # stage key -> sha256 of its weights


@dataclass(frozen=True)
class Declared:
    """The stages that a config asks for."""

    recipe: Recipe  # the config
    stages: dict[str, Stage]  # stage key -> stage. Each stage comes after the stages that it reads.
    # The keys of the stages that `kinegraph import` made. They are read from the cache and never computed.
    imported: frozenset[str] = frozenset()

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        return tuple(spec for stage in self.stages.values() for spec in stage.arrays)

    def known(self, key: str) -> bool:
        """Returns whether the fingerprint of the stage `key` is known. The fingerprint covers the digests of the
        weights of this stage and of all stages that it reads.

        If a digest of weights is not known, the networks must be built first.
        """
        stage = self.stages[key]
        return stage.options.get("weights_sha256") != UNKNOWN and all(self.known(read) for read in stage.reads)

    def with_read(self, keys: Iterable[str]) -> list[str]:
        """Returns `keys` and the keys of all stages from which the stages `keys` are made, directly or through other
        stages. For example, `regions/i3d` adds `features/i3d`, `proposals` and `clips`. The result has the order of
        `stages`.
        """
        return closure.with_read(self.stages, keys)

    def with_readers(self, keys: Iterable[str]) -> list[str]:
        """Returns `keys` and the keys of all stages that are made from the stages `keys`, directly or through other
        stages. For example, `features/i3d` adds `regions/i3d`. The result has the order of `stages`.
        """
        return closure.with_readers(self.stages, keys)

    def handed_on(self, key: str) -> tuple[str, ...]:
        """Returns the names of the arrays that the stage `key` passes in memory to the stages that read it. The result
        may be empty.
        """
        return () if key in self.imported else kind_of(key).handed_on(self.recipe, key)

    def running(self, keys: Iterable[str], is_sealed: Callable[[str], bool]) -> list[str]:
        """Returns the keys of all stages that run in one work unit, in the order in which they run. `keys` are the
        stages that the unit has to write for one shard.

        A stage may read arrays that another stage passes in memory, such as feature maps. If the cache lacks these
        arrays, the other stage runs, too. `is_sealed(key)` says whether the cache has the stage `key` for this shard.
        """
        needed = {*keys}
        for key in reversed(self.stages):
            if key in needed:
                needed |= {read for read in self.stages[key].reads if self._must_run(read, is_sealed)}
        lenders = [key for key in self.stages if key in needed and self.handed_on(key)]

        def last_lender(key: str) -> int:
            read = self.with_read([key])
            return max((number for number, lender in enumerate(lenders) if lender in read), default=-1)

        return sorted((key for key in self.stages if key in needed), key=last_lender)

    def _must_run(self, key: str, is_sealed: Callable[[str], bool]) -> bool:
        """Returns whether the stage `key` must run for a shard so that other stages can read its arrays. It must run if
        it passes arrays on in memory and the cache does not have these arrays for the shard.

        `is_sealed` is called with a stage key and returns whether the shard is sealed for this stage.
        """
        stored = {spec.name for spec in self.stages[key].arrays}
        handed_on = self.handed_on(key)
        return bool(handed_on) and not (stored.issuperset(handed_on) and is_sealed(key))

    def wanted(self, keys: Iterable[str]) -> Wanted | None:
        """Returns which frames and crops of a clip the stages `keys` need from the decoder. Returns None if they need
        none.
        """
        of_keys = (kind_of(key).wanted(self.recipe, key) for key in keys)
        return reduce(or_, found) if (found := [wanted for wanted in of_keys if wanted is not None]) else None

    def made(self, keys: Sequence[str]) -> tuple[dict[str, Options], str]:
        """Returns (options, fingerprint) of the stages `keys`, to compare them with a cache.

        The options are a dict: stage key -> options of the stage. The dict also has the stages that the stages `keys`
        read, directly or through other stages. The fingerprint is one digest of the fingerprints of the stages `keys`.
        """
        behind = closure.options_behind(keys, self.stages.__getitem__)
        return behind, fingerprint({key: self.stages[key].fingerprint for key in keys})

    def selected(self, names: tuple[str, ...]) -> list[str]:
        """Returns the stage keys that the option `--stage` selects. `names` are its values: keys such as
        `features/i3d`, or kinds such as `features`, which select all keys of the kind.

        If `names` is empty, returns all keys but `clips`. Imported stages cannot be selected. Raises ConfigError for a
        name that selects no key.
        """
        asked = [key for key in self.stages if key not in self.imported]
        if not names:
            return [key for key in asked if key != CLIPS]
        found: list[str] = []
        for name in names:
            keys = [key for key in asked if key == name or key.startswith(f"{name}/")]
            if not keys:
                raise ConfigError(f"--stage {name}: the config has {', '.join(asked)}")
            found += keys
        return [key for key in asked if key in found]


class _Stages(dict[str, Stage]):
    """A dict of stage key -> stage. If it lacks a key, it takes the stage from `cache`, if the cache has an imported
    stage with that key. Otherwise it raises ConfigError.
    """

    def __init__(self, cache: Cache | None) -> None:
        super().__init__()
        self.cache, self.imported, self.reader = cache, set[str](), ""

    def __missing__(self, key: str) -> Stage:
        if self.cache is None or not self.cache.has_stage(key) or not self.cache.stage(key).is_imported:
            raise ConfigError(f"{self.reader}: need a `{key}:` section, or imported {key} in the cache")
        self.imported.add(key)
        self[key] = self.cache.stage(key)
        return self[key]


def declare(recipe: Recipe, digests: Digests, cache: Cache | None = None) -> Declared:
    """Makes all stages that the config `recipe` asks for. Returns a `Declared`, which has the stages in their order.

    `digests` maps stage keys to the sha256 of their weights, which become part of the stages' fingerprints. A stage may
    read stages that were imported into `cache`. Raises ConfigError if a stage reads a stage that neither `recipe` nor
    `cache` has.
    """
    stages = _Stages(cache)
    for kind in KINDS.values():
        for key in kind.keys(recipe):
            stages.reader = kind.section(key)
            stages[key] = kind.declare(recipe, key, stages, digests.get(key, UNKNOWN))
    return Declared(recipe, {**stages}, frozenset(stages.imported))


def known_digests(recipe: Recipe, cache: Cache) -> dict[str, str]:
    """Returns stage key -> sha256 of the weights of the stage, as the cache has recorded it. So the fingerprints of the
    stages can be computed without loading networks.

    A stage is left out if its option `weights` differs between `recipe` and the cache.
    """
    found = {}
    for key, stage in declare(recipe, {}, cache).stages.items():
        if stage.weights and cache.has_stage(key) and cache.stage(key).weights == stage.weights:
            found[key] = str(cache.stage(key).options["weights_sha256"])
    return found


def rows_that_fit(arrays: Iterable[ArraySpec]) -> int:
    """Returns how many rows a shard may have so that the rows of each of `arrays` take at most 256 MiB. The result is
    at least 1 and at most 64.
    """
    largest = max(spec.row_bytes for spec in arrays)
    return max(1, min(MAX_SHARD_CLIPS, MAX_OBJECT_BYTES // largest))


def auto_shard_clips(config: Config, cache: Cache | None = None) -> int:
    """Returns the number of rows per shard for a new cache: `store.shard_clips` of `config`, if it is a number.

    If it is `auto`, the result is the largest number, at most 64, with which no array has more than 256 MiB per shard.
    The number is rounded down to whole videos if possible: with 10 rows per video, 64 becomes 60. Stages that were
    imported into `cache` count, too.
    """
    if config.store.shard_clips != "auto":
        return config.store.shard_clips
    limit = rows_that_fit(declare(config, {}, cache).arrays)
    rows = config.clips.rows_per_video
    return limit - limit % rows if limit >= rows else limit

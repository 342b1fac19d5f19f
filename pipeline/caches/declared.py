"""Declares the stages of a recipe, and says which keys run together and in which order. Torch-free."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from kinegraph.cache_schemas import closure
from kinegraph.cache_schemas.arrays import CLIPS, ArraySpec
from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.cache_schemas.fingerprint import Options, fingerprint
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
    """The stages that a recipe asks for, by key. Each stage follows the stages that it reads.

    `imported` names the stages that others read and that the recipe does not ask for. They lie in the cache and are
    only read.
    """

    recipe: Recipe
    stages: dict[str, Stage]
    imported: frozenset[str] = frozenset()

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        return tuple(spec for stage in self.stages.values() for spec in stage.arrays)

    def known(self, key: str) -> bool:
        """Returns whether all digests in the fingerprint of `key` are known. If not, networks must be built first."""
        stage = self.stages[key]
        return stage.options.get("weights_sha256") != UNKNOWN and all(self.known(read) for read in stage.reads)

    def with_read(self, keys: Iterable[str]) -> list[str]:
        """Returns the keys and all keys that they read, in order."""
        return closure.with_read(self.stages, keys)

    def with_readers(self, keys: Iterable[str]) -> list[str]:
        """Returns the keys and all keys that read them, in order."""
        return closure.with_readers(self.stages, keys)

    def handed_on(self, key: str) -> tuple[str, ...]:
        """Returns the arrays that the readers of `key` get in the same unit, stored or not."""
        return () if key in self.imported else kind_of(key).handed_on(self.recipe, key)

    def running(self, keys: Iterable[str], is_sealed: Callable[[str], bool]) -> list[str]:
        """Returns all keys that run in a unit that writes `keys`, in the order in which they run.

        `is_sealed` says whether the unit's shard is sealed for a key. A key that hands arrays on also runs for its
        readers, unless the cache stores these arrays and the shard is sealed.

        Keys that hand nothing on run first. The readers of a key that hands arrays on follow it directly, so that maps
        of two backbones are never in memory together.
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
        """Returns whether the key hands arrays on that its readers cannot find in the cache."""
        stored = {spec.name for spec in self.stages[key].arrays}
        handed_on = self.handed_on(key)
        return bool(handed_on) and not (stored.issuperset(handed_on) and is_sealed(key))

    def wanted(self, keys: Iterable[str]) -> Wanted | None:
        """Returns what keys that run together take of each clip, or None where nothing has to be decoded."""
        of_keys = (kind_of(key).wanted(self.recipe, key) for key in keys)
        return reduce(or_, found) if (found := [wanted for wanted in of_keys if wanted is not None]) else None

    def made(self, keys: Iterable[str]) -> tuple[dict[str, Options], str]:
        """Returns the options behind the arrays of `keys`, and their fingerprint, as the reader of a cache does."""
        behind = {key: self.stages[key].options for key in self.with_read(keys)}
        options: dict[str, Options] = {
            key: {name: it for name, it in of.items() if name != "reads"} for key, of in behind.items()
        }
        return options, fingerprint({key: self.stages[key].fingerprint for key in keys})

    def selected(self, names: tuple[str, ...]) -> list[str]:
        """Returns the keys that `--stage` names: keys, or kinds such as `features`. Without names, all but `clips`.

        Raises ConfigError for a name that selects nothing.
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
    """Stages by key. A stage that the recipe lacks is the imported one of `cache`, if there is one.

    Raises ConfigError for a stage that is neither.
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
    """Returns all stages of a recipe. The digests of weights enter their fingerprints.

    A stage may read what was imported into `cache`. Raises ConfigError for a stage that reads what there is not.
    """
    stages = _Stages(cache)
    for kind in KINDS.values():
        for key in kind.keys(recipe):
            stages.reader = kind.section(key)
            stages[key] = kind.declare(recipe, key, stages, digests.get(key, UNKNOWN))
    return Declared(recipe, {**stages}, frozenset(stages.imported))


def known_digests(recipe: Recipe, cache: Cache) -> dict[str, str]:
    """Returns the digests that the cache recorded for the same `weights:` words, so that plans need no network."""
    found = {}
    for key, stage in declare(recipe, {}, cache).stages.items():
        if stage.weights and cache.has_stage(key) and cache.stage(key).weights == stage.weights:
            found[key] = str(cache.stage(key).options["weights_sha256"])
    return found


def rows_that_fit(arrays: Iterable[ArraySpec]) -> int:
    """Returns how many rows a shard may have so that no object exceeds 256 MiB: 1 to 64."""
    largest = max(spec.row_bytes for spec in arrays)
    return max(1, min(MAX_SHARD_CLIPS, MAX_OBJECT_BYTES // largest))


def auto_shard_clips(config: Config, cache: Cache | None = None) -> int:
    """Returns the rows of a shard: the config's, or a multiple of the rows per video that `rows_that_fit` allows."""
    if config.store.shard_clips != "auto":
        return config.store.shard_clips
    limit = rows_that_fit(declare(config, {}, cache).arrays)
    rows = config.clips.rows_per_video
    return limit - limit % rows if limit >= rows else limit

"""From a config to what each stage key writes: arrays and fingerprinted options. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from kinegraph.cache_schemas.arrays import (
    ArraySpec,
    clip_arrays,
    feature_arrays,
    graph_arrays,
    proposal_arrays,
    region_arrays,
)
from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.cache_schemas.fingerprint import Options
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import own_pixels, pixels_of
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.options import InteractionsOptions
from kinegraph.stages.decode.clips import VERSION as CLIPS_VERSION
from kinegraph.stages.generated.interactions import GENERATOR_VERSION
from kinegraph.stages.scene_graphs.options import GraphOptions
from kinegraph.stages.versions import FEATURES_VERSION, GRAPHS_VERSION, PROPOSALS_VERSION, REGIONS_VERSION

MAX_OBJECT_BYTES = 256 * 2**20
MAX_SHARD_CLIPS = 64
UNKNOWN = "unknown until the network is built"
NOT_AS_GIVEN = {  # of a backbone entry: what is recorded as it is used
    "weights",
    "options",
    "mean",
    "std",
    "channel_order",
    "size",
    "resize_short",
    "resize",
}

Digests = Mapping[str, str]  # "features/<backbone>" or "proposals" -> sha256 of its weights


@dataclass(frozen=True)
class Declared:
    """The stages a config asks for, by key, in the order in which they can run."""

    stages: dict[str, Stage]

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        return tuple(spec for stage in self.stages.values() for spec in stage.arrays)

    def known(self, key: str) -> bool:
        """Whether all digests in the fingerprint of `key` are known; else its network has to be built first."""
        options = self.stages[key].options
        return options.get("weights_sha256") != UNKNOWN and all(self.known(read) for read in options.get("reads", {}))

    def with_read(self, keys: Iterable[str]) -> list[str]:
        """The keys and all that they read, in order."""
        found = {*keys}
        for key in reversed(self.stages):
            if key in found:
                found |= self.stages[key].options.get("reads", {}).keys()
        return [key for key in self.stages if key in found]

    def selected(self, names: tuple[str, ...]) -> list[str]:
        """Keys that `--stage` names: a key, or a kind such as `features` for all of them; none means all.

        Raises ConfigError for a name that selects nothing.
        """
        if not names:
            return [key for key in self.stages if key != "clips"]
        found: list[str] = []
        for name in names:
            keys = [key for key in self.stages if key == name or key.startswith(f"{name}/")]
            if not keys:
                raise ConfigError(f"--stage {name}: the config has {', '.join(self.stages)}")
            found += keys
        return [key for key in self.stages if key in found]


def clips_options(options: ClipOptions) -> Options:
    """What of the clip options changes rows and frame times."""
    found = options.model_dump(mode="json")
    if options.sampling == "uniform" and not options.by_number:
        del found["fps"]
    if options.frame_step == 1:
        del found["frame_step"]
    return found | {"version": CLIPS_VERSION}


def declare(config: Config, digests: Digests) -> Declared:
    """All stages of a config; `digests` of weights enter their fingerprints."""
    stages = list(_stages(config, digests))
    return Declared({stage.key: stage for stage in stages})


def _stages(config: Config, digests: Digests) -> Iterator[Stage]:
    clips = Stage(key="clips", options=clips_options(config.clips), arrays=clip_arrays(config.clips.num_frames))
    yield clips
    features = {}
    for name, options in config.backbones.items():
        features[name] = _features(config, name, options, clips, digests.get(f"features/{name}", UNKNOWN))
        yield features[name]
    if config.proposals is not None:
        proposals = _proposals(config, clips, digests.get("proposals", UNKNOWN))
        yield proposals
        for name in config.regions.backbones if config.regions else ():
            yield _regions(config, name, features[name], proposals)
    if config.graphs is not None:
        yield _graphs(config, config.graphs, clips)


def _features(config: Config, name: str, options: BackboneOptions, clips: Stage, digest: str) -> Stage:
    arrays: list[ArraySpec] = []
    for tap in options.taps:
        shape = config.tap_of(name, tap).shape(config.clips.num_frames // options.every, config.size_of(name))
        step = config.frame_step_of(name, tap)
        arrays += feature_arrays(name, tap, shape, step, options.store, options.storage_dtype)
    recorded = options.model_dump(mode="json", exclude=NOT_AS_GIVEN)
    known = config.entry_of(name)
    if known.chosen:
        recorded["options"] = dict(known.chosen)
    if (pixels := pixels_of(options)) != own_pixels(known):
        recorded["pixels"] = asdict(pixels) | {"mean": [*pixels.mean], "std": [*pixels.std]}
    recorded |= config.framing_of(name).options
    recorded |= {
        "weights_sha256": digest,
        "version": FEATURES_VERSION,
        "reads": {"clips": clips.fingerprint},
    }
    return Stage(key=f"features/{name}", options=recorded, arrays=tuple(arrays), weights=options.weights)


def _proposals(config: Config, clips: Stage, digest: str) -> Stage:
    options = config.proposals
    assert options is not None
    recorded = options.recorded() | {"version": PROPOSALS_VERSION, "reads": {"clips": clips.fingerprint}}
    if options.weights_word:
        recorded["weights_sha256"] = digest
    arrays = proposal_arrays(config.clips.num_frames // options.every, options.top, options.every)
    return Stage(key="proposals", options=recorded, arrays=arrays, weights=options.weights_word)


def _regions(config: Config, name: str, features: Stage, proposals: Stage) -> Stage:
    options = config.regions
    assert options is not None
    assert config.proposals is not None
    arrays: list[ArraySpec] = []
    for tap in config.backbones[name].taps:
        step = config.frame_step_of(name, tap)
        shape = (config.clips.num_frames // step, config.proposals.top, config.tap_of(name, tap).channels)
        arrays += region_arrays(name, tap, shape, step, options.storage_dtype, options.size if options.grid else None)
    recorded = options.recorded() | {
        "version": REGIONS_VERSION,
        "reads": {features.key: features.fingerprint, "proposals": proposals.fingerprint},
    }
    return Stage(key=f"regions/{name}", options=recorded, arrays=tuple(arrays))


def _graphs(config: Config, options: GraphOptions, clips: Stage) -> Stage:
    recorded = options.recorded() | {"version": GRAPHS_VERSION, "reads": {"clips": clips.fingerprint}}
    if isinstance(config.dataset, InteractionsOptions) and options.source == "interactions":
        recorded |= {"seed": config.dataset.seed, "generator": GENERATOR_VERSION}
    arrays = graph_arrays(options.shape(config.clips.num_frames), options.frame_step)
    return Stage(key="graphs", options=recorded, arrays=arrays)


def known_digests(config: Config, cache: Cache) -> dict[str, str]:
    """Digests the cache recorded for the same `weights:` words, so that plans need no network."""
    found = {}
    for key, stage in declare(config, {}).stages.items():
        if stage.weights and cache.has_stage(key) and cache.stage(key).weights == stage.weights:
            found[key] = str(cache.stage(key).options["weights_sha256"])
    return found


def rows_that_fit(arrays: Iterable[ArraySpec]) -> int:
    """How many rows a shard may have, up to 64, so that no object exceeds 256 MiB; at least 1."""
    largest = max(spec.row_bytes for spec in arrays)
    return max(1, min(MAX_SHARD_CLIPS, MAX_OBJECT_BYTES // largest))


def auto_shard_clips(config: Config) -> int:
    """The largest multiple of rows per video up to 64 for which no object exceeds 256 MiB; at least 1."""
    if config.store.shard_clips != "auto":
        return config.store.shard_clips
    limit = rows_that_fit(declare(config, {}).arrays)
    rows = config.clips.rows_per_video
    return limit - limit % rows if limit >= rows else limit

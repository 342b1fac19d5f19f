"""What is worth a word and no error. Torch-free.

A config's clips and networks are not those that its weights were trained on, or a cache has more files than HDF5 opens.
"""

from collections.abc import Iterator

from cache_schemas.cache import Cache
from cache_schemas.errors import open_files_limit
from pipeline.config import Config
from stages.weights.sources import Sampling, known_source

FAR = 2.0  # times more or less


def advice(config: Config) -> list[str]:
    """Sentences about backbone entries whose known weights saw quite other clips or sizes, or another network."""
    return [sentence for name in config.backbones for sentence in _of_backbone(config, name)]


def open_files_advice(cache: Cache) -> list[str]:
    """A sentence where data.h5 joins more files than this process may open."""
    limit = open_files_limit()
    if cache.manifest["store"]["kind"] != "hdf5" or cache.num_shards < limit:
        return []
    return [
        f"{cache.root}/data.h5 joins {cache.num_shards} shard files, and a process may open {limit} files (ulimit -n). "
        "kinegraph reads them all. Plain h5py reads fill values (NaN) for each file that it cannot open, without an "
        "error. Before you read data.h5 with h5py, raise the limit (ulimit -n $(ulimit -Hn)). Or give a new cache "
        "larger shards (store.shard_clips), or copy this one with `kinegraph export CACHE OUT --to zarr`."
    ]


def _of_backbone(config: Config, name: str) -> Iterator[str]:
    options = config.backbones[name]
    known = config.entry_of(name)
    source = known_source(options.weights, known.weights)
    if source is None:
        return
    fps = None if config.clips.sampling == "uniform" else config.clips.fps / options.every
    given, trained = Sampling(num_frames=config.clips.num_frames // options.every, fps=fps), source.sampling
    title = f"backbones.{name}: {source.file_name} was trained"
    if trained is not None and _differ(given, trained):
        yield f"{title} on {trained}, here it gets {given} (clips.num_frames, clips.fps, every)"
    side = config.size_of(name)
    if source.crop_px is not None and _far(side, source.crop_px):
        yield f"{title} on about {source.crop_px} px, here it gets {side} px (size)"
    here = {key: values[0] for key, values in known.options.items()} | dict(known.chosen)
    if others := [f"{key} {was} (here {here[key]})" for key, was in source.geometry.items() if here[key] != was]:
        yield f"{title} with {', '.join(others)} (options)"


def _differ(given: Sampling, trained: Sampling) -> bool:
    if _far(given.num_frames, trained.num_frames) or (given.fps is None) != (trained.fps is None):
        return True
    return given.fps is not None and trained.fps is not None and _far(given.fps, trained.fps)


def _far(given: float, trained: float) -> bool:
    return max(given / trained, trained / given) >= FAR

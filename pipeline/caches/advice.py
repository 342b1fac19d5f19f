"""Writes advice about a config or a cache that works but may not be what the user wants. Torch-free.

The advice is about clips or options that differ from those of the training of the weights, about random weights, and
about a cache with more files than one process may open.
"""

from collections.abc import Iterator, Sequence

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_options
from kinegraph.cache_schemas.crops import FULL, base_of
from kinegraph.cache_schemas.errors import open_files_limit
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import Config
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.weights.sources import Sampling, is_random, known_source

FAR = 2.0  # times more or less


def advice(config: Config) -> list[str]:
    """Returns one sentence for each way in which a backbone of `config` is used differently from the training of its
    weights, for example with clips of 8 frames in place of 32.

    For numbers of frames, frame rates and frame sizes, only a factor of 2 or more counts as a difference.
    """
    return [sentence for name in config.backbones for sentence in _of_backbone(config, name)]


def open_files_advice(cache: Cache) -> list[str]:
    """Returns a list with one sentence if an HDF5 cache has more shard files than this process may open at a time.
    Returns [] otherwise.

    The advice is for users who read data.h5 with h5py. data.h5 joins all shard files, and h5py silently returns fill
    values for a shard file that it cannot open.
    """
    limit = open_files_limit()
    if cache.manifest["store"]["kind"] != "hdf5" or cache.num_shards < limit:
        return []
    return [
        f"{cache.root}/data.h5 joins {counted(cache.num_shards, 'shard file')}, and a process may open {limit} "
        "files (ulimit -n). kinegraph reads them all. Plain h5py reads fill values (NaN) for each file that it cannot "
        "open, without an error. Before you read data.h5 with h5py, raise the limit (ulimit -n $(ulimit -Hn)). Or give "
        "a new cache larger shards (store.shard_clips), or copy this one with `kinegraph export CACHE OUT --to zarr`."
    ]


def random_weights_advice(names: Sequence[str]) -> list[str]:
    """Returns a list with one sentence about random weights. `names` are the config sections or stage keys with random
    weights. Returns [] if `names` is empty.
    """
    if not names:
        return []
    return [
        f"random weights: {', '.join(names)}. Features and boxes of random networks tell little of a video, and scores "
        "on them show little. For others name weights that `kinegraph models` lists, or a file, and a new `cache:`."
    ]


def random_in_config(config: Config, cache: Cache | None = None) -> list[str]:
    """Returns the names of the sections of `config` that have random weights, for example "backbones.i3d" or
    "proposals".

    `cache` is needed only if the config reads stages that were imported into this cache.
    """
    stages = declare(config, {}, cache).stages
    return [kind_of(key).section(key) for key, stage in stages.items() if is_random(stage.weights)]


def random_in_cache(cache: Cache, arrays: Sequence[str] | None = None) -> list[str]:
    """Returns the keys of the stages of `cache` whose networks have random weights.

    `arrays` are names of arrays. If they are given, only the stages from which these arrays were made are checked.
    """
    keys = cache.stage_keys() if arrays is None else sorted(features_options(cache, arrays))
    return [key for key in keys if is_random(cache.stage(key).weights)]


def _of_backbone(config: Config, name: str) -> Iterator[str]:
    options = config.backbones[name]
    entry = config.entry_of(name)
    yield from (f"backbones.{name}: {remark}" for remark in entry.remarks)
    source = known_source(options.weights, entry.weights)
    if source is None:
        return
    given, trained = _sampling(config.clips, options.every), source.sampling
    if source.resize is not None and source.short_side_px is None and {*map(base_of, config.clips.crops)} != {FULL}:
        yield (
            f"backbones.{name}: {source.file_name} was tested on whole frames, squeezed into a square. Set clips.crops "
            "to [full] to do the same"
        )
    title = f"backbones.{name}: {source.file_name} was trained"
    if given is not None and trained is not None and _differ(given, trained):
        yield f"{title} on {trained}, here it gets {given} (clips.num_frames, clips.fps, every)"
    side = config.size_of(name)
    if source.crop_px is not None and _far(side, source.crop_px):
        yield f"{title} on about {source.crop_px} px, here it gets {side} px (size)"
    here = {key: values[0] for key, values in entry.options.items()} | dict(entry.chosen)
    if others := [f"{key} {was} (here {here[key]})" for key, was in source.geometry.items() if here[key] != was]:
        yield f"{title} with {', '.join(others)} (options)"


def _sampling(clips: ClipOptions, every: int) -> Sampling | None:
    """Returns how many frames of a clip a network gets, and the rate of these frames in frames per second, as a
    Sampling. The network gets every `every`-th frame of the clip.

    The rate is None if the frames are spread evenly over the clip. Returns None if the rate depends on the video.
    """
    if clips.is_annotated or (clips.sampling != "uniform" and isinstance(clips.fps, str)):
        return None
    fps = None if clips.sampling == "uniform" or isinstance(clips.fps, str) else clips.fps / every
    return Sampling(num_frames=clips.num_frames // every, fps=fps)


def _differ(given: Sampling, trained: Sampling) -> bool:
    if _far(given.num_frames, trained.num_frames) or (given.fps is None) != (trained.fps is None):
        return True
    return given.fps is not None and trained.fps is not None and _far(given.fps, trained.fps)


def _far(given: float, trained: float) -> bool:
    return max(given / trained, trained / given) >= FAR

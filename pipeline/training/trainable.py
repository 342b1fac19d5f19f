"""Checks, before any training, whether heads can be trained on a cache."""

import logging
from collections.abc import Iterable, Sequence

import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.advice import random_in_cache, random_weights_advice
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.indexed_dataset import check_for_training
from kinegraph.pipeline.clusters.wanted_run import WantedRun
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.training.samples import require_sequences
from kinegraph.pipeline.training.tails import require_whole_maps, with_tail_of
from kinegraph.stages.heads.build import build_head, rebuild_head
from kinegraph.stages.heads.candidates import candidates_of
from kinegraph.stages.heads.head import Head, HeadError, Spec, spec_of_videos
from kinegraph.stages.heads.own import OwnHead
from kinegraph.stages.heads.tail import parse_tail, tail_source
from kinegraph.stages.training import together
from kinegraph.stages.training.candidates import require_choice
from kinegraph.stages.training.options import TrainOptions

USUAL = TrainOptions()
log = logging.getLogger("kinegraph")


def require_trainable(config: Config, wanted: Sequence[WantedRun], *, overwrite: bool = False) -> dict[str, int]:
    """Raises an error if a run in `wanted` cannot be trained. Returns {name of a run: number of parameters of its
    head}. Logs which arrays come from random weights.

    Raises ConfigError if the cache has no labels or the options contradict each other. Raises UsageError if a head with
    several candidates has no validation split. Raises CacheMismatch if the cache was made from another data set, and
    CacheError if it cannot be read. Raises HeadError if a head cannot be built on the arrays of the cache. If
    `overwrite` is true, so that old runs would be lost, raises CacheError also if a training or validation split has no
    clip.
    """
    cache = Cache(config.cache)
    for sentence in check_for_training(config, cache):
        if together.rank() == 0:
            log.warning("%s", sentence)
    if not cache.classes:
        raise ConfigError(
            f"{config.cache} has no labels to train on: put the videos into class folders, or name a csv with the "
            "columns path,label,split in dataset.annotations, and run `kinegraph index` again; imported features get "
            "theirs by `kinegraph import ... --annotations CSV`"
        )
    reads: set[str] = set()
    num_parameters: dict[str, int] = {}
    for run in {run.name: run for run in wanted}.values():
        options = run.options
        if options.patience and options.val_split is None:  # not an error of the options: records of old runs have it
            raise ConfigError(
                f"{run.name}: train.patience: given {options.patience}, allowed: null, without a val_split"
            )
        require_sequences(cache, options)
        try:
            head = build_for(cache, options, run.code)
        except HeadError as error:
            raise HeadError(f"{run.name}: {_in_view_of(config, cache, run, error)}") from error
        require_choice(head, options)
        num_parameters[run.name] = sum(parameter.numel() for parameter in head.parameters())
        unused = [key for key in ("learning_rate", "weight_decay") if getattr(options, key) != getattr(USUAL, key)]
        if candidates_of(head) and unused and together.rank() == 0:
            log.warning(
                "%s: train.%s: no effect, because the options `learning_rates` and `weight_decays` of %s hold",
                run.name, " and train.".join(unused), head.name,
            )  # fmt: skip
        reads.update(head.reads)
        for split in (options.train_split, options.val_split):
            if overwrite and split is not None:
                CachedClips(cache, head.reads, split)
    if together.rank() == 0:
        for sentence in random_weights_advice(random_in_cache(cache, sorted(reads))):
            log.warning("%s", sentence)
    return num_parameters


def _in_view_of(config: Config, cache: Cache, run: WantedRun, error: HeadError) -> str:
    """Returns the error message for the head of `run`, which cannot be built on the arrays of `cache`. `error` is the
    error of the attempt.

    The arrays may be missing only because they are not extracted yet. So the head is built once more, on all arrays
    that `config` will make. If this succeeds, the message names the arrays to extract. If it fails for another reason,
    the message has that reason.
    """
    cached, declared = spec_of(cache), declare(config, {}, cache).stages.values()
    spec = spec_of(cache, declared)
    if cached.keys() == spec.keys():
        return str(error)
    try:
        reads = _reads(spec, len(cache.classes), run)
    except HeadError as other:
        if str(other) == str(error):
            return str(error)
        later = ", ".join(name for name in spec if name not in cached)
        return f"{other} Of these arrays the cache does not have yet: {later}. `kinegraph extract CONFIG` makes them."
    absent = ", ".join(name for name in reads if name not in cached)
    return f"not extracted yet: {cache.root} lacks {absent}, which the config asks for. Run `kinegraph extract CONFIG`."


def _reads(spec: Spec, num_classes: int, run: WantedRun) -> tuple[str, ...]:
    """Returns the names of the arrays that the head of `run` would read. `spec` maps array names to shapes of one clip.

    Raises HeadError if the head cannot be built on these arrays.
    """
    options = run.options
    if (tail := parse_tail(options.options)) is not None:
        return (tail_source(spec, tail).maps,)
    name = options.head if run.code is None else OwnHead.of(options.head, run.code)
    with torch.random.fork_rng([]):
        return rebuild_head(name, sample_spec(spec, options), num_classes, options.options).reads


def build_for(cache: Cache, options: TrainOptions, code: str | None = None) -> Head:
    """Builds the head that `options` describe for the arrays of `cache`, and returns the head with initial weights. A
    tail (the last layers of a backbone) has the weights of the backbone.

    `code` is the Python source of a user's own head. Raises HeadError if the head cannot be built on these arrays.
    """
    spec = spec_of(cache)
    name = options.head if code is None else OwnHead.of(options.head, code)
    head = build_head(
        name, sample_spec(spec, options), len(cache.classes), **with_tail_of(cache, spec, options.options)
    )
    require_whole_maps(cache, head)
    return head


def sample_spec(spec: Spec, options: TrainOptions) -> Spec:
    """Returns a dict {array name: shape of one sample of a training}. A sample is a clip, or a whole video if
    `options.over` is "videos". `spec` has the shapes of one clip.
    """
    return spec_of_videos(spec) if options.over == "videos" else spec


def spec_of(cache: Cache, planned: Iterable[Stage] = ()) -> dict[str, tuple[int, ...]]:
    """Returns a dict {array name: shape of one clip} of all arrays that a head can read: the arrays in `cache`, and the
    arrays of the stages `planned`, which need not be extracted yet.
    """
    return {name: array.shape for name, array in cache.readable(planned).items()}

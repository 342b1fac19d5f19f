"""kinegraph: extract video features once, train graph heads on them in minutes. The public Python API.

    import kinegraph

    config = kinegraph.load_config("config.yaml", ["run.workers=2"])
    cache = kinegraph.open_cache(config.cache)
    clips = kinegraph.CachedClips(cache, ["regions/i3d/res5", "proposals/count"], split="train")
    runs = kinegraph.train(config, seeds=3)
    scores = kinegraph.evaluate(runs[0].folder).result.metrics
    batch = clips.batch([0, 1, 2])  # one dict of tensors [3, ...]
    loader = torch.utils.data.DataLoader(clips, batch_size=8)  # batches of the same form

    kinegraph.probe("video.mp4").duration
    (frames,) = kinegraph.decode("video.mp4", times=[0.0, 0.5, 1.0])

Other names are internal. A name is imported when it is first used. `train`, `evaluate`, `build_head`,
`build_backbone`, `metrics`, `Head` and `HeadOptions` import torch. The others import no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kinegraph.cache_schemas.cache import Cache, open_cache
    from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
    from kinegraph.cache_schemas.reader import CachedClips
    from kinegraph.pipeline.caches.decoding import Frames, VideoFacts, decode, probe
    from kinegraph.pipeline.caches.verification import Verification, verify
    from kinegraph.pipeline.config import Config, load_config
    from kinegraph.pipeline.errors import ConfigError
    from kinegraph.pipeline.predicting import Predictor
    from kinegraph.pipeline.training.scoring import RunScores
    from kinegraph.pipeline.training.table import TrainedRun
    from kinegraph.stages.backbones.backbone import Backbone
    from kinegraph.stages.decode.errors import DecodeError
    from kinegraph.stages.heads.head import Head, HeadOptions, Spec
    from kinegraph.stages.training import metrics

__all__ = [
    "Cache",
    "CacheError",
    "CacheMismatch",
    "CacheNotFound",
    "CachedClips",
    "Config",
    "ConfigError",
    "DecodeError",
    "Frames",
    "Head",
    "HeadOptions",
    "Verification",
    "VideoFacts",
    "build_backbone",
    "build_head",
    "decode",
    "evaluate",
    "load_config",
    "load_run",
    "metrics",
    "open_cache",
    "probe",
    "train",
    "verify",
]

_MODULES = {
    "cache_schemas.cache": ("Cache", "open_cache"),
    "cache_schemas.errors": ("CacheError", "CacheMismatch", "CacheNotFound"),
    "cache_schemas.reader": ("CachedClips",),
    "pipeline.config": ("Config", "load_config"),
    "pipeline.caches.decoding": ("Frames", "VideoFacts", "decode", "probe"),
    "pipeline.errors": ("ConfigError",),
    "pipeline.caches.verification": ("Verification", "verify"),
    "stages.decode.errors": ("DecodeError",),
    "stages.heads.head": ("Head", "HeadOptions"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Returns the object with the public name `name`, and imports its module if it was not imported before.

    The command and the workers import this package and need few of the names. Raises AttributeError for a name that is
    not public.
    """
    if name == "metrics":
        return importlib.import_module("kinegraph.stages.training.metrics")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'kinegraph' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"kinegraph.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__


def train(
    config: "Config", heads: "Sequence[str]" = (), seeds: int = 1, *, overwrite: bool = False
) -> "list[TrainedRun]":
    """Trains heads on this machine, as `kinegraph train` does.

    `heads` are names of heads or of variants of the config. Without names the config's head is trained. Each head is
    trained with `seeds` seeds, from `train.seed` on. One run goes to the folder `train.run`, several runs to
    `<train.run>/<name>/seed<k>`. A run that was stopped continues. `overwrite` discards runs that exist.

    Returns a list of runs, each with `folder`, `results` (the content of results.json) and `kept` (whether the run was
    finished before). Raises ConfigError, CacheError or HeadError for a config, cache or head that cannot be used,
    RunExists if all runs are finished, and RunsDiverged at the end if some diverged.
    """
    from kinegraph.pipeline.training.table import train_runs

    return train_runs(config, heads, seeds, overwrite=overwrite)


def evaluate(
    run: "Path | str",
    cache: "Path | str | None" = None,
    split: str | None = None,
    overrides: "Sequence[str]" = (),
    *,
    allow_code: bool = False,
) -> "RunScores":
    """Scores a trained run, as `kinegraph evaluate` does.

    `run` is the folder of the run. `cache` and `split` replace the cache and the test split of the run. `overrides` are
    `section.key=value` for `train.aggregate`, `train.aggregate_of`, `train.batch_size` and `run.device`. The code of a
    head of your own runs only with `allow_code`.

    Returns the scores: `result.metrics` (by name), `per_class()`, `class_names`, `split` and `counts`. Scores on the
    run's own cache are also added to the run's results.json. Raises RunError if `run` is not the folder of a complete
    run or does not fit the cache, CacheError for a cache that cannot be used, and UsageError for a split without clips
    or an override that is not allowed.
    """
    from kinegraph.pipeline.training.scoring import evaluate_run

    return evaluate_run(run, cache, split, overrides, allow_code=allow_code)


def load_run(run: "Path | str", overrides: "Sequence[str]" = (), *, allow_code: bool = False) -> "Predictor":
    """Loads a trained run that scores videos, as `kinegraph predict` does.

    `run` is the folder of the run. `overrides` are `run.key=value`, as `run.device=cpu`. The code of a head of your own
    runs only with `allow_code`.

    Returns a predictor. Its `predict(videos)` yields one prediction per video with `scores` [num_classes],
    `probabilities` [num_classes], `clips` and `failure`. The scores are computed as `evaluate` computes them. The first
    call loads the networks, and the predictor keeps them. Raises RunError for a run that does not record how its
    features are made.
    """
    from kinegraph.pipeline.predicting import Predictor

    return Predictor(run, overrides=overrides, allow_code=allow_code)


def build_head(name: str, spec: "Spec", num_classes: int, **options: Any) -> "Head":
    """Builds a head with fresh weights from torch's global generator.

    `name` is one that `kinegraph models --heads` lists, or `file.py:Class` for a head of your own. `spec` maps array
    names to shapes of one clip, as `CachedClips.spec` does. `options` are options of the head.

    Returns the head, which maps the arrays of B clips to logits [B, num_classes]. Raises HeadError for a name or an
    option that does not exist, for a value that is not allowed, and for an array that is not in `spec`.
    """
    from kinegraph.stages.heads.build import build_head as build

    return build(name, spec, num_classes, **options)


def build_backbone(model: str, weights: str, taps: "Sequence[str]", **options: int | str) -> "Backbone":
    """Builds a frozen backbone in eval mode, on the CPU in float32, and cuts it above the highest of `taps`.

    `model`, `weights`, `taps` and `options` are as in the section `backbones` of a config. A tap is the name of a layer
    whose output is returned.

    Returns the backbone. It maps B clips of T frames with H rows and W columns of pixels, [B, 3, T, H, W], to a dict of
    tap -> map [B, C, T', H', W'] with C channels, T' time steps, H' rows and W' columns. Raises ValueError for a model,
    a tap or an option that does not exist, and WeightsError for weights that cannot be read or do not fit the model.
    """
    from kinegraph.stages.backbones.build import build_backbone as build

    return build(model, weights, taps, **options)

"""Extracts features of videos once, and trains graph heads on them in minutes. This package is the public Python API.

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

Names outside `__all__` are internal. A public name is imported when it is first used. The names `train`, `evaluate`,
`build_head`, `build_backbone`, `metrics`, `Head`, `HeadOptions` and `ClipGraph` import torch. The other public names do
not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kinegraph.cache_schemas.cache import Cache, open_cache
    from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
    from kinegraph.cache_schemas.reader import CachedClips
    from kinegraph.cache_schemas.sequences import VideoSequences
    from kinegraph.pipeline.caches.decoding import Frames, VideoFacts, decode, probe
    from kinegraph.pipeline.caches.verification import Verification, verify
    from kinegraph.pipeline.config import Config, load_config
    from kinegraph.pipeline.errors import ConfigError
    from kinegraph.pipeline.predicting.predictor import Predictor
    from kinegraph.pipeline.reports.frames import FramesMissingError
    from kinegraph.pipeline.reports.look import Look
    from kinegraph.pipeline.reports.nothing import NothingToShowError
    from kinegraph.pipeline.training.scoring import RunScores
    from kinegraph.pipeline.training.table import TrainedRun
    from kinegraph.stages.backbones.backbone import Backbone
    from kinegraph.stages.backbones.entry import Tokens
    from kinegraph.stages.decode.errors import DecodeError
    from kinegraph.stages.heads.clip_graphs import ClipGraph
    from kinegraph.stages.heads.head import Head, HeadOptions, Spec
    from kinegraph.stages.training import metrics

__all__ = [
    "Cache",
    "CacheError",
    "CacheMismatch",
    "CacheNotFound",
    "CachedClips",
    "ClipGraph",
    "Config",
    "ConfigError",
    "DecodeError",
    "Frames",
    "FramesMissingError",
    "Head",
    "HeadOptions",
    "Look",
    "NothingToShowError",
    "Verification",
    "VideoFacts",
    "VideoSequences",
    "build_backbone",
    "build_head",
    "decode",
    "evaluate",
    "load_config",
    "load_run",
    "look",
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
    "cache_schemas.sequences": ("VideoSequences",),
    "pipeline.config": ("Config", "load_config"),
    "pipeline.caches.decoding": ("Frames", "VideoFacts", "decode", "probe"),
    "pipeline.errors": ("ConfigError",),
    "pipeline.reports.frames": ("FramesMissingError",),
    "pipeline.reports.look": ("Look",),
    "pipeline.reports.nothing": ("NothingToShowError",),
    "pipeline.caches.verification": ("Verification", "verify"),
    "stages.decode.errors": ("DecodeError",),
    "stages.heads.clip_graphs": ("ClipGraph",),
    "stages.heads.head": ("Head", "HeadOptions"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Returns the public object with the name `name`, and imports its module if needed. Raises AttributeError for a
    name that is not public.
    """
    # Imports are late, because the command and its worker processes import this package and need few of the names.
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
    """Trains heads on the cache of `config` on this machine, as `kinegraph train` does. Returns one TrainedRun for each
    run, in a list. A run is one training of one head with one seed.

    - `heads`: names of heads, or names of entries of `train.variants` in the config. Default: the head of the config.
    - `seeds`: the number of seeds. Each head is trained with the seeds `train.seed`, `train.seed` + 1 and so on.
    - `overwrite`: discards existing runs and trains them again. By default a run that was stopped continues, and a
      finished run is kept.

    The folder of a single run is `train.run`. The folders of several runs are `<train.run>/<name>/seed<k>`. A
    TrainedRun has `folder`, `results` (the content of results.json) and `kept` (whether the run was finished before
    this call).

    Raises ConfigError, CacheError or HeadError for a config, cache or head that cannot be used. Raises RunExists if all
    runs were finished before, or if a finished run had other options or clips than `config`. Raises RunsDiverged at the
    end if some runs diverged.
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
    """Scores a trained run on one split of a cache, as `kinegraph evaluate` does. Returns the scores as RunScores.

    - `run`: the folder of the run.
    - `cache`: the path or URL of the cache. Default: the cache of the run.
    - `split`: the name of the split. Default: the test split of the run.
    - `overrides`: texts "section.key=value" that change the config. The keys `train.aggregate`, `train.aggregate_of`,
      `train.batch_size` and `run.device` are allowed.
    - `allow_code`: whether the code of your own head may run, if the run has one.

    A RunScores has `result.metrics` (metric name -> value), `per_class()` (class name -> score), `class_names`, `split`
    and `counts`. If `cache` is None and no override changes scores, two files of the run are written: the metrics are
    added to results.json, and the scores of all videos are written to `predictions-<split>.parquet`.

    Raises RunError if `run` is not the folder of a complete run, or if the run does not fit the cache. Raises
    CacheError for a cache that cannot be used. Raises UsageError for a split without clips or an override that is not
    allowed.
    """
    from kinegraph.pipeline.training.scoring import evaluate_run

    return evaluate_run(run, cache, split, overrides, allow_code=allow_code)


def load_run(run: "Path | str", overrides: "Sequence[str]" = (), *, allow_code: bool = False) -> "Predictor":
    """Loads a trained run that scores new videos, as `kinegraph predict` does. Returns a Predictor. The first call of
    its `predict` loads the networks.

    - `run`: the folder of the run.
    - `overrides`: texts "run.key=value" that change the config, for example "run.device=cpu".
    - `allow_code`: whether the code of your own head may run, if the run has one.

    `predict(videos)` yields one Prediction for each video. A Prediction has `scores` [num_classes], `probabilities`
    [num_classes], `clips` (the scores of each clip) and `failure`, the reason why a clip of the video failed, or "". If
    all clips failed, `scores` and `probabilities` are None. The scores are computed as in `evaluate`.

    Raises RunError if the run does not record how its features are made.
    """
    from kinegraph.pipeline.predicting.predictor import Predictor

    return Predictor(run, overrides=overrides, allow_code=allow_code)


def look(cache: "Cache | Path | str", videos: "Path | str | None" = None) -> "Look":
    """Returns a Look, an object whose methods draw figures of a cache: coverage, norms, boxes, frames and others.

    `cache` is a Cache, or the path or URL of a cache. `videos` is the folder of the videos, if they have moved since
    `kinegraph index`. The function imports matplotlib, which `pip install 'kinegraph[look]'` installs.

    Raises CacheError for a cache that cannot be read, and UsageError if a package is missing.
    """
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.stages.pictures.packages import require_look

    require_look()
    from kinegraph.pipeline.reports.look import Look

    return Look(cache if isinstance(cache, Cache) else Cache(cache), videos)


def build_head(name: str, spec: "Spec", num_classes: int, **options: Any) -> "Head":
    """Builds a head with random weights and returns it. The weights come from torch's global random generator.

    - `name`: a name that `kinegraph models --heads` lists, or "file.py:Class" for a head of your own.
    - `spec`: array name -> shape of one clip, for example `CachedClips.spec`.
    - `num_classes`: the number of classes.
    - `options`: the options of the head.

    The head maps the arrays of B clips to logits [B, num_classes]. Raises HeadError for a name or an option that does
    not exist, for a value that is not allowed, and for an array that is missing in `spec`.
    """
    from kinegraph.stages.heads.build import build_head as build

    return build(name, spec, num_classes, **options)


def build_backbone(
    model: str,
    weights: str,
    taps: "Sequence[str]",
    *,
    tokens: "Tokens" = "patch",
    head: bool = False,
    **options: int | str,
) -> "Backbone":
    """Builds a frozen backbone in eval mode, on the CPU in float32, and returns it.

    - `model`, `weights`, `options`: as in the section `backbones` of a config.
    - `taps`: the names of the layers whose outputs the backbone returns. Layers above the highest tap are removed.
    - `tokens`: which tokens of a transformer the backbone returns: "patch", "class" or "both".
    - `head`: whether the backbone also returns the output of the network after its last tap.

    The backbone maps clips [B, 3, T, H, W] to {tap: map [B, C, T', H', W']}. If `tokens` is "class" or "both", the dict
    also has `<tap>_class`, the class tokens [B, T' or 1, C]. If `head` is true, it has `head` [B, C], or [B, T, C] for
    a network that sees each frame alone.

    Raises ValueError for a model, a tap or an option that does not exist. Raises WeightsError for weights that cannot
    be read or do not fit the model.
    """
    from kinegraph.stages.backbones.build import build_backbone as build

    return build(model, weights, taps, tokens=tokens, head=head, **options)

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

Names outside `__all__` are internal. A public name is imported when it is first used. The names `train`, `evaluate`,
`build_head`, `build_backbone`, `metrics`, `Head`, `HeadOptions` and `ClipGraph` import torch. The other public names
do not import torch.
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
    """Returns the object with the public name `name`, and imports its module if needed. Raises AttributeError for a
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
    """Trains heads on this machine, as `kinegraph train` does.

    `heads` are names of heads, or names of entries of `train.variants` in the config. Without `heads`, the config's
    head is trained. Each head is trained `seeds` times, with the seeds `train.seed`, `train.seed` + 1 and so on. A run
    is one training of one head with one seed. If there is one run, its folder is `train.run`. If there are several
    runs, their folders are `<train.run>/<name>/seed<k>`. A run that was stopped continues where it was stopped.
    `overwrite` discards existing runs and trains them anew.

    Returns a list with one TrainedRun for each run, even if there is only one. A TrainedRun has `folder`, `results`
    (the content of results.json) and `kept` (whether the run was finished before this call).

    Raises ConfigError, CacheError or HeadError for a config, cache or head that cannot be used. Raises RunExists if all
    runs were finished before, or if a finished run had other options or clips than `config` now has. Raises
    RunsDiverged after the last run if some runs diverged.
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
    texts `section.key=value` for the keys `train.aggregate`, `train.aggregate_of`, `train.batch_size` and `run.device`
    of the config. If the head of the run is your own, the code of the head runs only with `allow_code=True`.

    Returns the scores as RunScores. It has `result.metrics` (metric name -> value), `per_class()` (class name ->
    score), `class_names`, `split` and `counts`. Scores on the run's own cache are also added to the run's results.json,
    and the scores of all videos are written to its folder as `predictions-<split>.parquet`.

    Raises RunError if `run` is not the folder of a complete run or does not fit the cache. Raises CacheError for a
    cache that cannot be used. Raises UsageError for a split without clips or an override that is not allowed.
    """
    from kinegraph.pipeline.training.scoring import evaluate_run

    return evaluate_run(run, cache, split, overrides, allow_code=allow_code)


def load_run(run: "Path | str", overrides: "Sequence[str]" = (), *, allow_code: bool = False) -> "Predictor":
    """Loads a trained run that scores videos, as `kinegraph predict` does.

    `run` is the folder of the run. `overrides` are texts `run.key=value`, as `run.device=cpu`. If the head of the run
    is your own, the code of the head runs only with `allow_code=True`.

    Returns a Predictor. Its `predict(videos)` yields one Prediction per video with `scores` [num_classes],
    `probabilities` [num_classes], `clips` (the scores of each clip of the video) and `failure`. `failure` is the reason
    why the video or one of its clips has no scores, or "". `scores` and `probabilities` are None if the video has no
    scores. The scores are computed as `evaluate` computes them.

    The first call of `predict` loads the networks, and the Predictor keeps them for later calls. Raises RunError for a
    run that does not record how its features are made.
    """
    from kinegraph.pipeline.predicting.predictor import Predictor

    return Predictor(run, overrides=overrides, allow_code=allow_code)


def look(cache: "Cache | Path | str", videos: "Path | str | None" = None) -> "Look":
    """Returns a Look, whose methods draw figures of a cache: coverage, norms, boxes, frames and others.

    `cache` is a Cache, or the path or URL of one. If videos have moved, `videos` is the folder that has them now.
    Imports matplotlib, which `pip install 'kinegraph[look]'` installs.

    Raises CacheError for a cache that cannot be read, and UsageError if a package is missing.
    """
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.stages.pictures.packages import require_look

    require_look()
    from kinegraph.pipeline.reports.look import Look

    return Look(cache if isinstance(cache, Cache) else Cache(cache), videos)


def build_head(name: str, spec: "Spec", num_classes: int, **options: Any) -> "Head":
    """Builds a head with new random weights, which come from torch's global random generator.

    `name` is a name that `kinegraph models --heads` lists, or `file.py:Class` for a head of your own. `spec` maps the
    name of each array to its shape for one clip, as `CachedClips.spec` does. `options` are options of the head.

    Returns the head, which maps the arrays of B clips to logits [B, num_classes]. Raises HeadError for a name or an
    option that does not exist, for a value that is not allowed, and for an array that is not in `spec`.
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
    """Builds a frozen backbone in eval mode, on the CPU in float32. Layers above the highest of `taps` are removed.

    The arguments are as in the section `backbones` of a config. A tap is the name of a layer whose output is returned.

    The backbone maps clips [B, 3, T, H, W] to a dict of tap -> map [B, C, T', H', W']. B is the number of clips. A clip
    has T frames of H rows and W columns. A map has C channels, T' time steps, H' rows and W' columns. If `tokens` is
    "class" or "both", the dict also has `<tap>_class` -> class tokens [B, T' or 1, C]. With `head`, it has `head` ->
    the output of the network after its last tap, [B, C], or [B, T, C] if the network sees each frame alone.

    Raises ValueError for a model, a tap or an option that does not exist. Raises WeightsError for weights that cannot
    be read or do not fit the model.
    """
    from kinegraph.stages.backbones.build import build_backbone as build

    return build(model, weights, taps, tokens=tokens, head=head, **options)

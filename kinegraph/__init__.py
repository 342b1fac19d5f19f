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

Everything else is internal. Each name is imported when it is first used. `train`, `evaluate`,
`build_head`, `build_backbone`, `metrics`, `Head` and `HeadOptions` import torch; the others do not.
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
    """Imports and returns the public name `name`.

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
    """Trains every named head or variant with `seeds` seeds, as `kinegraph train` does on this machine.

    Returns one TrainedRun for each head and seed. The errors are those of `train_runs` in pipeline/training/table.py.
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

    `run` is the folder of the run. The split is the test split of the run, unless `split` names another one.
    `allow_code` permits a head whose source code came with the run. The errors are those of `evaluate_run` in
    pipeline/training/scoring.py.
    """
    from kinegraph.pipeline.training.scoring import evaluate_run

    return evaluate_run(run, cache, split, overrides, allow_code=allow_code)


def build_head(name: str, spec: "Spec", num_classes: int, **options: Any) -> "Head":
    """Returns a head with fresh weights.

    `spec` maps the names of the arrays that the head may read to their shapes for one clip. The options of each head
    are in stages/heads/.
    """
    from kinegraph.stages.heads.build import build_head as build

    return build(name, spec, num_classes, **options)


def build_backbone(model: str, weights: str, taps: "Sequence[str]", **options: int | str) -> "Backbone":
    """Returns a frozen backbone without the layers above the highest of `taps`.

    `weights` is a published name, a file or `random:<seed>`. The options are those of `build_backbone` in
    stages/backbones/build.py.
    """
    from kinegraph.stages.backbones.build import build_backbone as build

    return build(model, weights, taps, **options)

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

Everything else is internal. Importing this module imports no torch. `train`, `evaluate`,
`build_head`, `build_backbone`, `metrics`, `Head` and `HeadOptions` do.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache_schemas.cache import Cache, open_cache
from cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
from cache_schemas.reader import CachedClips
from pipeline.config import Config, load_config
from pipeline.decoding import Frames, VideoFacts, decode, probe
from pipeline.errors import ConfigError
from pipeline.verification import Verification, verify
from stages.decode.errors import DecodeError

if TYPE_CHECKING:
    from pipeline.scoring import RunScores
    from pipeline.training import TrainedRun
    from stages.backbones.backbone import Backbone
    from stages.heads.head import Head, HeadOptions, Spec
    from stages.training import metrics

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

_WITH_TORCH = {"Head": "stages.heads.head", "HeadOptions": "stages.heads.head", "metrics": "stages.training.metrics"}


def __getattr__(name: str) -> Any:
    """What imports torch, when it is first asked for."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'kinegraph' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(_WITH_TORCH[name])
    return module if name == "metrics" else getattr(module, name)


def train(config: Config, heads: Sequence[str] = (), seeds: int = 1, *, overwrite: bool = False) -> "list[TrainedRun]":
    """`kinegraph train` on this machine: every named head or variant with `seeds` seeds. See pipeline.training."""
    from pipeline.training import train_runs

    return train_runs(config, heads, seeds, overwrite=overwrite)


def evaluate(
    run: Path | str,
    cache: Path | str | None = None,
    split: str | None = None,
    overrides: Sequence[str] = (),
    *,
    allow_code: bool = False,
) -> "RunScores":
    """`kinegraph evaluate`: the scores of a trained run on its test split, or another. See pipeline.scoring."""
    from pipeline.scoring import evaluate_run

    return evaluate_run(run, cache, split, overrides, allow_code=allow_code)


def build_head(name: str, spec: "Spec", num_classes: int, **options: Any) -> "Head":
    """A head with fresh weights; `spec` maps array names to shapes of one clip. See stages.heads.build."""
    from stages.heads.build import build_head as build

    return build(name, spec, num_classes, **options)


def build_backbone(model: str, weights: str, taps: Sequence[str], **options: int | str) -> "Backbone":
    """A frozen backbone, cut above the highest of `taps`. See stages.backbones.build."""
    from stages.backbones.build import build_backbone as build

    return build(model, weights, taps, **options)

"""kinegraph: extract video features once, train graph heads on them in minutes. The public Python API.

    import kinegraph

    config = kinegraph.load_config("config.yaml", ["run.workers=2"])
    cache = kinegraph.open_cache(config.cache)
    clips = kinegraph.CachedClips(cache, ["regions/i3d/res5", "proposals/count"], split="train")
    batch = clips.batch([0, 1, 2])  # one dict of tensors [3, ...]
    loader = torch.utils.data.DataLoader(clips, batch_size=8)  # batches of the same form

Everything else is internal. Importing this module imports no torch; `build_head` and `build_backbone` do.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cache_schemas.cache import Cache, open_cache
from cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
from cache_schemas.reader import CachedClips
from pipeline.config import Config, load_config
from pipeline.errors import ConfigError
from pipeline.verification import Verification, verify

if TYPE_CHECKING:
    from stages.backbones.backbone import Backbone
    from stages.heads.head import Head, Spec

__all__ = [
    "Cache",
    "CacheError",
    "CacheMismatch",
    "CacheNotFound",
    "CachedClips",
    "Config",
    "ConfigError",
    "Verification",
    "build_backbone",
    "build_head",
    "load_config",
    "open_cache",
    "verify",
]


def build_head(name: str, spec: "Spec", num_classes: int, **options: Any) -> "Head":
    """A head with fresh weights; `spec` maps array names to shapes of one clip. See stages.heads.build."""
    from stages.heads.build import build_head as build

    return build(name, spec, num_classes, **options)


def build_backbone(model: str, weights: str, taps: Sequence[str], **options: int | str) -> "Backbone":
    """A frozen backbone, cut above the highest of `taps`. See stages.backbones.build."""
    from stages.backbones.build import build_backbone as build

    return build(model, weights, taps, **options)

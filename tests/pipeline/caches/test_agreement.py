"""Defaults that came later than a cache: the error names the keys that fit it, and they do."""

from collections.abc import Callable

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config

Load = Callable[..., Config]
NET = "backbones={net: {model: resnet18, weights: imagenet1k_v1, taps: [res5]}}"
AS_BEFORE = ["backbones.net.size=224", "backbones.net.resize_short=null", "backbones.net.resize=pillow"]


def begun(config: Config) -> Cache:
    """A cache that holds the features of the config as begun."""
    cache = index(config).cache
    stages = declare(config, {"features/net": "0" * 64}).stages
    cache.declare(stages["clips"], stages["features/net"])
    return cache


def test_a_cache_made_before_there_was_resize_short(load: Load) -> None:
    plain = [NET, "proposals=null", "regions=null"]
    old = load(*plain, "backbones.net.resize_short=null")
    cache = begun(old)
    recorded = cache.stage("features/net").options
    assert (recorded["size"], "resize_short" in recorded, "resize" in recorded) == (224, False, False)
    message = (
        r"resize_short: '\(absent\)' -> 256[\s\S]*set under backbones.net: size: 224, resize_short: null, resize: pi"
    )
    with pytest.raises(CacheMismatch, match=message):
        make_plan(load(*plain), cache)
    assert make_plan(load(*plain, *AS_BEFORE), cache).units
    with pytest.raises(CacheMismatch) as other:
        make_plan(load(*plain, *AS_BEFORE, "backbones.net.precision=fp32"), cache)
    assert "To go on with it" not in str(other.value)


def test_a_cache_made_as_the_weights_were_tested(load: Load) -> None:
    plain = [NET, "proposals=null", "regions=null"]
    cache = begun(load(*plain))
    assert cache.stage("features/net").options["resize_short"] == 256
    assert make_plan(load(*plain), cache).units
    with pytest.raises(CacheMismatch, match=r"set under backbones\.net: size: 224, resize_short: 256, resize: pillow"):
        make_plan(load(*plain, "backbones.net.size=112"), cache)

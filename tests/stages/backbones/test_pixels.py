"""What pixels a backbone gets: as its weights expect, as the config says, else as is usual for it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import own_pixels, pixels_of
from kinegraph.stages.weights.registry import BACKBONE_WEIGHTS

SHIPPED = Path(__file__).parents[3] / "stages/backbones/shipped/tiny_i3d.safetensors"
BRIGHT = (0.1, 0.2, 0.3)


def options(model: str = "tiny_i3d", weights: str = "random:0", **given: Any) -> BackboneOptions:
    return BackboneOptions(model=model, weights=weights, taps=("stem",), precision="fp32", **given)


def test_weights_bring_along_what_they_expect() -> None:
    charades = pixels_of(options("slowonly_r50", "pytorchvideo_charades_8x8"))
    assert charades.channel_order == "BGR"
    assert pixels_of(options("slowonly_r50", "pytorchvideo_8x8")) == own_pixels(entry("slowonly_r50"))
    assert pixels_of(options("bn_inception", "imagenet1k")).mean == pytest.approx(np.array([104, 117, 128]) / 255)


def test_a_local_file_of_a_public_name_is_taken_for_it() -> None:
    source = BACKBONE_WEIGHTS["slowonly_r50"]["pytorchvideo_charades_8x8"]
    assert pixels_of(options("slowonly_r50", f"/data/{source.file_name}")) == source.pixels
    assert pixels_of(options("slowonly_r50", "/data/mine.pyth")) == own_pixels(entry("slowonly_r50"))


def test_the_config_has_the_last_word() -> None:
    found = pixels_of(options("slowonly_r50", "pytorchvideo_charades_8x8", channel_order="RGB"))
    assert (found.channel_order, found.mean) == ("RGB", (0.45, 0.45, 0.45))
    found = pixels_of(options(mean=BRIGHT, std=(1.0, 1.0, 1.0)))
    assert (found.mean, found.std, found.channel_order) == (BRIGHT, (1.0, 1.0, 1.0), "RGB")


@pytest.mark.parametrize("given", [{"mean": BRIGHT}, {"std": BRIGHT}, {"mean": BRIGHT, "std": (1.0, 0.0, 1.0)}])
def test_half_a_normalisation_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"std: given|mean, std: given"):
        options(**given)


def test_the_network_sees_the_pixels_it_expects(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path / "mine.safetensors")
    weights, std = str(tmp_path / "mine.safetensors"), (0.5, 0.25, 0.125)
    given: dict[str, Any] = {"mean": BRIGHT, "std": std, "channel_order": "BGR"}
    extractor = FeatureExtractor(options(weights=weights, **given), torch.device("cpu"))
    clips = torch.randint(0, 256, (1, 2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    network = extractor._network.network
    hook = network.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments))
    extractor.maps(clips)
    hook.remove()
    blue = (clips[..., 2].float() / 255 - BRIGHT[0]) / std[0]
    red = (clips[..., 0].float() / 255 - BRIGHT[2]) / std[2]
    torch.testing.assert_close(seen[0][:, 0], blue)
    torch.testing.assert_close(seen[0][:, 2], red)

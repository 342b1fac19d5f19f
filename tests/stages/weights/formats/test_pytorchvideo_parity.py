"""Networks that pytorchvideo itself builds, read from its state dicts: the same maps at every tap."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kinegraph.stages.backbones.build import build_backbone

# Their model, ours, and the numbers of the blocks after which our taps sit.
CASES = [
    ("c2d_r50", "c2d_r50", {0: "stem", 1: "res2", 3: "res3", 4: "res4", 5: "res5"}),
    ("i3d_r50", "i3d_r50", {0: "stem", 1: "res2", 3: "res3", 4: "res4", 5: "res5"}),
    ("slow_r50", "slowonly_r50", {0: "stem", 1: "res2", 2: "res3", 3: "res4", 4: "res5"}),
]


@pytest.fixture(scope="module")
def hub() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.hub import resnet
    return resnet


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.0),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 2.0),
                ):
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=generator)


@pytest.mark.parametrize(("model", "ours", "taps"), CASES)
def test_every_tap_equals_pytorchvideos(tmp_path: Path, hub: Any, model: str, ours: str, taps: dict[int, str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = getattr(hub, model)().eval()
    randomise(theirs)
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "file.pyth")
    network = build_backbone(ours, str(tmp_path / "file.pyth"), list(taps.values()), res5_stride=2)
    x = clips = torch.randn(1, 3, 4, 48, 48, generator=torch.Generator().manual_seed(2))
    found, compared = network(clips), []
    with torch.inference_mode():
        for number, block in enumerate(theirs.blocks[:-1]):
            x = block(x)
            if number in taps:
                torch.testing.assert_close(found[taps[number]], x, rtol=1e-5, atol=1e-5)
                compared.append(x.std().item())
    assert len(compared) == 5
    assert min(compared) > 0.01

"""Backbones on a GPU against the same on the CPU, in float32 and in half precision."""

from collections.abc import Iterator

import torch

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from tests.gpu.checks import Check, apart

# Network -> frames of the clip. One of each family.
NETWORKS = {
    "tiny_i3d": 8, "tiny_sync_cnn": 10, "resnet18": 1, "resnet50": 1, "inception_v3": 1, "bn_inception": 1,
    "tsm_r50": 8, "c2d_r50": 8, "i3d_r50": 8, "nonlocal_i3d_r50": 8, "slowonly_r50": 4, "s3d": 16, "inception_i3d": 16,
    "r2plus1d_18": 8, "swin3d_t": 8, "mvit_v2_s": 16,
}  # fmt: skip
SMALL = ("tiny_sync_cnn",)
# In standard deviations of a map. docs/networks.md says how far half precision is from float32 on a CPU.
ALLOWED = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05}


def part(device: torch.device, small: bool) -> Iterator[Check]:
    for model in SMALL if small else NETWORKS:
        backbone = entry(model)
        shape = (1, NETWORKS[model], backbone.size, backbone.size, 3)
        clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        expected = _maps(model, "fp32", clips, torch.device("cpu"))
        for precision in ("fp32",) if small else ALLOWED:
            found = _maps(model, precision, clips.to(device), device)
            what = f"{model}, {precision}: maps, distance from the CPU in float32"
            yield Check(what=what, found=apart(found, expected), allowed=ALLOWED[precision], unit="std")


def _maps(model: str, precision: str, clips: torch.Tensor, device: torch.device) -> torch.Tensor:
    tap = entry(model).taps[-1].name
    options = BackboneOptions.model_validate(
        {"model": model, "weights": "random:0", "taps": [tap], "precision": precision}
    )
    return FeatureExtractor(options, device).maps(clips)[tap].float()

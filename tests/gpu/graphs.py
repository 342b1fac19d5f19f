"""Backbones through a CUDA graph against the same without one, on the same device, batch after batch."""

from collections.abc import Iterator

import torch

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from tests.gpu.checks import Check, apart
from tests.gpu.networks import NETWORKS, SMALL

BATCHES = 3
# In standard deviations of a map. The kernels are the same, but a library may choose others while it is recorded.
ALLOWED = {"fp32": 1e-4, "bf16": 0.02}


def part(device: torch.device, small: bool) -> Iterator[Check]:
    if device.type != "cuda":
        yield Check(what=f"graphs that are recorded on a {device}", found=0)
        return
    for model in SMALL if small else NETWORKS:
        for precision in ("fp32",) if small else ALLOWED:
            far = max(_distances(model, precision, device))
            what = f"{model}, {precision}: maps of a graph, distance from the network without it"
            yield Check(what=what, found=far, allowed=ALLOWED[precision], unit="std")


def _distances(model: str, precision: str, device: torch.device) -> Iterator[float]:
    backbone, tap = entry(model), entry(model).taps[-1].name
    options = {"model": model, "weights": "random:0", "taps": [tap], "precision": precision}
    extractor = FeatureExtractor(BackboneOptions.model_validate(options), device)
    shape = (2, NETWORKS[model], backbone.size, backbone.size, 3)
    rng = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng) for _ in range(BATCHES)]
    expected = [extractor.maps(clips.to(device))[tap] for clips in batches]
    extractor.use_graphs()
    found = [extractor.maps(clips.to(device))[tap] for clips in batches]  # all are kept, so none may be overwritten
    return (apart(a.float(), b.float()) for a, b in zip(found, expected, strict=True))

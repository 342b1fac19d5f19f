"""The loop of `copies.py` against the network's forward alone, on tensors that are on the GPU."""

import time
from collections.abc import Iterator

import torch

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from tests.gpu.checks import Check
from tests.gpu.copies import FRAMES, options_of, run

CASES = [(model, precision) for model in ("resnet50", "i3d_r50") for precision in ("fp32", "bf16", "fp16")]


def part(device: torch.device, small: bool) -> Iterator[Check]:
    batches, clips = (2, 1) if small else (30, 8)
    for model, precision in [("tiny_i3d", "fp32")] if small else CASES:
        options = options_of(model, precision)
        forward = _forward_alone(options, device, batches, clips)
        yield Check(what=f"{model}, {precision}: forward alone", found=forward, unit="clips/s")
        _, loop = run(options, device, batches, clips)
        yield Check(what=f"{model}, {precision}: with copies and regions", found=loop, unit="clips/s")
        if device.type == "cuda":
            _, loop = run(options, device, batches, clips, graphs=True)
            yield Check(what=f"{model}, {precision}: the same with a CUDA graph", found=loop, unit="clips/s")


def _forward_alone(options: BackboneOptions, device: torch.device, batches: int, clips: int) -> float:
    extractor, side = FeatureExtractor(options, device), entry(options.model).size
    pixels = torch.randint(0, 256, (clips, FRAMES, side, side, 3), dtype=torch.uint8).to(device)
    begun = 0.0
    for number in range(batches):
        if number == 1:
            _finish(device)
            begun = time.monotonic()
        extractor.maps(pixels)
    _finish(device)
    return (batches - 1) * clips / (time.monotonic() - begun)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Uploads, a backbone, RoIAlign and downloads with two batches in flight. Needs torch, and no cache."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.regions.roi import region_features
from kinegraph.stages.transfers import Pending, transfers_on
from tests.gpu.checks import Check, apart

FRAMES, BOXES = 8, 3


def options_of(model: str, precision: str) -> BackboneOptions:
    backbone = {"model": model, "weights": "random:0", "taps": ["res4"], "precision": precision}
    return BackboneOptions.model_validate(backbone)


@contextmanager
def no_waits() -> Iterator[None]:
    """torch raises where an operation makes the host wait for the GPU. To wait for an event is allowed."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run(
    options: BackboneOptions,
    device: torch.device,
    batches: int,
    clips: int,
    *,
    waits_refused: bool = False,
    graphs: bool = False,
) -> tuple[list[list[np.ndarray]], float]:
    """Maps, finite flags and region features of each batch, and the clips a second of all batches but the first."""
    extractor, transfers = FeatureExtractor(options, device), transfers_on(device)
    if graphs:
        extractor.use_graphs()
    side, stride = entry(options.model).size, entry(options.model).tap("res4").stride
    rng, results, begun = np.random.default_rng(0), list[list[np.ndarray]](), 0.0
    in_flight: list[list[Pending]] = []

    def take() -> None:
        found = []
        for pending in in_flight.pop(0):
            with pending.arrived() as values:
                found.append(values.copy())
        results.append(found)

    for number in range(batches):
        pixels = rng.integers(0, 256, (clips, FRAMES, side, side, 3), np.uint8)
        with torch.inference_mode(), no_waits() if waits_refused and number else nullcontext():
            maps = extractor.maps(transfers.upload(pixels))["res4"].half()
            flat = maps.flatten(0, 1)
            corners = np.sort(rng.random((len(flat), BOXES, 2, 2), np.float32) * side, 2).reshape(-1, BOXES, 4)
            valid = rng.random((len(flat), BOXES)) < 0.5
            boxes, is_valid, places = map(transfers.upload, (corners, valid, np.stack(valid.nonzero())))
            regions = region_features(flat, boxes, is_valid, stride, places=places).features
            finite = maps.isfinite().flatten(1).all(1)
            in_flight.append([transfers.download(values) for values in (maps, finite, regions)])
        if number == 0 or len(in_flight) == 2:
            take()
        if number == 0:
            begun = time.monotonic()
    while in_flight:
        take()
    return results, (batches - 1) * clips / (time.monotonic() - begun)


def part(device: torch.device, small: bool) -> Iterator[Check]:
    options = options_of("tiny_i3d" if small else "i3d_r50", "fp32")
    expected, _ = run(options, torch.device("cpu"), 4, clips=2)
    found, _ = run(options, device, 4, clips=2, waits_refused=device.type == "cuda")
    if device.type == "cuda":  # again, each batch from the buffers of one graph
        graphed, _ = run(options, device, 4, clips=2, waits_refused=True, graphs=True)
        found, expected = [*found, *graphed], [*expected, *expected]
    for place, what in enumerate(("maps", "flags", "region features")):
        pairs = [(torch.from_numpy(a[place]), torch.from_numpy(b[place])) for a, b in zip(found, expected, strict=True)]
        if what == "flags":
            yield Check(what="flags that differ", found=sum(int((a != b).sum()) for a, b in pairs), allowed=0)
        else:
            far = max(apart(a, b) for a, b in pairs)
            yield Check(what=f"{what}, no wait in the loop: distance from the CPU", found=far, allowed=2e-3, unit="std")

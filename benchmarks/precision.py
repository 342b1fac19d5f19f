"""Compares I3D-R50 and ResNet-50 as kinegraph runs them (bf16, channels-last) with plain float32.

Both have the same weights and clips. Prints the clips per second of both, the ratio, and the relative RMS error of the
res5 maps.
"""

import statistics
import time

import numpy as np
import torch

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions

RUNS = 3
CASES = {"i3d_r50": (1, 16, 224), "resnet50": (1, 16, 224)}  # clips, frames, px


def main() -> None:
    device = torch.device("cpu")
    for model, (clips, frames, size) in CASES.items():
        pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (clips, frames, size, size, 3), np.uint8))
        ours = FeatureExtractor(BackboneOptions(model=model, weights="random:0", taps=("res5",)), device)
        plain = build_backbone(model, "random:0", ["res5"])
        known = entry(model)
        mean, std = torch.tensor(known.mean), torch.tensor(known.std)
        times: dict[str, list[float]] = {"ours": [], "plain": []}
        for run in range(RUNS + 1):
            begun = time.perf_counter()
            found = ours.maps(pixels)["res5"]
            middle = time.perf_counter()
            with torch.inference_mode():
                x = ((pixels.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3).contiguous()
                reference = plain(x)["res5"].transpose(1, 2)
            if run:
                times["ours"].append(middle - begun)
                times["plain"].append(time.perf_counter() - middle)
        error = float((found.float() - reference).pow(2).mean().sqrt() / reference.std())
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times["plain"], strict=True))
        a, b = (clips / statistics.median(times[name]) for name in times)
        print(
            f"{model} {frames}x{size}: bf16 channels-last / float32 {a:.2f} / {b:.2f} clips/s, ratio {ratio:.2f}, "
            f"relative RMS error {error:.4f}"
        )


if __name__ == "__main__":
    main()

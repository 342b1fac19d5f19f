"""Compares backbones with and without batch norms that are folded into convolutions.

They run in bf16 and channels-last, on the CPU. Prints the clips per second of both, their ratio, and the relative RMS
error of both against float32.
"""

import copy
import statistics
import time

import torch
from torch import Tensor

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.folding import fold_batch_norms
from kinegraph.stages.device import computing_in, move_network

RUNS = 5
CASES = {"i3d_r50": (16, 224), "resnet50": (16, 224), "bn_inception": (16, 224)}  # frames, px


@torch.inference_mode()
def main() -> None:
    device = torch.device("cpu")
    for model, (frames, size) in CASES.items():
        top = entry(model).taps[-1].name
        plain = build_backbone(model, "random:0", [top])
        clip = torch.randn(1, frames, size, size, 3).permute(0, 4, 1, 2, 3)
        expected = plain(clip)[top]
        folded = copy.deepcopy(plain)
        fold_batch_norms(folded)
        networks = {"folded": move_network(folded, device), "plain": move_network(plain, device)}
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        found: dict[str, Tensor] = {}
        for run in range(RUNS + 1):
            for name, network in networks.items():
                begun = time.perf_counter()
                with computing_in("bf16", device):
                    found[name] = network(clip)[top]
                if run:
                    seconds[name].append(time.perf_counter() - begun)
        ratio = statistics.median(b / a for a, b in zip(seconds["folded"], seconds["plain"], strict=True))
        a, b = (1 / statistics.median(seconds[name]) for name in networks)
        errors = [float((x.float() - expected).square().mean().sqrt() / expected.std()) for x in found.values()]
        print(
            f"{model} {frames}x{size}: folded / plain {a:.2f} / {b:.2f} clips/s, ratio {ratio:.2f}, "
            f"relative RMS error {errors[0]:.4f} / {errors[1]:.4f}"
        )


if __name__ == "__main__":
    main()

"""Compares backbones with and without torch.compile (`run.compile`), in the form in which an extraction runs them.

They run in bf16 and channels-last, with folded batch norms. Prints the clips per second of both, their ratio, the
seconds of the first batch, and the difference between the maps of both. Takes minutes, nearly all of them for
compilation.
"""

import statistics
import time

import torch

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.device import pick_device

RUNS = 5
CASES = {"i3d_r50": (8, 224), "resnet50": (8, 224)}  # frames, px


def main() -> None:
    device = pick_device("auto")
    for model, (frames, size) in CASES.items():
        top = entry(model).taps[-1].name
        options = BackboneOptions(model=model, weights="random:0", taps=(top,))
        extractors = {on: FeatureExtractor(options, device, compiled=on) for on in (True, False)}
        pixels = torch.randint(256, (2, frames, size, size, 3), dtype=torch.uint8, device=device)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(RUNS + 1):
            maps = {}
            for on, extractor in extractors.items():
                begun = time.perf_counter()
                maps[on] = extractor.maps(pixels)[top].float().cpu()
                seconds[on].append(time.perf_counter() - begun)
        first = seconds[True][0]
        ratio = statistics.median(b / a for a, b in zip(seconds[True][1:], seconds[False][1:], strict=True))
        a, b = (len(pixels) / statistics.median(seconds[on][1:]) for on in (True, False))
        difference = float((maps[True] - maps[False]).square().mean().sqrt() / maps[False].std())
        print(
            f"{model} {frames}x{size} on {device}: compiled / plain {a:.2f} / {b:.2f} clips/s, ratio {ratio:.2f}; "
            f"first batch {first:.0f} s; relative RMS difference {difference:.4f}"
        )


if __name__ == "__main__":
    main()

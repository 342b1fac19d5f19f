"""Compares 3D networks whose layers run in 2D, as in an extraction, with 3D layers, channels-last and channels-first.

Prints the CPU seconds of a clip, and their ratio to the layers as in an extraction. The three forms take turns.

    python -m benchmarks.planes [--model i3d_r50] [--frames 16] [--size 224] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kinegraph.stages.backbones.build import build_from_options
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.folding import fold_batch_norms
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.planes import flatten_layers
from kinegraph.stages.device import computing_in, move_network

RUNS = 5
CPU = torch.device("cpu")


def networks(options: BackboneOptions) -> dict[str, nn.Module]:
    """Returns {name: network} of the backbone that `options` describe, in three forms: as extracted, with channels-last
    3D layers, and with channels-first 3D layers.
    """
    made = {name: build_from_options(options) for name in ("as extracted", "3D, channels-last", "3D, channels-first")}
    for network in made.values():
        fold_batch_norms(network)
    flatten_layers(made["as extracted"], convolutions=options.precision == "fp32")
    return {name: net if name.endswith("first") else move_network(net, CPU) for name, net in made.items()}


@torch.inference_mode()
def measure(options: BackboneOptions, clips: Tensor) -> dict[str, list[float]]:
    ways: dict[str, Callable[[], object]] = {}
    for name, network in networks(options).items():
        layout = torch.contiguous_format if name.endswith("first") else torch.channels_last_3d
        ways[name] = partial(network, clips.contiguous(memory_format=layout))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with computing_in(options.precision, CPU):
        for _ in range(RUNS + 1):
            for name, way in ways.items():
                begun = time.process_time()
                way()
                seconds[name].append(time.process_time() - begun)
    return {name: of_way[1:] for name, of_way in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="i3d_r50")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clips = torch.randn(1, 3, given.frames, given.size, given.size)
    for precision in ("fp32", "bf16"):
        top = entry(given.model).taps[-1].name
        options = BackboneOptions(model=given.model, weights="random:0", taps=(top,), precision=precision)
        seconds = measure(options, clips)
        first = next(iter(seconds.values()))
        for name, of_way in seconds.items():
            ratio = statistics.median(b / a for a, b in zip(first, of_way, strict=True))
            print(f"{given.model} {precision}, {name}: {statistics.median(of_way):.2f} CPU s a clip, {ratio:.2f} x")


if __name__ == "__main__":
    main()

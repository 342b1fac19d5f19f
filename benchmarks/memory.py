"""Compares networks that keep the memory that they freed (kinegraph's setting) with glibc's default, which returns it.

Networks have random weights and run in float32 on the CPU, on batches of 4 clips. Prints the CPU seconds of both and
their ratio.
"""

import resource
from functools import partial

import torch

from kinegraph.pipeline.machine.alternation import Way, alternate, ratios
from kinegraph.pipeline.machine.memory import keep_freed_memory, without_kept_memory
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.device import move_network

ROUNDS = 4
CASES = {"inception_i3d": (16, 224), "i3d_r50": (16, 224), "resnet50": (8, 224)}  # frames, px


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@torch.inference_mode()
def main() -> None:
    keep_freed_memory()
    for model, (frames, size) in CASES.items():
        network = move_network(build_backbone(model, "random:0", [entry(model).taps[-1].name]), torch.device("cpu"))
        clips = torch.randn(4, 3, frames, size, size)

        kept, returned = partial(network, clips), without_kept_memory()(partial(network, clips))
        kept()
        seconds = alternate([Way(name="kept", run=kept), Way(name="returned", run=returned)], ROUNDS, clock=cpu_seconds)
        ratio = ratios(seconds, "returned", "kept")
        print(
            f"{model} {frames}x{size}: returned / kept {min(seconds['returned']):.2f} / {min(seconds['kept']):.2f} "
            f"CPU s, ratio {ratio.median:.2f} ({ratio.lowest:.2f} to {ratio.highest:.2f})"
        )


if __name__ == "__main__":
    main()

"""Whole extractions of generated videos, their network alone and plain loops, as benchmarks/extraction.py has them."""

from collections.abc import Iterator

import torch

from benchmarks.extraction import measured
from kinegraph.pipeline.machine.alternation import Spread
from tests.gpu.checks import Check

CASES = ("r50", "i3d + RPN + regions")


def part(device: torch.device, small: bool) -> Iterator[Check]:
    names, clips, rounds = (CASES[:1], 2, 1) if small else (CASES, 24, 2)
    precision = "bf16" if device.type == "cuda" else "fp32"
    for case in measured(names, clips=clips, rounds=rounds, device=str(device), precision=precision):
        for way, seconds in case.seconds.items():
            rate = case.amount / Spread.of(seconds).median
            yield Check(what=f"{case.name}, {precision}: {way}", found=rate, unit=f"{case.unit}/s")

"""The parts of `make gpu`, as tests: on a GPU where there is one, and their smallest things on a CPU or a fake GPU."""

import importlib

import pytest
import torch

from tests.fake_cuda import CUDA, fake_gpu
from tests.gpu.__main__ import PARTS
from tests.gpu.checks import Part


def part_of(name: str) -> Part:
    module, function = PARTS[name].split(":")
    part: Part = getattr(importlib.import_module(module), function)
    return part


@pytest.mark.gpu
@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", PARTS)
def test_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert [check for check in part_of(name)(torch.device("cuda"), False) if not check.is_ok] == []


@pytest.mark.parametrize("name", ["networks", "boxes", "graphs", "copies", "loop"])
def test_on_a_fake_gpu(name: str) -> None:
    with fake_gpu() as gpu:
        checks = [*part_of(name)(CUDA, True)]
    assert checks
    assert [check for check in checks if check.found > 1e-6] == [], "a CPU computes what a fake GPU has"
    if name in ("copies", "loop"):
        assert gpu.waits.keys() == {"event", "copy of memory that is not pinned"}


@pytest.mark.parametrize("name", ["gradients", "training", "decoding", "speed"])
def test_on_a_cpu(name: str) -> None:
    try:
        checks = [*part_of(name)(torch.device("cpu"), True)]
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing.name} is missing: {missing}")
    assert checks
    assert [check for check in checks if not check.is_ok] == []

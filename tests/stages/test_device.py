"""Which device a process takes, and in which numbers it computes."""

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from kinegraph.stages.device import pick_device, require_precision, share_of_devices
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.together import own_device


@pytest.mark.parametrize(
    ("name", "num_cuda", "expected"),
    [
        ("auto", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ("auto", 0, ["auto"] * 5),
        ("cuda", 0, ["cuda"] * 5),
        ("cuda:1", 4, ["cuda:1"] * 5),
        ("cpu", 4, ["cpu"] * 5),
    ],
)
def test_processes_take_turns(name: str, num_cuda: int, expected: list[str]) -> None:
    assert [share_of_devices(name, number, num_cuda) for number in range(5)] == expected


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_a_device_is_one_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert pick_device(name) == torch.device(name)
    for name in ("mps", "meta", "cuda:", "cuda:01", "abacus"):
        with pytest.raises(UsageError, match=f"run.device: given '{name}', allowed: auto, cpu, cuda, cuda:<index>"):
            pick_device(name)
    for name in ("cuda:2", "cuda:256"):
        with pytest.raises(UsageError, match=f"given '{name}', but torch finds none beyond cuda:1 here; use"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="given 'cuda', but torch finds no CUDA device here; use cpu or auto"):
        pick_device("cuda")


@pytest.mark.usefixtures("two_gpus")
def test_a_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cuda")) == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="LOCAL_RANK: given 2, but torch finds none beyond cuda:1 here; start"):
        own_device(torch.device("cuda"))


def test_float32_is_no_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    pick_device("auto")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_bf16_is_for_gpus_that_do_not_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the device itself, which need not be the current one."""
    asked: list[torch.device] = []

    def current(device: torch.device) -> AbstractContextManager[None]:
        asked.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    device = torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"train\.precision: given 'bf16', which Tesla T4 does not compute in; use"):
        require_precision("bf16", device, "train.precision")
    require_precision("fp16", device, "train.precision")
    require_precision("bf16", torch.device("cpu"), "train.precision")
    assert asked == [device]

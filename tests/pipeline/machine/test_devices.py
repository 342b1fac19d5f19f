from collections.abc import Callable
from socket import gethostname
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinegraph.pipeline.cluster_options import SlurmOptions
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.executors.dask_station import gpu_of
from kinegraph.pipeline.machine.devices import name_of_device, on_device_of, on_gpu_if_asked
from kinegraph.stages.errors import UsageError


def test_records_name_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Model {device.index}")
    assert [name_of_device(torch.device(name)) for name in ("cpu", "cuda:1")] == ["cpu", "cuda:1 (Model 1)"]


def test_a_gpu_that_was_asked_for_must_be_there(load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    assert config.run.device == "auto"
    assert on_gpu_if_asked(config, "") is config
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    told = (
        rf"run\.slurm\.gpus: 1 on node {gethostname()} \(CUDA_VISIBLE_DEVICES 7, .*no CUDA device here; ask for nodes"
    )
    with pytest.raises(UsageError, match=told):
        on_gpu_if_asked(config, "run.slurm.gpus: 1")
    on_cpu = load("run.device=cpu")
    assert on_gpu_if_asked(on_cpu, "run.slurm.gpus: 1") is on_cpu, "the config says so"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert on_gpu_if_asked(config, "run.slurm.gpus: 1").run.device == "cuda"


def test_idle_gpus_are_told_once(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    caplog.set_level("INFO", "kinegraph")
    for workers, worker_index, device, told in (
        (1, 0, "cuda:0", "torch finds 4 GPUs and run.workers is 1: 3 GPUs are idle. --workers 4 uses all"),
        (3, 1, "cuda:1", ""),
        (3, 0, "cuda:0", "torch finds 4 GPUs and run.workers is 3: 1 GPU is idle. --workers 4 uses all"),
        (5, 4, "cuda:0", ""),
    ):
        caplog.clear()
        config = on_device_of(load(f"run.workers={workers}"), worker_index)
        assert (config.run.device, caplog.messages) == (device, [told] if told else [])
    caplog.clear()
    on_device_of(load("run.device=cuda:1"), 0)
    assert not caplog.messages, "the config says so"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, ""),
        ({"gpus": 1}, "run.slurm.gpus: 1"),
        ({"options": {"gres": "gpu:a100:1"}}, "run.slurm.options.gres: gpu:a100:1"),
        ({"options": {"gpus-per-task": 1}}, "run.slurm.options.gpus-per-task: 1"),
        ({"options": {"gpus": 0, "gres": "lustre", "partition": "gpu"}}, ""),
    ],
)
def test_how_a_task_asks_for_a_gpu(given: dict[str, Any], asked: str) -> None:
    assert SlurmOptions.model_validate(given).asked_gpu == asked


def test_a_dask_worker_says_that_it_has_a_gpu() -> None:
    for resources, asked in (({}, ""), ({"GPU": 0}, ""), ({"GPU": 1}, "--resources GPU of Dask worker tcp://x:1")):
        worker: Any = SimpleNamespace(address="tcp://x:1", state=SimpleNamespace(total_resources=resources))
        assert gpu_of(worker) == asked

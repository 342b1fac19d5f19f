"""Chooses CUDA devices for the worker processes of this machine, and names devices for ledger records."""

import logging
import os
from socket import gethostname

import torch

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.config import Config
from kinegraph.stages.device import require_cuda, share_of_devices

log = logging.getLogger("kinegraph")


def on_device_of(config: Config, worker_index: int) -> Config:
    """Returns a copy of `config` whose `run.device` is the device for the worker number `worker_index` of this machine.

    If `run.device` is "auto" or "cuda", the workers take the GPUs in turn: "cuda:0", "cuda:1", and so on. Any other
    value stays, and every value stays on a machine without CUDA. If there are fewer workers than GPUs, worker 0 logs
    how many GPUs are idle.
    """
    count, workers = torch.cuda.device_count(), config.run.workers
    device = share_of_devices(config.run.device, worker_index, count)
    if worker_index == 0 and device != config.run.device and workers < count:
        idle = counted(count - workers, "GPU is idle", "GPUs are idle")
        log.info("torch finds %d GPUs and run.workers is %d: %s. --workers %d uses all", count, workers, idle, count)
    return config.model_copy(update={"run": config.run.model_copy(update={"device": device})})


def on_gpu_if_asked(config: Config, asked: str) -> Config:
    """Returns `config` with `run.device: cuda` in place of `run.device: auto`, if the user asked for a GPU. Any other
    value of `run.device` stays.

    `asked` says where the user asked for a GPU, for the error message. It is "" if the user did not ask for a GPU.
    Raises UsageError if the user asked for a GPU and this machine has none, because the CPU would be slow.
    """
    if not asked or config.run.device != "auto":
        return config
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    require_cuda(
        0,
        f"{asked} on node {gethostname()} (CUDA_VISIBLE_DEVICES {visible}, torch {torch.__version__})",
        "ask for nodes with GPUs, install a torch that fits their driver (`nvidia-smi` shows it), or say "
        "--set run.device=cpu",
    )
    return config.model_copy(update={"run": config.run.model_copy(update={"device": "cuda"})})


def name_of_device(device: torch.device) -> str:
    """Returns the name of a device for ledger records: "cpu", or "cuda:1 (NVIDIA A100-SXM4-80GB)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)

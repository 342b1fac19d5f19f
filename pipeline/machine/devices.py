"""CUDA devices by turns, for the processes of one machine that do the work of one config; and what they are."""

import os
from socket import gethostname

import torch

from kinegraph.pipeline.config import Config
from kinegraph.stages.device import require_cuda, share_of_devices


def on_device_of(config: Config, number: int) -> Config:
    """The config of the `number`-th worker process of this machine: each has a CUDA device of its own, by turns."""
    device = share_of_devices(config.run.device, number, torch.cuda.device_count())
    return config.model_copy(update={"run": config.run.model_copy(update={"device": device})})


def on_gpu_if_asked(config: Config, asked: str) -> Config:
    """The config with `run.device` cuda instead of auto, where a GPU was asked for: `asked` says how, if not empty.

    Raises UsageError where there is none. The CPU would do the work many times slower, and nobody would know.
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


def described(device: torch.device) -> str:
    """For records: `cpu`, or `cuda:1 (NVIDIA A100-SXM4-80GB)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)

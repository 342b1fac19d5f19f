"""CUDA devices by turns, for the processes of one machine that do the work of one config; and what they are."""

import torch

from pipeline.config import Config
from stages.device import share_of_devices


def on_device_of(config: Config, number: int) -> Config:
    """The config of the `number`-th worker process of this machine: each has a CUDA device of its own, by turns."""
    device = share_of_devices(config.run.device, number, torch.cuda.device_count())
    return config.model_copy(update={"run": config.run.model_copy(update={"device": device})})


def described(device: torch.device) -> str:
    """For records: `cpu`, or `cuda:1 (NVIDIA A100-SXM4-80GB)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)

"""Describes the hardware and the software of this machine, for records of measurements. Torch-free."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from kinegraph.pipeline.machine.versions import versions

CPU_INFO = Path("/proc/cpuinfo")  # Linux alone has it
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")  # those that decide the speed


def described_run(device: str) -> dict[str, Any]:
    """Returns the conditions of a measurement that begins now, as a dict for JSON with the keys "machine", "versions",
    "date" and "load".

    `device` is the name of the device that computes, for example "cpu".
    """
    return {
        "machine": machine() | {"device": device},
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": load(),
    }


def machine() -> dict[str, Any]:
    """Returns facts about this machine as a dict:

    - "cpu": the name of the CPU.
    - "cores": the number of cores that this process may use.
    - "instructions": a list of the CPU's vector instructions, for example "avx2".
    - "system": the operating system.
    """
    text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
    facts = dict(line.partition(":")[::2] for line in text.splitlines())
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = {*facts.get("flags", "").split(), *facts.get("Features", "").split()}
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "system": platform.platform(),
    }


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """Returns the load of this machine: how many processes ran or waited for a core, on average over the last minute.
    Returns None if the system does not measure the load.
    """
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

"""Comparing caches: what "same bytes" means."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
import zarr

VARYING = ("seconds", "host", "sealed_at", "attempt")


def same_bytes(cache: Path | str) -> dict[str, Any]:
    """Everything that must not depend on interruptions, executors or time: data, rows, and ledgers without times."""
    cache = Path(cache)
    found: dict[str, Any] = {"clips.parquet": (cache / "clips.parquet").read_bytes()}
    for path in (*(cache / "data.zarr").rglob("*"), *(cache / "shards").rglob("*"), cache / "data.h5"):
        if path.is_file():
            found[path.relative_to(cache).as_posix()] = path.read_bytes()
    for path in sorted((cache / "ledger").rglob("*.json")):
        record = json.loads(path.read_bytes())
        found[path.relative_to(cache).as_posix()] = {k: v for k, v in record.items() if k not in VARYING}
    return found


def write_config(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def rows_of(cache: Path | str, array: str) -> np.ndarray:
    """All rows of an array, read by plain zarr or h5py."""
    if (joined := Path(cache) / "data.h5").exists():
        with h5py.File(joined) as file:
            return np.asarray(file[array])
    return np.asarray(zarr.open_array(f"{cache}/data.zarr/{array}", mode="r")[:])

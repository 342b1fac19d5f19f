"""Features as others would have made them, in files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

C = 6


def features(seed: int, *shape: int) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return found


def boxes(seed: int, num: int) -> np.ndarray:
    """[num, 4] xyxy px in a frame of 100 x 100."""
    corners = np.sort(np.random.default_rng(seed).uniform(0, 100, (num, 2, 2)), axis=1)
    found: np.ndarray = corners.reshape(num, 4).astype(np.float32)
    return found


def write_npy(root: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        path = root / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return root


def write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def write_npz(path: Path, x: np.ndarray, bbox: np.ndarray, **keys: Any) -> Path:
    """A file as bottom-up attention's tools write it, its pickled `info` included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {"num_bbox": len(bbox), "image_h": 100, "image_w": 100, "info": {"objects_id": [1, 2]}}
    np.savez_compressed(path, x=x, bbox=bbox, **known | keys)
    return path


def write_annotations(path: Path, labels: Mapping[str, str]) -> Path:
    """Video -> label and split, as `label,split`."""
    path.write_text("path,label,split\n" + "".join(f"{video},{words}\n" for video, words in labels.items()))
    return path

"""Reads a folder with one file of torch.save per video, also in subfolders. Imports torch when it reads the first file.

No code in a file is run. A file holds a tensor [C], [T, C] or [T, C, H, W], or a dict of tensors, for T frames, C
channels and maps of H rows and W columns.
"""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.cache_schemas.ledger import Source
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.imports.features import FeatureFileError, UnusableError, VideoFeatures, as_features
from kinegraph.stages.imports.npy_files import ids_of_files, source_of
from kinegraph.stages.number_files import ArrayFileError, require_expansion

SUFFIXES = (".pt", ".pth")


class PtFiles:
    """The FeatureFiles of a folder `root` with one file of torch.save per video. The id of a video is the path of its
    file below the folder, without the ending: `walk/1.pt` -> `walk/1`.

    If the files hold dicts with several tensors, `dataset` is the key of the tensor to read.
    """

    kind = "pt"

    def __init__(self, root: Path, dataset: str | None = None) -> None:
        self.root, self.dataset = root, dataset

    def videos(self) -> Sequence[str]:
        return sorted(self._paths)

    def where(self, video: str) -> str:
        return str(self._paths[video])

    def source(self, video: str) -> Source:
        return source_of(self._paths[video])

    def read(self, video: str) -> VideoFeatures:
        return as_features(tensor_of(self._paths[video], self.where(video), self.dataset), self.where(video))

    @cached_property
    def _paths(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for suffix in SUFFIXES:
            for video in ids_of_files(self.root, suffix):
                if video in paths:
                    raise FeatureFileError(f"{paths[video]} and {video}{suffix} are of one video; move one elsewhere")
                paths[video] = self.root / f"{video}{suffix}"
        return paths


def tensor_of(path: Path, where: str, dataset: str | None) -> np.ndarray:
    """Returns the tensor in the file `path` of torch.save as a numpy array. bfloat16 becomes float32.

    - `where`: the name of the file in messages.
    - `dataset`: the key of the tensor in a dict. None means that the dict has only one tensor.

    Raises UnusableError if the file cannot be read, is damaged or asks for code. Raises FeatureFileError if the file
    has no tensor, or if it has several tensors and `dataset` is None.
    """
    import torch

    from kinegraph.stages.weights.files import read_torch

    try:
        content = read_torch(path)
    except (OSError, WeightsError) as error:
        raise UnusableError("unreadable", str(error).replace(str(path), where)) from error
    value = _chosen(content, where, dataset)
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if not isinstance(value, torch.Tensor):
        raise FeatureFileError(f"{where} holds {type(value).__name__}; a tensor or a dict of tensors is expected")
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        raise UnusableError(
            "unreadable", f"{where}: a sparse, quantized or empty (meta) tensor; save it as a dense one"
        )
    try:
        require_expansion(value.nbytes, value.untyped_storage().nbytes())
    except ArrayFileError as error:
        raise UnusableError("unreadable", f"{where}: {error}") from error
    value = value.detach()
    array: np.ndarray = (value.float() if value.dtype is torch.bfloat16 else value).resolve_conj().numpy()
    return array


def tensor_in(content: bytes, where: str, dataset: str | None = None) -> np.ndarray:
    """Returns the tensor in `content`, the bytes of a file of torch.save, as a numpy array. Arguments and errors are
    those of `tensor_of`.
    """
    with tempfile.NamedTemporaryFile(suffix=SUFFIXES[0]) as file:
        file.write(content)
        file.flush()
        return tensor_of(Path(file.name), where, dataset)


def _chosen(content: Any, where: str, dataset: str | None) -> Any:
    """Returns the tensor in `content`, which a file holds. If `content` is a dict, returns the tensor with the key
    `dataset`, or the only tensor if `dataset` is None. `where` names the file in messages.

    Raises FeatureFileError if a dict has no such tensor, or has several and `dataset` is None.
    """
    if not isinstance(content, dict):
        return content
    tensors = {str(key): value for key, value in content.items() if hasattr(value, "shape")}
    text = ", ".join([*tensors][:8]) or "no tensor"
    if dataset is not None:
        if dataset not in tensors:
            raise FeatureFileError(f"--dataset {dataset}: {where} has {text}")
        return tensors[dataset]
    if len(tensors) != 1:
        raise FeatureFileError(f"{where} has {text}. Choose a tensor by --dataset NAME")
    return next(iter(tensors.values()))

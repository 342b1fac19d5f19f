"""Checkpoint files as tensors. No code in a file is ever run."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cache_schemas.regular import NotRegularError, open_regular, require_regular
from stages.errors import WeightsError

WRAPPERS = ("model_state", "state_dict", "model", "blobs")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, Lightning
PICKLES = (".pkl", ".pickle")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: bare or under one of WRAPPERS, without one of PREFIXES in front of every key.

    safetensors, what torch.save writes, and pickles of numpy arrays (Caffe2, detectron2's model zoo; by suffix).
    Raises WeightsError where the file is damaged, asks for code, or holds anything but arrays.
    """
    try:
        require_regular(path)
        content = _content(path)
    except WeightsError:
        raise
    except NotRegularError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        raise WeightsError(f"{path}: cannot be read as a file of tensors: {_words(error)}") from error
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if key in content), content)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(x, Tensor | np.ndarray | np.generic) for key, x in content.items()
    ):
        found = ", ".join(map(str, [*content][:5])) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(
            f"{path}: expected a state dict (names and their arrays), bare or under one of {', '.join(WRAPPERS)}; "
            f"found {found}"
        )
    tensors = {key: _tensor(value, f"{path}: {key}") for key, value in content.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _tensor(value: Tensor | np.ndarray | np.generic, named: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except TypeError as error:
        raise WeightsError(f"{named}: is no array of numbers: {error}") from error


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in PICKLES:
        return read_pickle(path)
    return _read_torch(path)


def _read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors, and beside them what a pickle may hold."""
    if _is_torchscript(path):
        raise WeightsError(f"{path}: refused: a TorchScript archive holds code; torch.save its state_dict()")
    try:
        with torch.serialization.safe_globals(_as_torch_names_them()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path}: refused: the file asks for {named[1]}, and only tensors, numpy arrays and plain containers "
                "are read"
            ) from error
        raise


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _words(error: Exception) -> str:
    """Torch puts advice to run the code in the file around the words of its unpickler, which are the context."""
    if isinstance(error, pickle.UnpicklingError) and isinstance(error.__context__, pickle.UnpicklingError):
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def read_pickle(path: Path) -> Any:
    """The numpy arrays and plain containers of a pickle; strings of Python 2 are read as latin-1.

    Raises WeightsError where the file is damaged or names anything else: that is where a payload would be.
    """
    try:
        with open_regular(path) as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # the unpickler raises whatever a damaged stream leads it to
        raise WeightsError(f"{path}: is no pickle of numpy arrays, or a damaged one: {error}") from error


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into pickles that Python 2 can read."""
    if encoding != "latin1":
        raise WeightsError(f"bytes encoded as {encoding!r}; pickles of arrays use latin1")
    return text.encode("latin1")


# Names as numpy 1 writes them; numpy 2 says numpy._core.
ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "__builtin__.bytes": bytes,
    "_codecs.encode": _latin1,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": np.zeros(0).__reduce__()[0],
    "numpy.core.multiarray.scalar": np.float32(0).__reduce__()[0],
    "numpy.core.numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
NUMBERS = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]


def _as_torch_names_them() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What of ADMITTED torch does not admit itself, and the types of dtypes, whose state it then sets."""
    names = {name: known for name, known in ADMITTED.items() if name.startswith("numpy.")} | {"builtins.bytes": bytes}
    names |= {name.replace("numpy.core.", "numpy._core."): known for name, known in names.items()}
    return [*((known, name) for name, known in names.items()), *{type(np.dtype(code)) for code in NUMBERS}]


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if known not in ADMITTED:
            raise WeightsError(f"refused: the pickle asks for {module}.{name}, and only numpy arrays are read")
        return ADMITTED[known]

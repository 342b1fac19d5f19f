"""Reads checkpoint files as tensors. No code in a file is ever run."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from kinegraph.cache_schemas.regular import NotRegularError, require_regular
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.number_files import ArrayFileError, require_expansion
from kinegraph.stages.weights.pickles import OF_NUMPY, NumberType, PlainArray, no_bytes, read_pickle
from kinegraph.stages.weights.torch_files import require_sound

WRAPPERS = ("model_state", "state_dict", "model", "blobs")
PREFIXES = ("module.", "_orig_mod.", "model.")  # prefixes of DistributedDataParallel, torch.compile, Lightning
PICKLES = (".pkl", ".pickle")


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the checkpoint file `path`. Returns {name: tensor}.

    The file is a safetensors file, a file of torch.save, or a pickle of numpy arrays, as Caffe2 and detectron2's model
    zoo publish them. The file holds a dict of tensors, or such a dict under a key in WRAPPERS, for example
    "state_dict". If all names begin with one of PREFIXES, for example "module.", the prefix is removed.

    Raises WeightsError if the file is damaged, asks for code, or holds anything but arrays.
    """
    try:
        require_regular(path)
        content = _content(path)
    except WeightsError as error:  # raised by kinegraph's own types, which do not know the file
        if str(error).startswith(str(path)):
            raise
        raise WeightsError(f"{path}: {error}") from error
    except NotRegularError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # readers raise errors of any type for a damaged file
        raise WeightsError(f"{path}: cannot be read as a file of tensors: {_words(error)}") from error
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if key in content), content)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(x, Tensor | np.ndarray | np.generic) for key, x in content.items()
    ):
        contents = ", ".join(map(str, [*content][:5])) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(
            f"{path}: expected a state dict (names and their arrays), bare or under one of {', '.join(WRAPPERS)}; "
            f"found {contents}"
        )
    tensors = {key: _tensor(value, f"{path}: {key}") for key, value in content.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _tensor(value: Tensor | np.ndarray | np.generic, named: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
        if tensor.layout is torch.strided:  # otherwise one stored value may stand for any number of values
            require_expansion(tensor.nbytes, tensor.untyped_storage().nbytes())
        return tensor
    except ArrayFileError as error:
        raise WeightsError(f"{named}: {error}") from error
    except TypeError as error:
        raise WeightsError(f"{named}: is no array of numbers: {error}") from error


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in PICKLES:
        return read_pickle(path)
    return _read_torch(path)


def read_torch(path: Path) -> Any:
    """Returns the content of a file that torch.save has written, usually a dict with tensors. No code in the file is
    run.

    Raises WeightsError if the file is damaged or could do harm. The message begins with `path`.
    """
    try:
        require_regular(path)
        return _read_torch(path)
    except WeightsError as error:
        raise WeightsError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except NotRegularError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # torch raises errors of any type for a damaged file
        raise WeightsError(f"{path}: cannot be read as a file of tensors: {_words(error)}") from error


def _read_torch(path: Path) -> Any:
    """Returns the content of a file that torch.save has written, usually a dict with tensors. No code in the file is
    run.

    Raises WeightsError if the file asks for other functions or types than those of tensors, arrays and plain
    containers. Raises WeightsError or an error of torch if the file is damaged.
    """
    require_sound(path)
    try:
        with torch.serialization.safe_globals(_numpy_replacements()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path}: refused: the file asks for {named[1]}, and only tensors, numpy arrays and plain containers "
                "are read"
            ) from error
        raise


def _words(error: Exception) -> str:
    """Returns the class and the message of `error`, an error of torch.load, as one text. Torch's advice to run the code
    in the file is left out.
    """
    if isinstance(error, pickle.UnpicklingError) and isinstance(error.__context__, pickle.UnpicklingError):
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def _numpy_replacements() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Returns kinegraph's replacements for the functions and types of numpy that a file may ask torch.load to call. The
    replacements check their arguments, because the arguments come from the file.

    Each item is a replacement alone, or (replacement, the name that the file uses).
    """
    names = OF_NUMPY | {name.replace("numpy.core.", "numpy._core."): target for name, target in OF_NUMPY.items()}
    return [*((target, name) for name, target in names.items()), (no_bytes, "builtins.bytes"), NumberType, PlainArray]

"""Loads the weights of a network of transformers from the safetensors files of its folder, and checks every tensor.

transformers renames tensors while it loads them. It fills a tensor that the file lacks with random numbers or zeros,
and leaves out a tensor that it does not know. So this module compares the result with the file.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash
from torch import Tensor, nn

from kinegraph.cache_schemas.regular import NotRegularError, open_regular, require_regular
from kinegraph.cache_schemas.words import few_of
from kinegraph.stages.backbones.transformers_folder import ModelFolder
from kinegraph.stages.backbones.transformers_network import TransformersNetwork, classes, refusals
from kinegraph.stages.errors import WeightsError

MAX_LISTED = 12
Digest = tuple[torch.Size, int]


def pretrained(folder: ModelFolder) -> TransformersNetwork:
    """Returns the network of `folder` with the weights in its files, in float32.

    Raises WeightsError if the files are missing or damaged, or if a tensor is missing, unknown or of another shape.
    """
    state: dict[str, Tensor] = {}
    for file in folder.weight_files():
        state |= _read(file)
    in_files = {_digest(tensor) for tensor in state.values()}  # before transformers gets the tensors
    network_class, config = classes(folder)
    with refusals(folder):
        network, report = _loaded(network_class, config, state)
    _require_complete(folder, report)
    _require_equal(folder, network, in_files)
    return TransformersNetwork(folder, network)


def files_digest(folder: ModelFolder) -> str:
    """Returns the sha256 of the safetensors file of `folder`. If there are several, returns the sha256 of the text of
    their digests, in the order of their names.
    """
    digests = []
    for path in folder.weight_files():
        with open_regular(path) as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read(file: Path) -> dict[str, Tensor]:
    try:
        require_regular(file)
        return safetensors.torch.load_file(file)
    except NotRegularError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # the reader raises errors of several types for a damaged file
        raise WeightsError(f"{file}: cannot be read as safetensors: {type(error).__name__}: {error}") from error


def _loaded(network_class: Any, config: Any, state: dict[str, Tensor]) -> tuple[nn.Module, Mapping[str, Any]]:
    """Returns (network, transformers' report of its loading). Nothing is printed, and no file is opened."""
    from transformers.utils import logging as logging_of_transformers

    logging: Any = logging_of_transformers

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        network, report = network_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused by it
            dtype=torch.float32,
        )
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
    return network, report


def _require_complete(folder: ModelFolder, report: Mapping[str, Any]) -> None:
    """Raises WeightsError if a tensor is missing, of another shape, or in the file without a known reason."""
    family = folder.family
    known = (*family.left_out, *family.unneeded)
    problems = {
        "in the network only": (name for name in report["missing_keys"] if not name.startswith(family.unneeded)),
        "in the file only": (name for name in report["unexpected_keys"] if not name.startswith(known)),
        "of another shape": (
            _shapes(*item) for item in report["mismatched_keys"] if not item[0].startswith(family.unneeded)
        ),
    }
    listed = {title: sorted(names) for title, names in problems.items()}
    _refuse(folder, [f"{title}: {few_of(names, MAX_LISTED)}" for title, names in listed.items() if names])


def _require_equal(folder: ModelFolder, network: nn.Module, in_files: Collection[Digest]) -> None:
    """Raises WeightsError if a tensor of `network` has values that no tensor of the files has. `in_files` has the
    digests of these. Names are not compared, because transformers renames tensors.
    """
    needed = {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith(folder.family.unneeded)
    }
    changed = [name for name, tensor in needed.items() if _digest(tensor) not in in_files]
    _refuse(folder, [f"transformers has changed the values of: {few_of(changed, MAX_LISTED)}"] if changed else [])


def _refuse(folder: ModelFolder, problems: Iterable[str]) -> None:
    if problems := [*problems]:
        title = f"{folder.path}: the weights do not belong to the {folder.family.network} of config.json"
        raise WeightsError("\n  ".join([title, *problems]))


def _digest(tensor: Tensor) -> Digest:
    """Returns the shape of `tensor` and a digest of its values in float32."""
    values = tensor.detach().to(torch.float32).contiguous()
    return tensor.shape, xxhash.xxh3_64_intdigest(values.numpy().data)


def _shapes(name: str, theirs: Any, ours: Any) -> str:
    return f"{name} {[*theirs]}, here {[*ours]}"

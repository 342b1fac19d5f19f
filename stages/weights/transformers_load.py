"""Loads the weights of a network of transformers from the safetensors files of its folder, and checks every tensor.

transformers renames tensors while it loads them. It fills a tensor that the file lacks with random numbers or zeros,
and leaves out a tensor that it does not know. So this module compares the loaded network with the file.
"""

import hashlib
import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash
from torch import Tensor, nn

from kinegraph.cache_schemas.regular import NotRegularError, open_regular, require_regular
from kinegraph.cache_schemas.words import few_of, sentence
from kinegraph.stages.errors import UsageError, WeightsError
from kinegraph.stages.weights.transformers_files import CONFIG, weight_files

OLDEST = (5, 18)  # earlier releases load VideoMAE's biases as zeros, without an error
ATTENTION = ("_attn_implementation", "attn_implementation")  # keys of config.json that are replaced
MAX_LISTED = 12
Digest = tuple[torch.Size, int]


@contextmanager
def refusals(folder: Path, network: str) -> Iterator[None]:
    """Returns a context for calls of transformers. The context raises WeightsError in place of any error of these
    calls, because the errors of transformers have many types and name no file.

    `folder` is the folder of the network. `network` is the name of its class, for the message.
    """
    try:
        yield
    except Exception as error:
        raise WeightsError(
            f"{folder / CONFIG}: transformers cannot build this {network}: "
            f"{type(error).__name__}: {sentence(error)} If the file was changed, take the published one"
        ) from error


def class_and_config(
    folder: Path, module: str, network: str, config: str, values: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Returns (class, config) from transformers: the class of the network in `folder`, and the object with its config.
    The network will use torch's fused attention if it can.

    `module` is the file of transformers with both classes, below `transformers.models`. `network` and `config` are the
    names of the classes. `values` is the content of `config.json`. Raises UsageError if transformers is not installed
    or too old. Raises WeightsError if transformers refuses a value.
    """
    try:
        import transformers
    except ImportError as error:
        raise UsageError(f"transformers/{folder} needs transformers: pip install 'kinegraph[transformers]'") from error
    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST:
        raise UsageError(
            f"transformers {transformers.__version__} is installed, allowed: {OLDEST[0]}.{OLDEST[1]} or later. Earlier "
            "releases load the biases of VideoMAE as zeros: pip install -U 'kinegraph[transformers]'"
        )
    classes = importlib.import_module(f"transformers.models.{module}")
    network_class = getattr(classes, network)
    with refusals(folder, network):
        made = getattr(classes, config).from_dict({key: value for key, value in values.items() if key not in ATTENTION})
    made._attn_implementation = "sdpa" if network_class._supports_sdpa else "eager"
    return network_class, made


def load_network(
    folder: Path, network_class: Any, config: Any, *, left_out: Collection[str] = (), unneeded: Collection[str] = ()
) -> nn.Module:
    """Returns a network of the class `network_class` with the options `config` and the weights in `folder`, in float32.

    `left_out` are beginnings of the names of tensors in the files that are not loaded. `unneeded` are beginnings of the
    names of tensors of the network that the files may lack.

    Raises WeightsError if the files are missing or damaged, or if a tensor is missing, unknown or of another shape.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= _read(file)
    in_files = {_digest(tensor) for tensor in state.values()}  # before transformers gets the tensors
    title = f"{folder}: the weights do not belong to the {network_class.__name__} of config.json"
    with refusals(folder, network_class.__name__):
        network, report = _loaded(network_class, config, state)
    _require_complete(title, report, tuple(left_out), tuple(unneeded))
    _require_equal(title, network, in_files, tuple(unneeded))
    return network


def files_digest(folder: Path) -> str:
    """Returns the sha256 of the safetensors file in `folder`. If there are several files, their sha256 digests are
    joined to one text, in the order of the file names. The sha256 of this text is returned.
    """
    digests = []
    for path in weight_files(folder):
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
    """Loads the tensors `state` with transformers. Returns (network, transformers' report of its loading). Nothing is
    printed, and no file is opened.
    """
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


def _require_complete(
    title: str, report: Mapping[str, Any], left_out: tuple[str, ...], unneeded: tuple[str, ...]
) -> None:
    """Raises WeightsError if a tensor is missing, has another shape, or is in the file without a known reason."""
    known = (*left_out, *unneeded)
    problems = {
        "in the network only": (name for name in report["missing_keys"] if not name.startswith(unneeded)),
        "in the file only": (
            name for name in report["unexpected_keys"] if not (name.startswith(known) or _counts(name))
        ),
        "of another shape": (_shapes(*item) for item in report["mismatched_keys"] if not item[0].startswith(unneeded)),
    }
    listed = {where: sorted(names) for where, names in problems.items()}
    _refuse(title, [f"{where}: {few_of(names, MAX_LISTED)}" for where, names in listed.items() if names])


def _counts(name: str) -> bool:
    """Returns whether the tensor `name` counts training steps of a batch norm. A frozen norm has no such tensor."""
    return name.endswith(".num_batches_tracked")


def _require_equal(title: str, network: nn.Module, in_files: Collection[Digest], unneeded: tuple[str, ...]) -> None:
    """Raises WeightsError if a tensor of `network` has values that no tensor of the files has. `in_files` are the
    digests of the tensors of the files. Names are not compared, because transformers renames tensors.
    """
    needed = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(unneeded)}
    changed = [name for name, tensor in needed.items() if _digest(tensor) not in in_files]
    _refuse(title, [f"transformers has changed the values of: {few_of(changed, MAX_LISTED)}"] if changed else [])


def _refuse(title: str, problems: Iterable[str]) -> None:
    if problems := [*problems]:
        raise WeightsError("\n  ".join([title, *problems]))


def _digest(tensor: Tensor) -> Digest:
    """Returns the shape of `tensor` and a digest of its values in float32."""
    values = tensor.detach().to(torch.float32).contiguous()
    return tensor.shape, xxhash.xxh3_64_intdigest(values.numpy().data)


def _shapes(name: str, theirs: Any, ours: Any) -> str:
    return f"{name} {[*theirs]}, here {[*ours]}"

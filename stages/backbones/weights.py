"""Weights for frozen networks: from files read without running code, or random and calibrated.

`weights` is a name from a catalogue entry, a local path, or `random:<seed>`. Where a function takes `named`, these
are the entry's named weights.
"""

import hashlib
import pickle
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidual

from stages.backbones.catalogue import WeightSource
from stages.errors import UsageError

WRAPPERS = ("model_state", "state_dict", "model")
BRANCH_GAIN, LINEAR_GAIN = 0.2, 0.5**0.5
STAGES_FOLDER = Path(__file__).parents[1]


class WeightsError(UsageError):
    """Weights that cannot be found or do not belong to the network."""


def load_weights(
    network: nn.Module,
    weights: str,
    named: Mapping[str, WeightSource],
    is_ignored: Callable[[str], bool] = lambda key: False,
) -> None:
    """Fill all parameters and buffers of `network` in place.

    is_ignored: keys of a file that are left out deliberately (classifier, layers above the cut).
    Raises WeightsError if there are no such weights, the file is damaged, or keys are left over or missing.
    """
    seed = _seed(weights)
    if seed is not None:
        initialise(network, seed)
        return
    path = locate(weights, named)
    _check_sha256(path, named.get(weights))
    state = {key: value for key, value in read_state(path).items() if not is_ignored(key)}
    _fill(network, state, path)


def weights_digest(network: nn.Module, weights: str, named: Mapping[str, WeightSource]) -> str:
    """Identity of the weights for fingerprints: sha256 of the file.

    For `random:<seed>` the sha256 over the tensors of `network`: names, dtypes, shapes and bytes in order.
    """
    if _seed(weights) is None:
        return _sha256(locate(weights, named))
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def locate(weights: str, named: Mapping[str, WeightSource]) -> Path:
    """The file of these weights; a public one is downloaded to torch hub's folder at first use.

    Raises WeightsError if there is no such file.
    """
    source = named.get(weights)
    if source is None:
        path = Path(weights).expanduser()
        if not path.is_file():
            names = ", ".join([*named, "random:<seed>"])
            raise WeightsError(f"weights {weights!r} are neither a file nor one of {names}")
        return path
    if source.path is not None:
        return STAGES_FOLDER / source.path
    path = Path(torch.hub.get_dir()) / "checkpoints" / source.file_name
    if not path.exists():
        _download(source, path)
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: bare or under one of WRAPPERS, without a `module.` in front of every key."""
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path}: cannot be read as a file of tensors: {error}") from error
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if key in content), content)
    if not isinstance(content, dict) or not all(isinstance(x, Tensor) for x in content.values()):
        raise WeightsError(f"{path}: expected a state dict, bare or under one of {', '.join(WRAPPERS)}")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def initialise(network: nn.Module, seed: int) -> None:
    """Random weights that keep activations near one through any depth, in place, without torch's global generator.

    Convolutions are drawn as by He et al. 2015 (arXiv 1502.01852, eq. 10), which keeps the second moment from one
    ReLU to the next. In a residual network each branch would add twice the second moment of its input, and the
    33 blocks of a ResNet-101 overflow float16; so the last norm of each branch gets the gain BRANCH_GAIN (growth
    1 + 2 BRANCH_GAIN^2 a block), and shortcuts and linear projections, which no ReLU follows, keep the moment. The
    layers are drawn from bottom to top and do not depend on where the network is cut.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.reset_parameters()
    for norm, gain in _norms_before_no_relu(network):
        nn.init.constant_(norm.weight, gain)


def _norms_before_no_relu(network: nn.Module) -> Iterator[tuple[Any, float]]:
    """The norms that end a branch, a shortcut or a linear projection, of blocks named as torchvision's; their gain."""
    module: Any
    for module in network.modules():
        if hasattr(module, "downsample"):
            yield getattr(module, "bn3", None) or module.bn2, BRANCH_GAIN
            if module.downsample is not None:
                yield module.downsample[1], LINEAR_GAIN
        elif isinstance(module, InvertedResidual):
            yield module.block[-1][1], BRANCH_GAIN if module.use_res_connect else LINEAR_GAIN


def _seed(weights: str) -> int | None:
    """The seed of `random:<seed>`; None if `weights` is something else."""
    kind, _, seed = weights.partition(":")
    if kind != "random":
        return None
    if not seed.isdecimal():
        raise WeightsError(f"weights {weights!r}: expected random:<seed> with a whole number from 0")
    return int(seed)


def _fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        # A plain dict has no version: torch then renames what older torchvision files call otherwise.
        network.load_state_dict(state)
    except RuntimeError as error:
        # One line lists the missing keys, one the unused ones, the others a shape each; of another network, hundreds.
        lines = [textwrap.shorten(line, 600) for line in str(error).splitlines()[1:10]]
        raise WeightsError("\n  ".join([f"{path} does not belong to this network:", *lines])) from error


def _download(source: WeightSource, path: Path) -> None:
    assert source.url is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(source.url, str(path), source.sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot download {source.url} ({error}); put the file {source.file_name} "
            f"(sha256 {source.sha256}...) into the folder {path.parent}"
        ) from error


def _check_sha256(path: Path, source: WeightSource | None) -> None:
    if source is not None and not (seen := _sha256(path)).startswith(source.sha256):
        raise WeightsError(f"{path}: sha256 is {seen}, expected {source.sha256}...; delete the file and try again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

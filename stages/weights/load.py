"""Weights for frozen networks: from files read without running code, or random and calibrated.

`weights` is a name from a catalogue entry, a local path, or `random:<seed>`. Where a function takes `named`, these
are the entry's named weights.
"""

import hashlib
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.errors import WeightsError
from stages.weights.files import read_state
from stages.weights.random import initialise
from stages.weights.sources import WeightSource

STAGES_FOLDER = Path(__file__).parents[1]


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

    For `random:<seed>` that of the tensors of `network`.
    """
    if _seed(weights) is None:
        return _sha256(locate(weights, named))
    return tensors_digest(network)


def tensors_digest(network: nn.Module) -> str:
    """sha256 over the tensors of `network`: names, dtypes, shapes and bytes in order."""
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

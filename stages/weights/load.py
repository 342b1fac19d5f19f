"""Loads the weights of frozen networks from files, or draws them at random. No code in a file is run.

The parameter `weights` of these functions is a name, a local path, or `random:<seed>`. The parameter `sources` is
{name: WeightSource} of the names that a network allows. A WeightSource describes a file.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Size, nn

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.regular import NotRegularError, open_regular, require_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state
from kinegraph.stages.weights.fill import fill
from kinegraph.stages.weights.formats.convert import Converted, convert
from kinegraph.stages.weights.formats.format import State
from kinegraph.stages.weights.random import initialise
from kinegraph.stages.weights.sources import HubFile, WeightSource, known_source

STAGES_FOLDER = Path(__file__).parents[1]


def load_weights(
    network: nn.Module,
    weights: str,
    sources: Mapping[str, WeightSource],
    is_ignored: Callable[[str], bool] = lambda name: False,
    *,
    above: Mapping[str, Size] = MappingProxyType({}),
    model: str = "",
    other_forms: Sequence[str] = (),
) -> None:
    """Fills all parameters and buffers of `network` in place, from a weights file or at random.

    - `weights`: a name in `sources`, a local path, or `random:<seed>`.
    - `sources`: {name: WeightSource}, the files that have a name for this network.
    - `is_ignored`: returns True for the name of a tensor of the file that must not be used.
    - `above`: {name: shape} of tensors in removed layers, such as the classifier. The file may have them, but they are
      not used.
    - `model`: the name of the network in its catalogue, for messages.
    - `other_forms`: further values of `weights` that the message of an error lists.

    Raises WeightsError if there are no such weights, if the file is damaged, or if file and network do not have the
    same tensors.
    """
    seed = _seed(weights)
    if seed is not None:
        initialise(network, seed)
        return
    path, source = locate(weights, sources, other_forms), known_source(weights, sources)
    _check_sha256(path, source)
    state = read_known(path, source)
    from_published = getattr(network, "from_published", None)
    if weights in sources and from_published is not None:
        state = from_published(state)
    converted = convert(state)
    _check_classes(path, converted, source, sources)
    title = f"{path} does not belong to {model or 'this network'}"
    if not model.startswith(converted.format.only_for):
        raise WeightsError(f"{title}: it has {converted.format.name}, of networks that shift channels in time")
    try:
        fill(network, converted, above, is_ignored)
    except WeightsError as error:
        raise WeightsError(f"{title}: {error}") from error


def read_known(path: Path, source: WeightSource | None) -> State:
    """Reads the weights file `path`. Returns {name: tensor}. `source` describes the file, or is None.

    Raises WeightsError if the file is damaged, asks for code, or holds anything but arrays. If the file has a public
    URL, the message also says how to download it again.
    """
    try:
        return read_state(path)
    except WeightsError as error:
        if source is None or source.url is None:
            raise
        raise WeightsError(f"{error}; if its download was cut off, delete it and try again") from error


def weights_digest(network: nn.Module, weights: str, sources: Mapping[str, WeightSource]) -> str:
    """Returns the sha256 of the weights `weights`, which the fingerprint of a cache covers.

    `weights` is a name in `sources`, a local path or `random:<seed>`. For a name or a path, the digest is that of the
    file. For `random:<seed>`, the digest is that of the tensors of `network`.
    """
    if _seed(weights) is None:
        return _sha256(locate(weights, sources))
    return tensors_digest(network)


def tensors_digest(network: nn.Module) -> str:
    """Returns one sha256 of all tensors of `network`, in the order of its state dict. The digest covers names, dtypes,
    shapes and values.
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def locate(weights: str, sources: Mapping[str, WeightSource], other_forms: Sequence[str] = ()) -> Path:
    """Returns the path of the weights file that `weights` names: a local path, or a name in `sources`. A public file is
    downloaded to torch hub's folder at first use.

    Raises WeightsError if there is no such file, or if it cannot be downloaded. The message lists the allowed values of
    `weights`, among them `other_forms`, which are texts such as `inflate:...`.
    """
    source = sources.get(weights)
    if source is None:
        path = Path(weights).expanduser()
        if not path.is_file():
            _refuse_irregular(path)
            names = ", ".join([*sources, "random:<seed>", *other_forms])
            raise WeightsError(f"weights {weights!r} are neither a file nor one of {names}")
        return path
    if source.path is not None:
        return STAGES_FOLDER / source.path
    if source.hub is not None:
        return _in_hub_folder(source.hub)
    path = Path(torch.hub.get_dir()) / "checkpoints" / source.file_name
    if not path.exists():
        _download(source, path)
    return path


def _in_hub_folder(file: HubFile) -> Path:
    """Returns the path of `file` in the folder where Hugging Face's tools keep downloads on this machine. Raises
    WeightsError if the folder does not have the file. Nothing is downloaded.
    """
    import huggingface_hub

    for name in file.names:
        path = huggingface_hub.try_to_load_from_cache(file.repository, name)
        if isinstance(path, str):
            return Path(path)
    folder = huggingface_hub.constants.HF_HUB_CACHE
    raise WeightsError(
        f"{' or '.join(dict.fromkeys(file.names))} of {file.repository} is not in {folder}. Nothing is downloaded. "
        f"Run `hf download {file.repository} {file.names[0]}` where there is a network (HF_HOME chooses the folder), "
        "or give the path of a file"
    )


def _refuse_irregular(path: Path) -> None:
    try:
        require_regular(path)
    except NotRegularError as error:
        raise WeightsError(str(error)) from error
    except (OSError, ValueError):
        return  # there is no such file; the caller raises the error


def _seed(weights: str) -> int | None:
    """Returns the seed of the weights `random:<seed>`: "random:3" -> 3. Returns None for other weights.

    Raises WeightsError if the seed is not a whole number from 0.
    """
    kind, _, seed = weights.partition(":")
    if kind != "random":
        return None
    if not seed.isdecimal():
        raise WeightsError(f"weights {weights!r}: expected random:<seed> with a whole number from 0")
    return int(seed)


def _download(source: WeightSource, path: Path) -> None:
    assert source.url is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with stopping.threads(1, "download") as pool:  # in a thread, because a download has no safe points
            download = partial(torch.hub.download_url_to_file, progress=False)
            stopping.result(pool.submit(download, source.url, str(path), source.sha256 or None))
    except (OSError, RuntimeError) as error:
        digest = f"sha256 {source.sha256}..." if source.sha256 else "its sha256 is not published"
        raise WeightsError(
            f"cannot download {source.url} ({error}); put the file there into the folder {path.parent} "
            f"(TORCH_HOME chooses another) as {source.file_name} ({digest})"
        ) from error


def _check_sha256(path: Path, source: WeightSource | None) -> None:
    if source is None or not source.sha256 or (seen := _sha256(path)).startswith(source.sha256):
        return
    raise WeightsError(
        f"{path}: sha256 is {seen}, expected {source.sha256}...; delete the file and try again, "
        "or rename it if it is another one"
    )


def _check_classes(
    path: Path, converted: Converted, source: WeightSource | None, sources: Mapping[str, WeightSource]
) -> None:
    """Raises WeightsError if the weights of the file `path`, `converted`, have another number of classes than `source`,
    the public file of the same name. Does nothing if `source` is None, or if one of the two numbers is not known.

    A file with another number of classes is not the public file, and its network may expect other pixels. `sources` has
    all public files of the network, for the message.
    """
    if source is None or source.classes is None or converted.classes in (None, source.classes):
        return
    twins = [x.file_name for x in sources.values() if x.classes == converted.classes and str(x.url).endswith(path.name)]
    raise WeightsError(
        f"{path}: has {counted(converted.classes, 'class')}, the public {source.file_name} has {source.classes}; "
        "rename it"
        + (f" to {twins[0]} if it is the public file of that many classes, else" if twins else "")
        + ", and say what it expects (mean, std, channel_order) if that is not usual for its network"
    )


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        about = os.fstat(file.fileno())
        return _sha256_of(path, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))


@lru_cache(8)
def _sha256_of(path: Path, identity: tuple[int, ...]) -> str:
    """Returns the sha256 of a file. The function remembers results, because a worker needs the sha256 of a public file
    twice. `identity` is the device, inode, size and time of change of the file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

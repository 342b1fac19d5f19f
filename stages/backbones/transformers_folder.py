"""Describes a backbone of transformers from the `config.json` in its folder. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kinegraph.stages.backbones.transformers_families import FAMILIES, ModelFamily, family_of
from kinegraph.stages.weights.transformers_files import (
    CONFIG,
    TRANSFORMERS_PREFIX,
    config_digest,
    find_folder,
    read_config,
    unknown_type,
)

OTHERWISE = "Features that another program made come in with `kinegraph import`"
PROJECTION = "projection_dim"  # of images and texts, so it stands above the config of the network of images


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """The description of the network in the folder `path`. `family` is its family."""

    path: Path
    family: ModelFamily
    # The content of its `config.json`, with the family's defaults. If the file also describes a text network, only the
    # part about the network of images.
    config: Mapping[str, Any]
    width: int  # number of channels of the tokens
    num_layers: int  # number of layers
    # `patch_px`, `patch_frames`: side of a patch in px, and its number of frames
    patch_px: int
    patch_frames: int
    # `size`, `num_frames`: side in px and number of frames of the input for which the network was made
    size: int
    num_frames: int
    num_prefix: int  # number of tokens before the patch tokens

    @property
    def norm(self) -> str | None:
        """Returns the dotted path of the final norm, the norm above the last layer. Returns None if the network has
        none.
        """
        return self.family.norm_of(self.config)

    @property
    def head_channels(self) -> int | None:
        """Returns the number of channels of the output `head` after the last tap, or None if the network has no such
        output.
        """
        if not self.family.head or not self.config.get("vision_use_head", True):
            return None
        return int(self.config.get(PROJECTION, self.width))

    @property
    def identity(self) -> dict[str, str | int]:
        """Returns {option: value} by which the fingerprint of a cache identifies the network. The result does not
        contain the path of the folder, because a folder may be moved.
        """
        model = f"{TRANSFORMERS_PREFIX}{self.family.model_type}"
        return {"model": model, "config_sha256": self.config_sha256, "patch_px": self.patch_px}

    @property
    def config_sha256(self) -> str:
        """Returns the sha256 of those values of `config` that change the features."""
        return config_digest(self.config)


def read_folder(name: str) -> ModelFolder:
    """Returns the description of the network `name`, from the files in its folder. `name` is the path of the folder, or
    the id of a repository in the hub's local cache.

    Raises ValueError if there is no such folder, if kinegraph does not know the network, or if the folder has code.
    """
    folder = find_folder(name)
    status = (folder / CONFIG).stat()
    return _read(folder, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read(folder: Path, mtime_ns: int, num_bytes: int) -> ModelFolder:
    """Reads `folder`. `mtime_ns` and `num_bytes` are the time of change and the size of its `config.json`. The file is
    read again if they differ.
    """
    file = folder / CONFIG
    whole = read_config(folder)
    family = family_of(whole)
    if family is None:
        raise unknown_type(folder, whole, FAMILIES, OTHERWISE)
    config = whole if family.vision is None else whole.get(family.vision)
    if not isinstance(config, dict):
        raise ValueError(f"{file}: has no {family.vision}, which describes the network of images")
    if PROJECTION in whole:
        config = config | {PROJECTION: whole[PROJECTION]}
    return describe_folder(file, family, config)


def describe_folder(file: Path, family: ModelFamily, config: Mapping[str, Any]) -> ModelFolder:
    """Returns the ModelFolder, the description of a network in a folder, of a network of `family`. `config` is the
    content of the `config.json` at the path `file`.

    Raises ValueError if a value that decides about shapes is wrong.
    """
    values = {**family.defaults, **config}
    if (channels := values.get("in_chans", values.get("num_channels"))) != 3:
        raise ValueError(f"{file}: num_channels: given {channels!r}, allowed: 3, because clips are RGB")

    def number(key: str | None, *, axis: int = -1, default: int | None = None) -> int:
        value = default if key is None else values.get(key, default)
        if isinstance(value, list) and value and value[-1] == value[-2:][0]:  # ([frames,] rows, columns)
            value = value[axis]
        if not isinstance(value, int) or isinstance(value, bool) or value < (1 if default is None else default):
            raise ValueError(f"{file}: {key}: given {values.get(str(key))!r}, allowed: a whole number above 0")
        return value

    return ModelFolder(
        path=file.parent,
        family=family,
        config=values,
        width=number("hidden_size"),
        num_layers=number("num_hidden_layers"),
        patch_px=number(family.patch),
        patch_frames=number(family.tubelet, axis=0, default=1),
        size=number(family.size),
        num_frames=number(family.frames, default=1),
        num_prefix=int(family.class_token) + number("num_register_tokens", default=0),
    )

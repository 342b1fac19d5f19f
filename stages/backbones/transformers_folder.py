"""Reads the folder of a network of transformers: its `config.json`, and which files have its weights. Torch-free.

The folder is one that transformers writes with `save_pretrained`, or a repository of the Hugging Face hub that is in
the local cache of the hub. Nothing is downloaded, and no code in the folder is run.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.fingerprint import canonical
from kinegraph.cache_schemas.regular import CONFIG_BYTES, read_regular
from kinegraph.stages.backbones.transformers_families import FAMILIES, ModelFamily, family_of
from kinegraph.stages.errors import WeightsError

TRANSFORMERS_PREFIX = "transformers/"
CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
# Keys of config.json that say nothing about the values of features.
WITHOUT_EFFECT = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "torch_dtype",
    "transformers_version",
}
PROJECTION = "projection_dim"  # of images and texts, so it stands above the config of the network of images
CODE = "auto_map"  # names Python files of the folder that transformers would run


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """The network that the folder `path` describes. `family` is its family, and `config` its `config.json`, or the part
    of this file that describes the network of images, with the family's defaults.

    width: number of channels of the tokens.
    num_layers: number of layers.
    patch_px, patch_frames: side of a patch in px, and its number of frames.
    size, num_frames: side in px and number of frames of the input for which the network was made.
    num_prefix: number of tokens before the patch tokens.
    """

    path: Path
    family: ModelFamily
    config: Mapping[str, Any]
    width: int
    num_layers: int
    patch_px: int
    patch_frames: int
    size: int
    num_frames: int
    num_prefix: int

    @property
    def norm(self) -> str | None:
        """Returns the path in the network of the norm above the last layer, or None if the network has no such norm."""
        return self.family.norm_of(self.config)

    @property
    def head_channels(self) -> int | None:
        """Returns the number of channels of the output `head`, or None if the network has no such output."""
        if not self.family.head or not self.config.get("vision_use_head", True):
            return None
        return int(self.config.get(PROJECTION, self.width))

    @property
    def identity(self) -> dict[str, str | int]:
        """Returns what a fingerprint says of the network in place of the path of its folder, which may be moved."""
        model = f"{TRANSFORMERS_PREFIX}{self.family.model_type}"
        return {"model": model, "config_sha256": self.config_sha256, "patch_px": self.patch_px}

    @property
    def config_sha256(self) -> str:
        """Returns the sha256 of the part of `config` on which features depend."""
        effective = {key: value for key, value in self.config.items() if key not in WITHOUT_EFFECT}
        return hashlib.sha256(canonical(effective).encode()).hexdigest()

    def weight_files(self) -> tuple[Path, ...]:
        """Returns the safetensors files of the folder that have the weights of the network.

        Raises WeightsError if there is none, or if one of several files is missing.
        """
        if (self.path / WEIGHTS).is_file():
            return (self.path / WEIGHTS,)
        if not (self.path / INDEX).is_file():
            pickled = sorted(file.name for file in self.path.glob("pytorch_model*.bin"))
            raise WeightsError(
                f"{self.path}: has no {WEIGHTS}"
                + (f". {pickled[0]} is a pickle, which is not read" if pickled else "")
                + ". Save the network again with `save_pretrained`, which writes safetensors."
            )
        names = sorted(set(json_object(self.path / INDEX).get("weight_map", {}).values()))
        wrong = [name for name in names if Path(name).name != name or not (self.path / name).is_file()]
        if wrong or not names:
            raise WeightsError(f"{self.path / INDEX}: names {wrong[:1] or 'no file'}, which the folder does not have")
        return tuple(self.path / name for name in names)


def read_folder(name: str) -> ModelFolder:
    """Returns the network `name`, which is the path of a folder or the id of a repository in the hub's local cache.

    Raises ValueError if there is no such folder, if kinegraph does not know the network, or if the folder has code.
    """
    folder = find_folder(name)
    status = (folder / CONFIG).stat()
    return _read(folder, status.st_mtime_ns, status.st_size)


def find_folder(name: str) -> Path:
    """Returns the folder of the network `name`, which is a path or the id of a repository, such as
    `MCG-NJU/videomae-base`. A repository must be in the hub's local cache.

    Raises ValueError if neither has a `config.json`.
    """
    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        return folder.resolve()
    cached = _in_hub_cache(name)
    if cached is not None:
        return cached
    if folder.is_dir():
        raise ValueError(f"given {TRANSFORMERS_PREFIX}{name}, allowed: a folder with a {CONFIG}; {folder} has none")
    raise ValueError(
        f"given {TRANSFORMERS_PREFIX}{name}, allowed: a folder that `save_pretrained` wrote, or the id of a repository "
        f"in {hub_cache()}, which does not have it. kinegraph downloads nothing here: hf download {name}"
    )


def absolute(model: str) -> str:
    """Returns the option `model` of a config with an absolute path, if it names a folder. Another name of a model is
    returned unchanged.
    """
    folder = Path(model.removeprefix(TRANSFORMERS_PREFIX)).expanduser()
    if model.startswith(TRANSFORMERS_PREFIX) and (folder / CONFIG).is_file():
        return f"{TRANSFORMERS_PREFIX}{folder.resolve()}"
    return model


def hub_cache() -> Path:
    """Returns the folder in which the package huggingface_hub keeps what it has downloaded."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if given:
        return Path(given).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.environ.get("HF_HOME", cache)).expanduser() / "hub"


def _in_hub_cache(name: str) -> Path | None:
    if name.count("/") > 1 or name.startswith(("/", ".", "~")):
        return None
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    folder = repository / "snapshots" / commit
    return folder if (folder / CONFIG).is_file() else None


@lru_cache(maxsize=64)
def _read(folder: Path, mtime_ns: int, num_bytes: int) -> ModelFolder:
    """Reads `folder`. `mtime_ns` and `num_bytes` of its `config.json` say whether the file has changed since."""
    file = folder / CONFIG
    whole = json_object(file)
    if CODE in whole:
        raise ValueError(
            f"{file}: has {CODE}, so the network is Python code in the folder. kinegraph runs no such code. Use a "
            "network that transformers has itself."
        )
    family = family_of(whole)
    if family is None:
        raise ValueError(f"{file}: model_type is {whole.get('model_type')!r}, allowed: {', '.join(FAMILIES)}")
    config = whole if family.vision is None else whole.get(family.vision)
    if not isinstance(config, dict):
        raise ValueError(f"{file}: has no {family.vision}, which describes the network of images")
    if PROJECTION in whole:
        config = config | {PROJECTION: whole[PROJECTION]}
    return described(file, family, config)


def described(file: Path, family: ModelFamily, config: Mapping[str, Any]) -> ModelFolder:
    """Returns the network of `family` with the values `config`, which come from the `config.json` at `file`.

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


def json_object(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file of the folder. Raises ValueError if it is no JSON object."""
    try:
        content = json.loads(read_regular(file, CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content

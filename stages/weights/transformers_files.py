"""Finds the folder of a network of transformers, and reads its `config.json` and the list of its weight files.
Torch-free.

The folder is one that transformers writes with `save_pretrained`, or a repository of the Hugging Face hub that is in
the local cache of the hub. Nothing is downloaded, and no code in the folder is run.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.fingerprint import canonical
from kinegraph.cache_schemas.regular import CONFIG_BYTES, read_regular
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
# What to do with a network that is not allowed where it stands. `model_type` in config.json -> a sentence.
_AS_PROPOSALS = "This is a detector. Name it under `proposals`, with `source: transformers`"
_AS_BOX_FILES = "Write its boxes to files, with their classes: `proposals: {source: file}` (docs/networks.md)"
ELSEWHERE = {
    "hiera": "timm has this network: `model: timm/hiera_base_224` (pip install 'kinegraph[timm]')",
    "siglip2": "Networks of SigLIP 2 with one size have the model_type siglip. This one takes images of many sizes",
    **dict.fromkeys(("detr", "rt_detr", "rt_detr_v2"), _AS_PROPOSALS),
    **dict.fromkeys(("grounding-dino", "mm-grounding-dino"), _AS_BOX_FILES),
}
SHA256_DIGITS = 64  # a plan may have a sentence in place of a digest
CODE = "auto_map"  # names Python files of the folder that transformers would run


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the content of `config.json` in `folder`, the folder of a network of the package transformers.

    Raises ValueError if the file cannot be read, or if the network needs Python code from the folder
    (`trust_remote_code`).
    """
    file = folder / CONFIG
    content = json_object(file)
    if CODE in content:
        raise ValueError(
            f"{file}: has {CODE}, so the network is Python code in the folder. kinegraph runs no such code. Use a "
            "network that transformers has itself."
        )
    return content


def unknown_type(folder: Path, config: Mapping[str, Any], allowed: Iterable[str], otherwise: str) -> ValueError:
    """Returns a ValueError about a `config.json` whose `model_type` is not in `allowed`. The caller raises it. The
    message says what to do.

    `config` is the content of the `config.json` in `folder`. `otherwise` is the advice for a `model_type` that has no
    advice of its own.
    """
    given = config.get("model_type")
    remedy = ELSEWHERE.get(str(given), otherwise)
    return ValueError(f"{folder / CONFIG}: model_type is {given!r}, allowed: {', '.join(allowed)}. {remedy}")


def config_digest(config: Mapping[str, Any]) -> str:
    """Returns the sha256 of those values of `config` that change the outputs of the network. `config` is the content of
    a `config.json`.
    """
    effective = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    return hashlib.sha256(canonical(effective).encode()).hexdigest()


def changed_folder(cached: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Returns a sentence for a message if the folder of a network has changed since a cache was made. Returns "" if it
    has not changed.

    `cached` are the options of the stage in the cache. `asked` are its options in the config. Both have digests of
    `config.json` and of the weights, which are compared.
    """
    if not {"config_sha256", "weights_sha256"} <= cached.keys() & asked.keys():
        return ""
    names = {"config_sha256": CONFIG, "weights_sha256": "the weights"}
    changed = [name for key, name in names.items() if cached[key] != asked[key] and len(asked[key]) == SHA256_DIGITS]
    if not changed:
        return ""
    return (
        f"The folder of the network has changed since the cache was made: {' and '.join(changed)}. Put the files back."
    )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the paths of the safetensors files in `folder` that have the weights of the network.

    Raises WeightsError if there is no such file, or if a file is missing that the list of weight files in the folder
    names.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / INDEX).is_file():
        pickled = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
        raise WeightsError(
            f"{folder}: has no {WEIGHTS}"
            + (f". {pickled[0]} is a pickle, which is not read" if pickled else "")
            + ". Save the network again with `save_pretrained`, which writes safetensors."
        )
    names = sorted(set(json_object(folder / INDEX).get("weight_map", {}).values()))
    wrong = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if wrong or not names:
        raise WeightsError(f"{folder / INDEX}: names {wrong[:1] or 'no file'}, which the folder does not have")
    return tuple(folder / name for name in names)


def find_folder(name: str) -> Path:
    """Returns the path of the folder of a network. `name` is a path, or the id of a repository in the hub's local
    cache, such as `MCG-NJU/videomae-base`.

    Raises ValueError if there is no such folder with a `config.json`.
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
    """Returns the option `model` of a config with an absolute path: `transformers/nets/vit` -> `transformers/<absolute
    path>`. If `model` names no folder, returns it unchanged.
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


def json_object(file: Path) -> dict[str, Any]:
    """Returns the content of the JSON file `file`. Raises ValueError if the file cannot be read or is not a JSON
    object.
    """
    try:
        content = json.loads(read_regular(file, CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content

"""Writes and reads the state of a training run. A run that was interrupted continues from its state, with the same
result as without the interruption.
"""

import io
import pickle
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from kinegraph.cache_schemas.documents import shortened
from kinegraph.cache_schemas.files import remove_durably, write_whole
from kinegraph.cache_schemas.fingerprint import differences
from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.errors import UsageError, WeightsError
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.clips import Clips, clips_identity
from kinegraph.stages.training.options import FREE, TrainOptions
from kinegraph.stages.training.records import STATE_FILE
from kinegraph.stages.training.together import num_processes
from kinegraph.stages.weights.torch_files import require_sound

ADVICE = "Remove it, or begin the run anew with --overwrite."
KINDS: dict[str, type | tuple[type, ...]] = {
    "head": dict,
    "optimizer": dict,
    "scaler": dict,
    "ema": (dict, NoneType),
    "generators": list,
    "epoch_order": torch.Tensor,
    "step": int,
    "step_of_epoch": int,
    "losses": list,
    "history": list,
    "best": dict,
    "seconds": float,
}
# Options that states of earlier versions lack -> the value that is as before.
LATER = {"over": "clips", "max_windows": None, "start_from": None, "views_per_epoch": None, "loss_reduction": "mean"}
# Errors that torch raises for other contents.
MISFITS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)


class StateError(UsageError):
    """Raised if a file with the state of a run cannot be read, is damaged, or has the state of another run."""


def identity(head: Head, clips: Clips, val_clips: Clips | None, options: TrainOptions) -> dict[str, Any]:
    """Returns a dictionary that identifies the training run of `head` on `clips`. A run continues from a saved state
    only if both have equal dictionaries.

    The dictionary has the options of the training and of the head, the number of processes, the fingerprint of the
    features, and digests of the clips and labels. It lacks options that do not change the result, such as the folder of
    the run.
    """
    recipe = options.model_dump(mode="json", exclude=FREE)
    for key, before in LATER.items():
        if recipe[key] == before:
            del recipe[key]
    recipe |= {"options": head.options, "processes": num_processes(), "features": clips.cache_fingerprint}
    return recipe | {"train": clips_identity(clips), "val": None if val_clips is None else clips_identity(val_clips)}


def save_state(path: Path, state: dict[str, Any], of: dict[str, Any]) -> None:
    """Writes the state of a run to the file `path`. After a crash, the file is the old file or the new file, never a
    part of the new file.

    `state` has tensors, numbers, strings, and lists and dictionaries of these. `of` is the dictionary that `identity`
    returns for the run. The file has `state` and `of`.
    """
    buffer = io.BytesIO()
    torch.save({"of": of, "state": state}, buffer)
    write_whole(path, [buffer.getbuffer()])


def load_state(path: Path, of: dict[str, Any]) -> dict[str, Any] | None:
    """Reads the state of a training run from the file `path` and returns it, with tensors on the CPU. Returns None if
    the file does not exist. Code in the file is never run.

    `of` is the dictionary that `identity` returns for the run that continues. Raises StateError if the file cannot be
    read, is damaged, or has the state of another run.
    """
    try:
        require_sound(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except WeightsError as error:
        raise damaged_state(path, str(error).removeprefix(f"{path}: ")) from error
    except OSError as error:
        raise StateError(f"{path} cannot be read: {sentence(error)} {ADVICE}") from error
    except (*MISFITS, EOFError, pickle.UnpicklingError) as error:
        # torch's own words are left out, because they advise a way of loading that may run code.
        raise damaged_state(path, "torch cannot read it") from error
    parts = content if isinstance(content, dict) else {}
    if {*parts} != {"of", "state"} or not all(isinstance(part, dict) for part in parts.values()):
        raise damaged_state(path, f"it is {_said(content)}, not the dictionaries `of` and `state`")
    state: dict[str, Any] = content["state"]
    if changed := differences(content["of"], of):
        raise StateError(
            f"{path.parent} holds the beginning of another run ({'; '.join(changed)}): finish it with its own config, "
            "choose another folder, or start anew with --overwrite."
        )
    for key, kinds in KINDS.items():
        if key not in state:
            raise damaged_state(path, f"it has no `{key}`")
        if not isinstance(state[key], kinds):
            raise damaged_state(path, f"its `{key}` is {_said(state[key])}")
    return state


def damaged_state(path: Path, why: str) -> StateError:
    """Returns the StateError for a file `path` with wrong content. `why` says in the message what is wrong."""
    return StateError(f"{path} is not a state of training that kinegraph wrote: {sentence(why)} {ADVICE}")


def _said(value: object) -> str:
    return f"a dict of {shortened(', '.join(map(repr, value)))}" if isinstance(value, dict) else type(value).__name__


def remove_state(folder: Path) -> None:
    """Deletes the file with the state of a run from the folder `folder` of the run."""
    remove_durably(folder / STATE_FILE)


def generators(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the states of torch's global random number generators, from which dropout draws its numbers. The result
    is a dictionary with the key "cpu". If `device` is a GPU, it also has the key "cuda".
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Sets torch's global random number generators to `states`, a dictionary that `generators` has returned. `device`
    is the device of the training.

    The generator of a GPU is set only if `device` is a GPU and `states` has the key "cuda". States that were saved on a
    CPU lack this key.
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)

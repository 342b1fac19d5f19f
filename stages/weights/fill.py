"""Copies a checkpoint into a network, and checks that the checkpoint has every tensor of the network.

A tensor of the file that the network does not use must have a known reason. Names in the file may differ from
kinegraph's names. The folder `formats` knows such names.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Size, Tensor, nn

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.architecture import architecture
from kinegraph.stages.weights.formats.convert import Converted
from kinegraph.stages.weights.formats.format import State

MAX_LISTED = 12
FIRST_STAGE_2D, FIRST_STAGE_3D = "layer1.", "res2."


def fill(
    network: nn.Module,
    converted: Converted,
    above: Mapping[str, Size],
    is_ignored: Callable[[str], bool],
) -> None:
    """Copies the tensors of the checkpoint `converted` into `network`, in place.

    `above` is {name: shape} of tensors that were cut off the network. The file may have them, but they are not used.
    `is_ignored` returns True for the name of a tensor of the file that must not be used. Raises WeightsError if another
    tensor exists only in the file or only in the network, or if its shapes differ.
    """
    shapes = {name: x.shape for name, x in network.state_dict().items()} | dict(above)
    state = {name: x for name, x in _fitted_to_images(shapes, converted.state).items() if not is_ignored(name)}
    misfits = [name for name, x in state.items() if x.shape != shapes.get(name, x.shape)]
    used = {name: x for name, x in state.items() if name not in above and name not in misfits}
    try:
        # `assign` copies no tensor. The network takes the memory into which the file was read.
        # A plain dict has no version. torch then renames keys of older torchvision files, and counts
        # the batches of norms from 0 where a file has no num_batches_tracked.
        loaded = network.load_state_dict(_owned(used, network), strict=False, assign=True)
    except RuntimeError as error:
        raise WeightsError(str(error)) from error
    missing = [name for name in loaded.missing_keys if name not in misfits]
    to_file = converted.format.to_file
    problems = [
        *_listed("in the file only", [*converted.unknown, *(_both(to_file(k), k) for k in loaded.unexpected_keys)]),
        *_listed("in the network only", [_both(name, to_file(name)) for name in missing]),
        *_listed("of another shape", [f"{_both(k, to_file(k))} {_shapes(state[k].shape, shapes[k])}" for k in misfits]),
    ]
    if problems:
        raise WeightsError("\n  ".join([_headline(converted), *_stems(state, shapes), *problems]))


def _fitted_to_images(names: Iterable[str], state: State) -> State:
    """Fits the tensors `state` of a file of code for videos to a network for images, and returns the tensors. For any
    other file or network, returns `state` unchanged. `names` are the names of the network's tensors.

    The stages res2 to res5 are renamed to layer1 to layer4. Kernels that span one frame lose their time axis.
    """
    if not any(k.startswith(FIRST_STAGE_2D) for k in names) or not any(k.startswith(FIRST_STAGE_3D) for k in state):
        return state
    for layer in range(1, 5):
        state = {k.replace(f"res{layer + 1}.", f"layer{layer}."): x for k, x in state.items()}
    return {k: x[:, :, 0] if x.ndim == 5 and x.shape[2] == 1 else x for k, x in state.items()}


def _owned(state: State, network: nn.Module) -> State:
    """Returns the tensors `state` in the types of the tensors of `network`, each in memory of its own.

    A tensor is copied only if it has another type, or if its memory has values of other tensors too. Tensors of a
    safetensors file are parts of the mapped file. Workers of one machine share this memory until a tensor is changed.

    Raises WeightsError for a tensor whose values are not all stored: a sparse tensor, or a tensor on torch's device
    `meta`.
    """
    dtypes = {name: x.dtype for name, x in network.state_dict().items()}
    owned: State = {}
    taken = set[int]()
    for name, x in state.items():
        if x.layout is not torch.strided or x.device.type != "cpu":
            raise WeightsError(f"{name} does not have all its values (layout {x.layout}, device {x.device})")
        storage = x.untyped_storage()
        is_alone = x.is_contiguous() and storage.nbytes() == x.nbytes and storage.data_ptr() not in taken
        taken.add(storage.data_ptr())
        is_kept = is_alone and x.dtype == dtypes.get(name, x.dtype)
        owned[name] = x.detach() if is_kept else torch.empty(x.shape, dtype=dtypes.get(name, x.dtype)).copy_(x.detach())
    return owned


def _headline(converted: Converted) -> str:
    network = architecture(converted.state)
    return f"it has {converted.format.name}" + (f" and looks like {network}" if network else "")


def _stems(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> list[str]:
    """Explains why the first convolution of a weights file does not fit a network. Returns a list with one sentence, or
    an empty list if the convolution fits or there is no known reason.

    The reasons are: the kernels see optical flow and not RGB or the reverse, they span another number of frames, or
    they have no time axis. `state` is {name: tensor} of the file. `shapes` is {name: shape} of the network.
    """
    if any(x.shape[1:2] == (2,) and shapes.get(name, x.shape)[1:2] == (3,) for name, x in state.items()):
        return ["its first convolution sees the 2 channels of optical flow, and this network sees RGB"]
    if any(x.shape[1:2] == (3,) and shapes.get(name, x.shape)[1:2] == (2,) for name, x in state.items()):
        return ["its first convolution sees RGB, and this network sees the 2 channels of optical flow"]
    if "conv1.weight" not in state or len(ours := shapes.get("conv1.weight", Size())) < 5:
        return []
    theirs = state["conv1.weight"].shape
    if len(theirs) == 4:
        return ["its kernels have no time axis; weights of images are given one by `inflate:` before their name"]
    if len(theirs) == 5 and theirs[2] != ours[2]:
        return [f"its first convolution spans {counted(theirs[2], 'frame')}, that of this network {ours[2]}"]
    return []


def _both(name: str | None, other: str | None) -> str:
    names = [x for x in (name, other) if x is not None]
    return names[0] if len({*names}) == 1 else f"{names[0]} ({names[1]})"


def _shapes(theirs: Size, ours: Size) -> str:
    return f"{[*theirs]}, here {[*ours]}"


def _listed(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return [f"{title}: {', '.join(names[:MAX_LISTED])}{more}"]

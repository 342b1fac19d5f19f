"""Runs image models of the package timm on each frame of a clip. Only models that return intermediate maps are
possible.

A plan for such a model imports torch, because timm knows channels and sizes of maps only after it has built the model.

Shapes: B clips, T frames, C channels, H rows and W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.taps import Tap


class TimmImage(Backbone):
    """An image model of timm as a backbone.

    `model` is timm's name, such as `convnext_tiny`, with or without a tag (`convnext_tiny.fb_in22k`). Parameters have
    timm's names. A tap has the name of the timm module whose output it is, with `_` in place of dots (`stages.0` ->
    `stages_0`).
    """

    stages = {}  # noqa: RUF012 (a ClassVar in the base; each of these models has its own value)

    def __init__(self, model: str) -> None:
        super().__init__()
        self.name = model
        self.model = create(model)
        self.indices = {name: index for index, name in enumerate(tap_names(self.model))}
        self.taps = tuple(self.indices)
        self.register_state_dict_post_hook(_with_names_of_timm)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_own_names)  # type: ignore[no-untyped-call]

    def cut(self, taps: Sequence[str]) -> None:
        """Limits the wanted taps to `taps`, and removes the layers above the highest of them from the model.

        Raises ValueError if `taps` is empty, or has a tap that was not wanted before.
        """
        unknown = [name for name in taps if name not in self.taps]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {list(self.taps)}")
        self.taps = tuple(name for name in self.taps if name in taps)
        self.model.prune_intermediate_layers([self.indices[name] for name in self.taps], prune_head=True)

    def draw(self, seed: int) -> None:
        """Fills the network with random weights, as timm initialises this model. The weights depend on `seed` alone.

        torch's global generator stays unchanged.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = create(self.name).state_dict()
        self.load_state_dict({name: drawn[name] for name in self.state_dict()})

    def is_classifier(self, name: str) -> bool:
        """Returns whether the tensor `name` of a weights file belongs to the classifier of the timm model."""
        classifiers = self.model.pretrained_cfg["classifier"] or ()
        return name.startswith(
            tuple(f"{module}." for module in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        )

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns tap -> maps [B, C, T, H', W'] for the wanted taps. `clips` are normalised pixels [B, 3, T, H, W].

        There are B clips of T frames with H rows and W columns. A tap has a map for each frame, with C channels, H'
        rows and W' columns.
        """
        return frame_by_frame(self.run, clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Returns tap -> maps [B*T, C, H', W'] for the wanted taps. `x` is the frames of all clips, [B*T, 3, H, W].

        B is the number of clips, C of channels, T of frames. A frame has H rows and W columns, a map H' rows and W'
        columns.
        """
        wanted = [self.indices[name] for name in self.taps]
        maps = self.model.forward_intermediates(x, indices=wanted, stop_early=True, intermediates_only=True)
        return dict(zip(self.taps, maps, strict=True))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads a state dict whose parameters and buffers have timm's public names. Messages of errors have timm's
        names, too.
        """
        return self.model.load_state_dict(*args, **kwargs)


def _with_names_of_timm(network: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Removes `model.` from the names of a network's tensors in the state dict `state`, in place. The names are then
    timm's public names.

    `prefix` is the text before `model.` in these names. torch calls this function after it has made `state`.
    """
    own = f"{prefix}model."
    for name in [name for name in state if name.startswith(own)]:
        state[prefix + name.removeprefix(own)] = state.pop(name)


def _with_own_names(network: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Puts `model.` before the names of this module's tensors in the state dict `state`, in place. Files have timm's
    names, and this module has the network of timm as its child `model`.

    torch calls this function before it loads `state` into the module. The names of this module's tensors begin with
    `prefix`, the path of this module in the network that is loaded.
    """
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}model.{name.removeprefix(prefix)}"] = state.pop(name)


def create(model: str) -> Any:
    """Returns timm's model with the name `model`, untrained.

    Raises ValueError if timm is not installed, if timm has no such model, or if the model does not return intermediate
    maps.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"backbone timm/{model} needs timm: pip install 'kinegraph[timm]'") from error
    try:
        created = timm.create_model(model)
    except RuntimeError as error:
        raise ValueError(f"timm {timm.__version__} cannot build {model!r}: {error}; see timm.list_models()") from error
    if not hasattr(created, "forward_intermediates") or not getattr(created, "feature_info", None):
        raise ValueError(f"timm/{model}: timm {timm.__version__} gives no intermediate maps of this model")
    return created


def tap_names(model: Any) -> list[str]:
    """Returns the names of the taps of a timm model, from bottom to top."""
    return [str(level["module"]).replace(".", "_") for level in model.feature_info]


@dataclass(frozen=True, kw_only=True)
class TimmTap(Tap):
    """A tap of the model that timm calls `model`. timm itself says which size the maps have."""

    model: str

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """Returns the shape (T, C, H, W) of the tap's maps for a clip of `num_frames` frames of `size` x `size` px.

        Raises ValueError if the model cannot take frames of this size.
        """
        height, width = map_sizes(self.model, size)[self.name]
        return num_frames, self.channels, height, width


@cache
def map_sizes(model: str, size: int) -> dict[str, tuple[int, int]]:
    """Returns tap -> (H, W) of its maps, for all taps of the timm model `model` and frames of `size` x `size` px.

    Raises ValueError if the model cannot take frames of this size.
    """
    network = TimmImage(model).eval().to("meta")
    try:
        maps = network.run(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"timm/{model} cannot take frames of {size} x {size} px: {error}") from error
    return {name: (x.shape[2], x.shape[3]) for name, x in maps.items()}


@cache
def timm_entry(model: str) -> BackboneEntry:
    """Returns the BackboneEntry of `timm/<model>`: taps, size of the input, mean and standard deviation. timm is a
    package of image models.

    Raises ValueError if timm is not installed, if timm has no such model, or if the model does not return intermediate
    maps.
    """
    created = create(model)
    expected = created.pretrained_cfg
    return BackboneEntry(
        name=f"timm/{model}",
        taps=tuple(
            TimmTap(name=name, channels=level["num_chs"], space=((1, level["reduction"]),), model=model)
            for name, level in zip(tap_names(created), created.feature_info, strict=True)
        ),
        size=expected["input_size"][-1],
        mean=tuple(expected["mean"]),
        std=tuple(expected["std"]),
        sees_single_frames=True,
    )

"""Runs image models of timm that return intermediate maps, frame by frame. No other backbone needs timm.

A plan must know channels and sizes, and timm reports them only after building the model. So a plan imports torch
through this file, but only for a config that names such a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.taps import Tap

# B clips, T frames, C channels, H, W.


class TimmImage(Backbone):
    """A model of timm.

    `model` is timm's name, such as `convnext_tiny`, with or without a tag. Parameters keep timm's names. A tap has the
    name of the timm module whose output it is, with `_` in place of dots.
    """

    stages = {}  # noqa: RUF012 (a ClassVar in the base; each of these models has its own value)

    def __init__(self, model: str) -> None:
        super().__init__()
        self.name = model
        self.model = create(model)
        self.indices = {name: index for index, name in enumerate(tap_names(self.model))}
        self.taps = tuple(self.indices)

    def cut(self, taps: Sequence[str]) -> None:
        """Limits the network to `taps`, as Backbone.cut does. timm drops the layers above."""
        unknown = [name for name in taps if name not in self.taps]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {list(self.taps)}")
        self.taps = tuple(name for name in self.taps if name in taps)
        self.model.prune_intermediate_layers([self.indices[name] for name in self.taps], prune_head=True)

    def draw(self, seed: int) -> None:
        """Draws random weights as timm does for each architecture, without torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = create(self.name).state_dict()
        self.load_state_dict({name: drawn[name] for name in self.state_dict()})

    def is_classifier(self, name: str) -> bool:
        """Returns the same as Backbone.is_classifier. timm knows the names of each model's classifiers."""
        classifiers = self.model.pretrained_cfg["classifier"] or ()
        return name.startswith(
            tuple(f"{module}." for module in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        )

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns wanted tap -> maps [B, C, T, H', W'] for normalised clips [B, 3, T, H, W]."""
        return frame_by_frame(self.run, clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Returns wanted tap -> maps [B*T, C, H', W'] for frames [B*T, 3, H, W]."""
        wanted = [self.indices[name] for name in self.taps]
        maps = self.model.forward_intermediates(x, indices=wanted, stop_early=True, intermediates_only=True)
        return dict(zip(self.taps, maps, strict=True))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the state of timm's model, with timm's public names."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads a state into timm's model, with timm's public names."""
        return self.model.load_state_dict(*args, **kwargs)


def create(model: str) -> Any:
    """Returns timm's model of this name, untrained.

    Raises ValueError if timm is not installed, has no such model, or the model does not return intermediate maps.
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
    """A tap whose map sizes come from timm's model."""

    model: str

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """Returns (T, C, H, W) of the tap's map, as Tap.shape does."""
        height, width = map_sizes(self.model, size)[self.name]
        return num_frames, self.channels, height, width


@cache
def map_sizes(model: str, size: int) -> dict[str, tuple[int, int]]:
    """Returns tap -> (H, W) of the tap's map for frames of `size` x `size` px.

    Raises ValueError for a size that the model cannot take.
    """
    network = TimmImage(model).eval().to("meta")
    try:
        maps = network.run(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"timm/{model} cannot take frames of {size} x {size} px: {error}") from error
    return {name: (x.shape[2], x.shape[3]) for name, x in maps.items()}


@cache
def timm_entry(model: str) -> BackboneEntry:
    """Returns the entry of `timm/<model>`, filled from timm. Raises the errors of `create`."""
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
    )

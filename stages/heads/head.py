"""Defines the base class of heads. A head is a network that reads cached arrays and classifies clips."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.clip_graphs import ClipGraph, Links, NodeMessages
from kinegraph.stages.options import StageOptions

Spec = Mapping[str, tuple[int, ...]]  # full array name -> shape of one clip
ANY_LENGTH = 0  # in a Spec, an axis whose length differs from sample to sample
WITH_CLASS_MAPS = (
    "Such a map needs a linear layer on the mean of maps: avg_pool (not with `consensus: max`), linear_probe, conv3d, "
    "non_local, trg, atr, and rstg with `output: map`."
)
MASK = "mask"  # entry of a batch of whole videos: bool [B, N], true for windows, false for places after the last
# kind of array -> prefix and suffix of its name, rank of one clip
KINDS = {"maps": ("features/", "", 4), "pooled": ("features/", "_pooled", 2), "regions": ("regions/", "", 3)}


class HeadError(UsageError):
    """Raised if a head cannot be built, because its name, its options or the cached arrays are not suitable. The
    message says what was found, what is allowed and what to do.
    """


class HeadOptions(StageOptions):
    """The base class of the options of heads. A head is a network that reads cached arrays and classifies clips."""

    def recorded(self) -> dict[str, Any]:
        """Returns the options that a run stores, as {name of the option: value}. A run that was interrupted continues
        only with the same options.
        """
        return self.model_dump()


class TapOptions(HeadOptions):
    """The base class of the options of heads that read the arrays of one tap. A tap is a layer of a backbone whose
    output is cached. `backbone` and `tap` are the names of the backbone and of the tap. They may be None if only one
    tap fits.
    """

    backbone: str | None = Field(None, description="backbone whose arrays the head reads; needed where several fit")
    tap: str | None = Field(None, description="tap whose arrays the head reads; needed where several fit")


@dataclass(frozen=True)
class FeatureSource:
    """One tap of a backbone, which is a layer whose output is cached."""

    backbone: str  # the name of the backbone in the config
    tap: str  # the name of the layer
    # Whether the output has vectors and no maps. `tap` is then the name of a class token, such as "blocks_11_class", or
    # "head" for the output of the network.
    is_vector: bool = False

    def array(self, kind: str) -> str:
        """Returns the name of a cached array of this tap (a layer of a backbone). `kind` is the kind of array: "maps",
        "pooled" or "regions". For example, "pooled" -> "features/i3d/res5_pooled".
        """
        prefix, suffix, _ = KINDS[kind]
        return f"{prefix}{self.backbone}/{self.tap}{'' if self.is_vector else suffix}"

    @property
    def maps(self) -> str:
        """Returns the name of the cached array with the feature maps of this tap (a layer of a backbone).

        One clip of the array has the shape [T frames, C channels, H rows, W columns].
        """
        return self.array("maps")

    @property
    def pooled(self) -> str:
        """Returns the name of the cached array with the pooled features of this tap (a layer of a backbone). Pooled
        features are the means of the maps over rows and columns. If the tap has vectors and no maps, the array has
        these vectors.

        One clip of the array has the shape [T frames, C channels], or [C channels] if the tap has one vector for the
        whole clip.
        """
        return self.array("pooled")

    @property
    def regions(self) -> str:
        """Returns the name of the cached array with the region features of this tap (a layer of a backbone). A region
        is the part of a frame inside a box.

        One clip of the array has the shape [T frames, N regions, C channels].
        """
        return self.array("regions")


def spec_of_videos(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of whole videos, {name of the array: (ANY_LENGTH, C)}. A whole video is a sequence of windows,
    with one vector of C numbers for each window. ANY_LENGTH stands for the number of windows.

    `spec` maps the name of each cached array to its shape for one window, (T, C) or (C,). A window's vector is the mean
    over its T frames. Arrays of maps and regions are left out.
    """
    prefix, _, rank = KINDS["pooled"]
    vectors = {name: shape for name, shape in spec.items() if name.startswith(prefix) and len(shape) <= rank}
    return {name: (ANY_LENGTH, shape[-1]) for name, shape in vectors.items()}


def are_videos(spec: Spec) -> bool:
    """Returns whether `spec` has the shapes of whole videos, as `spec_of_videos` returns them, and not the shapes of
    clips.
    """
    return any(shape[:1] == (ANY_LENGTH,) for shape in spec.values())


class Head(nn.Module):
    """The base class of all heads. A head is a network that computes the logits of clips from cached arrays.
    docs/own_head.md shows how to write one.

    A subclass has a constructor with the arguments (spec, num_classes, options), and a method `forward`. `spec` maps
    the name of each available array to its shape for one clip.

    - `option_model`: the class of `options`.
    - `reads`: the names of the arrays that `forward` needs. The constructor sets it.
    - `source`: the backbone and the tap, if the head reads the arrays of one tap. The constructor sets it.
    - `name`, `num_classes`, `options`: set by `build_head`.
    - `reads_sequences`: whether the head can also classify whole videos, as sequences of windows. Each array of a batch
      is then [B, N, C] for N windows. The batch also has "mask", bool [B, N], which is false for padding. Padding must
      not change the logits.
    """

    reads_sequences: ClassVar[bool] = False
    option_model: ClassVar[type[HeadOptions]] = HeadOptions
    name: str
    num_classes: int
    options: dict[str, Any]
    reads: tuple[str, ...]
    source: FeatureSource  # set in heads that read the arrays of one tap

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits [B, num_classes] of B clips. `batch` maps the name of each array in `reads` to its values
        [B, ...]. Floating-point arrays are in float16 or float32.
        """
        raise NotImplementedError

    @property
    def reads_boxes(self) -> bool:
        """Returns whether the head reads boxes or region features. A region feature describes the inside of a box."""
        return any(name.startswith(("proposals/", "regions/")) for name in self.reads)

    def boxes_read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns a mask that is true for the cached boxes that the head reads: bool [B, T, N] for B clips, T frames
        and N boxes of a frame.

        `batch` has the arrays in `reads`, and also `proposals/boxes` and `proposals/count`. In this base class, the
        mask is true for all boxes. A head that reads only some boxes overrides this method.
        """
        boxes, count = batch["proposals/boxes"], batch["proposals/count"]  # [B, T, N, 4], [B, T]
        return torch.arange(boxes.shape[2], device=count.device) < count[..., None]

    @property
    def graph_links(self) -> Mapping[str, Links]:
        """Returns {name of a graph: what the graph links} for the graphs that `clip_graphs` computes. The values are
        "boxes", "boxes of neighbouring frames" or "frames". A head without graphs has an empty dictionary.
        """
        return {}

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        """Returns the graphs that the head computes for the B clips of `batch`, as {name of a graph: ClipGraph}.
        `batch` maps the name of each array in `reads` to its values [B, ...].

        The names and their order are those of `graph_links`. The head must be in evaluation mode. Call this method
        under `torch.inference_mode()` if no gradient is needed.
        """
        return {}

    @property
    def class_map_array(self) -> str:
        """Returns the name of the cached array of maps from which `class_maps` computes class activation maps. Returns
        "" if the head has no class activation maps.
        """
        return ""

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the class activation maps of each clip, [B, num_classes, T, H, W]. The mean of a map over T, H and W
        is the logit of the class (Zhou et al. 2016, arXiv 1512.04150).

        `batch` has the values [B, ...] of each array in `reads`, and of the array `class_map_array`. The head must be
        in evaluation mode. Raises HeadError if the head has no class activation maps.
        """
        raise HeadError(f"The head {self.name} has no class activation maps. {WITH_CLASS_MAPS}")

    def action_maps(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the maps in which the head locates the action, as {name: map [B, T, H, W]} for B clips, T time steps,
        H rows and W columns. A value is large where the action is. A head without such maps returns an empty
        dictionary.

        `batch` maps the name of each array in `reads` to its values [B, ...].
        """
        return {}

    def node_messages(self, batch: Mapping[str, Tensor]) -> NodeMessages | None:
        """Returns NodeMessages, the strengths of the messages that the head sends between the cells of each map, for B
        clips. Returns None if the head sends no messages. `batch` maps the name of each array in `reads` to its values
        [B, ...].
        """
        return None

    def learning_rate_factor_of(self, parameter: str) -> float:
        """Returns the factor by which the training multiplies the learning rate of the parameter with the name
        `parameter`. In this base class, the factor is 1.
        """
        return 1.0


class Classifier(nn.Module):
    """Dropout and a linear layer. `forward` maps features [B, C] to logits [B, num_classes], for B clips and C =
    `in_features` channels.

    `dropout` is the probability of dropout, from 0 to 1. The first weights are drawn from a normal distribution with
    standard deviation 0.01. The bias starts at 0.
    """

    def __init__(self, in_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_features, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(x))
        return logits

    def maps(self, x: Tensor) -> Tensor:
        """Returns class activation maps, [B, K, T, H, W] for B clips, K classes, T time steps, H rows and W columns.
        The mean of a map over T, H and W is the logit that `forward` returns for the mean of `x`, without dropout.

        `x` [B, T, C, H, W] has the maps of the features, with C channels.
        """
        classified: Tensor = self.fc(x.movedim(2, -1))  # [B, T, H, W, K]
        return classified.movedim(-1, 1)

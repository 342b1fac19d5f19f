"""The base class of heads. A head is a network that reads cached arrays and classifies clips."""

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
    """A head cannot be built with the given name, options or arrays.

    The message says what was seen, what exists and what to do.
    """


class HeadOptions(StageOptions):
    """The base class of the options of heads."""

    def recorded(self) -> dict[str, Any]:
        """Returns the options as the dictionary that a run stores. A run that continues must have equal options."""
        return self.model_dump()


class TapOptions(HeadOptions):
    """The options of every head that reads the arrays of one tap. `backbone` and `tap` are the names of the backbone
    and of the tap.

    A tap is a named layer of a backbone whose output is cached.
    """

    backbone: str | None = Field(None, description="backbone whose arrays the head reads; needed where several fit")
    tap: str | None = Field(None, description="tap whose arrays the head reads; needed where several fit")


@dataclass(frozen=True)
class FeatureSource:
    """One tap of one backbone. `backbone` is the name of a backbone in the config. `tap` is a named layer of it whose
    output is cached.

    If `is_vector` is true, `tap` is the name of an array of vectors: the class token of a tap, such as
    `blocks_11_class`, or the output `head` of the network.
    """

    backbone: str
    tap: str
    is_vector: bool = False

    def array(self, kind: str) -> str:
        """Returns the name of a cached array of this tap. `kind` says which array: "maps", "pooled" or "regions"."""
        prefix, suffix, _ = KINDS[kind]
        return f"{prefix}{self.backbone}/{self.tap}{'' if self.is_vector else suffix}"

    @property
    def maps(self) -> str:
        """Returns the array name of the feature maps. One clip has shape [T frames, C channels, H rows, W columns]."""
        return self.array("maps")

    @property
    def pooled(self) -> str:
        """Returns the full name of the cached array with the pooled features of this tap. Pooled features are the means
        of the maps over all positions. For a class token or the output `head`, it is the array with its vectors.

        One clip of the array has the shape [T frames, C channels], or [C channels] for an output of the whole clip.
        """
        return self.array("pooled")

    @property
    def regions(self) -> str:
        """Returns the name of the cached array with the region features of this tap.

        One clip of the array has the shape [T frames, N regions, C channels].
        """
        return self.array("regions")


def spec_of_videos(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Returns the shapes for a head that reads whole videos: name -> (ANY_LENGTH, C), for each array of pooled
    features, class tokens or the output `head`. A video is a sequence of any number of windows, with one vector of C
    numbers for each window.

    `spec` has the shapes (T, C) or (C,) of one window. The vector of a window is the mean over its T frames.
    """
    prefix, _, rank = KINDS["pooled"]
    vectors = {name: shape for name, shape in spec.items() if name.startswith(prefix) and len(shape) <= rank}
    return {name: (ANY_LENGTH, shape[-1]) for name, shape in vectors.items()}


def are_videos(spec: Spec) -> bool:
    """Returns whether `spec` has the shapes of whole videos, with an axis of any length."""
    return any(shape[:1] == (ANY_LENGTH,) for shape in spec.values())


class Head(nn.Module):
    """The base class of all heads. A head computes logits from a batch of cached arrays. docs/own_head.md shows how to
    write a head of your own.

    The constructor takes (spec, num_classes, options). It sets `reads`, the names of the arrays that the head takes.
    `option_model` is the class of the options. A head that reads the arrays of one tap sets `source`, which names the
    backbone and the tap.

    `forward(batch)` takes a dictionary of array name -> tensor [B, ...] for B clips. Floating-point arrays are in
    float16 or float32. `forward` returns logits [B, num_classes]. `build_head` sets `name`, `num_classes` and
    `options`. These options are complete, so `build_head(name, spec, num_classes, **options)` builds a network with the
    same layers again.

    A head whose `reads_sequences` is true can classify whole videos of any number of windows. The arrays of its batch
    are then [B, N, C], for the N windows of the longest video, with the entry `mask`. Places where the mask is false
    must have no influence on the logits.
    """

    reads_sequences: ClassVar[bool] = False
    option_model: ClassVar[type[HeadOptions]] = HeadOptions
    name: str
    num_classes: int
    options: dict[str, Any]
    reads: tuple[str, ...]
    source: FeatureSource  # set in heads that read the arrays of one tap

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns logits [B, num_classes] for B clips. `batch` maps the name of each array in `reads` to its values [B,
        ...].
        """
        raise NotImplementedError

    @property
    def reads_boxes(self) -> bool:
        """Returns whether the head reads boxes, or features of boxes."""
        return any(name.startswith(("proposals/", "regions/")) for name in self.reads)

    def boxes_read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns a mask of the cached boxes that the head reads: [B, T, N] bool, for B clips, T frames and N boxes a
        frame.

        `batch` has the arrays in `reads`, and `proposals/boxes` and `proposals/count`. By default, the head reads all
        boxes. A head that reads only some of them overrides this method.
        """
        boxes, count = batch["proposals/boxes"], batch["proposals/count"]  # [B, T, N, 4], [B, T]
        return torch.arange(boxes.shape[2], device=count.device) < count[..., None]

    @property
    def graph_links(self) -> Mapping[str, Links]:
        """Returns the graphs that `clip_graphs` returns, as name of the graph -> what it links. A head without a graph
        returns an empty dictionary, as this base class does.
        """
        return {}

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        """Returns the graphs that the head computes for B clips, as name -> ClipGraph. `batch` is as in `forward`.

        The names are those of `graph_links`, in the same order. The head must be in evaluation mode. Call it under
        `torch.inference_mode()` where no gradient is needed.
        """
        return {}

    @property
    def class_map_array(self) -> str:
        """Returns the name of the cached array of maps from which `class_maps` computes class activation maps. Returns
        "" for a head without them, as this base class does.
        """
        return ""

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the class activation maps of B clips, [B, num_classes, T, H, W]: T time steps, H rows and W columns
        (Zhou et al. 2016, arXiv 1512.04150). Their mean over T, H and W is the logit of the class.

        `batch` is as in `forward`, and has the array `class_map_array` too. The head must be in evaluation mode. Raises
        HeadError for a head without such maps.
        """
        raise HeadError(f"The head {self.name} has no class activation maps. {WITH_CLASS_MAPS}")

    def action_maps(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the maps by which the head says where in the frames the action is: name -> map [B, T, H, W], for B
        clips, T time steps, H rows and W columns. The larger a value is, the more of the action is there. `batch` is as
        in `forward`. A head without such maps returns an empty dictionary, as this base class does.
        """
        return {}

    def node_messages(self, batch: Mapping[str, Tensor]) -> NodeMessages | None:
        """Returns the messages that the head sends between the cells of each map, for B clips, or None for a head
        without them. `batch` is as in `forward`.
        """
        return None

    def learning_rate_factor_of(self, parameter: str) -> float:
        """Returns the factor by which the training multiplies its learning rate for the parameter with the name
        `parameter`. It is 1 unless a subclass returns another factor.
        """
        return 1.0


class Classifier(nn.Module):
    """Applies dropout, then a linear layer: features [B clips, C channels] -> logits [B, num_classes].

    The weights start as draws from a normal distribution with standard deviation 0.01. The bias starts at 0.
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
        """Returns the class activation maps [B, K, T, H, W] of maps x [B, T, C, H, W], for B clips, K classes, T time
        steps, C channels, H rows and W columns. Without dropout, `forward` maps the mean of x to their mean.
        """
        classified: Tensor = self.fc(x.movedim(2, -1))  # [B, T, H, W, K]
        return classified.movedim(-1, 1)

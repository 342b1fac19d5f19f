"""The contract of heads. A head is a network that names the cached arrays it reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.errors import UsageError
from kinegraph.stages.options import StageOptions

Spec = Mapping[str, tuple[int, ...]]  # full array name -> shape of one clip
# kind of array -> prefix and suffix of its name, rank of one clip
KINDS = {"maps": ("features/", "", 4), "pooled": ("features/", "_pooled", 2), "regions": ("regions/", "", 3)}


class HeadError(UsageError):
    """A head cannot be built as asked. The message says what was seen, what exists and what to do."""


class HeadOptions(StageOptions):
    """The base of the options of heads."""

    def recorded(self) -> dict[str, Any]:
        """Returns what a run records of the options, and compares when it goes on."""
        return self.model_dump()


class TapOptions(HeadOptions):
    """The options of every head that reads the arrays of one tap."""

    backbone: str | None = Field(None, description="backbone whose arrays the head reads; needed where several fit")
    tap: str | None = Field(None, description="tap whose arrays the head reads; needed where several fit")


@dataclass(frozen=True)
class FeatureSource:
    """One tap of one backbone."""

    backbone: str
    tap: str

    def array(self, kind: str) -> str:
        """Returns the name of the array of a kind: "maps", "pooled" or "regions"."""
        prefix, suffix, _ = KINDS[kind]
        return f"{prefix}{self.backbone}/{self.tap}{suffix}"

    @property
    def maps(self) -> str:
        """Returns the name of the feature maps [T, C, H, W]."""
        return self.array("maps")

    @property
    def pooled(self) -> str:
        """Returns the name of the pooled features [T, C], the means over the maps."""
        return self.array("pooled")

    @property
    def regions(self) -> str:
        """Returns the name of the region features [T, N, C]."""
        return self.array("regions")


class Head(nn.Module):
    """The base of the heads. A head is built from (spec, num_classes, options) and maps a batch of arrays to logits.

    docs/own_head.md shows how to write a head of your own.

    `forward(batch)` takes the arrays named in `reads`, with a batch axis in front, float16 or float32. `forward`
    returns logits [B, num_classes]. `build_head` sets `name`, `num_classes` and `options`. The options are complete and
    resolved, so that `build_head(name, spec, num_classes, **options)` builds the same network again.
    """

    option_model: ClassVar[type[HeadOptions]] = HeadOptions
    name: str
    num_classes: int
    options: dict[str, Any]
    reads: tuple[str, ...]
    source: FeatureSource  # set in heads that read the arrays of one tap

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns logits [B, num_classes] for a batch of the arrays in `reads`."""
        raise NotImplementedError

    def learning_rate_factor_of(self, parameter: str) -> float:
        """Returns the factor on the training's learning rate for the parameter of this name."""
        return 1.0


class Classifier(nn.Module):
    """Dropout, then a linear layer with weights ~ N(0, 0.01^2) and bias 0: [B, C] -> logits [B, num_classes]."""

    def __init__(self, in_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_features, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(x))
        return logits

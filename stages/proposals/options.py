"""Options of the region proposals. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class ProposalOptions(StageOptions):
    """Class-agnostic boxes on every `every`-th frame, at most `top` a frame after non-maximum suppression.

    `model` chooses among torchvision's detectors; the tiny source has one network.
    """

    source: Literal["torchvision", "tiny"]
    model: str = "fasterrcnn_resnet50_fpn"
    weights: str
    every: int = Field(1, ge=1)
    top: int = Field(50, ge=1)
    precision: Literal["bf16", "fp16", "fp32"] = "fp32"

    @property
    def network(self) -> str:
        """Name in the catalogue of proposal networks."""
        return "tiny_rpn" if self.source == "tiny" else self.model

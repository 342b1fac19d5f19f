"""Options of the region proposals. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class ProposalOptions(StageOptions):
    """Class-agnostic boxes, best first."""

    source: Literal["torchvision", "tiny"] = Field(description="torchvision's detectors, or the shipped tiny network")
    model: str = Field("fasterrcnn_resnet50_fpn", description="which of torchvision's detectors")
    weights: str = Field(description="a named file of the catalogue, a path, or random:<seed>")
    every: int = Field(1, ge=1, description="propose on every k-th frame of the clip")
    top: int = Field(50, ge=1, description="boxes a frame, at most, after non-maximum suppression")
    precision: Literal["bf16", "fp16", "fp32"] = Field("fp32", description="the network computes in")

    @property
    def network(self) -> str:
        """Name in the catalogue of proposal networks."""
        return "tiny_rpn" if self.source == "tiny" else self.model

"""Computes class-agnostic boxes with the region proposal networks of torchvision's detectors (Ren et al. 2015).

Shapes: F frames, A anchors per cell, C channels, h rows and w columns of a frame, H rows and W columns of a padded
frame, H' rows and W' columns of a map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from kinegraph.stages.device import without_autocast
from kinegraph.stages.proposals.selection import Proposals, candidates, padded, select

SIZE_DIVISOR = 32


class RpnProposer(nn.Module):
    """The region proposal network (RPN) of a detector, without the second stage, which classifies boxes.

    `backbone` takes F images [F, 3, H, W] and returns maps [F, C, H', W'] of several sizes, the levels. The result is a
    dictionary level name -> maps, as of torchvision's `BackboneWithFPN`. `rpn` is torchvision's module, of which only
    the `head` and the `anchor_generator` are used. `mean` and `std` are for R, G, B in 0..1. In each level, the
    `pre_nms_top` best candidates enter non-maximum suppression (NMS). Boxes whose score, as a sigmoid, is below
    `score_threshold` are dropped. `nms_threshold` is the overlap (IoU) above which NMS drops the box with the lower
    score.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        mean: Sequence[float],
        std: Sequence[float],
        pre_nms_top: int = 1000,
        nms_threshold: float = 0.7,
        score_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.pre_nms_top = pre_nms_top
        self.nms_threshold = nms_threshold
        self.score_threshold = score_threshold
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def box_deltas(self) -> nn.Conv2d:
        """Returns the layer that computes the shift and the scaling that turn an anchor into a box."""
        layer: nn.Conv2d = self.rpn.head.bbox_pred
        return layer

    def forward(self, frames: Tensor, top: int) -> Proposals:
        """Returns the Proposals of F frames: the `top` best boxes of each. `frames` is [F, 3, h, w] uint8 RGB.

        The caller must first resize the frames to the size (h, w) that `ProposalEntry.input_size` returns. Boxes are in
        pixels of the resized frames.
        """
        images = self._images(frames)
        features = list(self.backbone(images).values())
        logits, deltas = self.rpn.head(features)
        with without_autocast(frames.device):  # half precision would move boxes by whole pixels
            anchors = self._anchors(images, features)
            boxes, scores, levels = candidates(logits, deltas, anchors, self.pre_nms_top)
            size = frames.shape[2], frames.shape[3]
            return select(boxes, scores, levels, size, self.nms_threshold, top, self.score_threshold)

    def _images(self, frames: Tensor) -> Tensor:
        """Returns F frames as the input of the network, float32 [F, 3, H, W]. `frames` [F, 3, h, w] are uint8 RGB, with
        h rows and w columns.

        The values are normalised with the mean and the standard deviation of the network. H and W are h and w, rounded
        up to multiples of 32. The added rows at the bottom and columns at the right are zeros.
        """
        return padded((frames.float() / 255 - self.mean) / self.std, SIZE_DIVISOR)

    def _anchors(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Returns the anchors of each level of the pyramid, [H'*W'*A, 4] float32: x1, y1, x2, y2 in pixels of `images`
        [F, 3, H, W].

        `features` has the maps [F, C, H', W'] of each level, with A anchors per cell.
        """
        # float32, because the generator computes in the type of its inputs, and maps may have half precision
        grids = [torch.empty(x.shape[-2:], device=x.device) for x in features]
        (anchors,) = self.rpn.anchor_generator(ImageList(images, [(0, 0)]), grids)
        per_cell = self.rpn.anchor_generator.num_anchors_per_location()
        sizes = [grid.numel() * num for grid, num in zip(grids, per_cell, strict=True)]
        return list(anchors.split(sizes))

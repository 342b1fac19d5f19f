"""Computes boxes without classes by the region proposal networks of torchvision's detectors (Ren et al. 2015).

Shapes: F frames, A anchors per cell, C channels, h rows and w columns of a frame, H rows and W columns of a padded
frame, H' rows and W' columns of a map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from kinegraph.stages.device import without_autocast
from kinegraph.stages.normalising import normalised
from kinegraph.stages.proposals.selection import Proposals, candidates, pad_images, select

SIZE_DIVISOR = 32


class RpnProposer(nn.Module):
    """The region proposal network (RPN) of a torchvision detector, without the second stage, which classifies boxes.

    `backbone`: takes F images [F, 3, H, W] and returns {level name: maps [F, C, H', W']}, as torchvision's
    `BackboneWithFPN`.
    `rpn`: torchvision's module. Only its `head` and its `anchor_generator` are used.
    `mean`, `std`: normalise R, G and B in 0..1.
    `pre_nms_top`: number of candidates of each level that enter non-maximum suppression (NMS).
    `nms_threshold`: overlap (IoU) above which NMS drops the box with the lower score.
    `score_threshold`: a box is dropped if the sigmoid of its score is lower.
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
        """Returns the layer that computes the box deltas: the shift and the scaling that turn an anchor into a box."""
        layer: nn.Conv2d = self.rpn.head.bbox_pred
        return layer

    def forward(self, frames: Tensor, top: int) -> Proposals:
        """Returns the `top` best boxes of each of F frames, with their scores, as Proposals. `frames` are [F, 3, h, w]
        uint8 RGB. Boxes are (x1, y1, x2, y2) in pixels of `frames`.

        The caller must first resize the frames to the size (h, w) that `ProposalEntry.input_size` returns.
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
        """Converts F frames [F, 3, h, w] uint8 RGB to the input of the network, float32 [F, 3, H, W], and returns it.
        There are h rows and w columns.

        The values are normalised with the mean and the standard deviation of the network. H and W are h and w, rounded
        up to multiples of 32. The added rows at the bottom and columns at the right are zeros.
        """
        pixels = normalised(frames.permute(0, 2, 3, 1), self.mean.flatten(), self.std.flatten())  # [F, h, w, 3]
        images = pixels.permute(0, 3, 1, 2)
        return pad_images(images.contiguous() if frames.is_contiguous() else images, SIZE_DIVISOR)  # in their order

    def _anchors(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Returns the anchors of each pyramid level, [H'*W'*A, 4] float32, as (x1, y1, x2, y2) in pixels of `images`
        [F, 3, H, W].

        `features` has the maps [F, C, H', W'] of each level, with A anchors per cell.
        """
        # float32, because the generator computes in the type of its inputs, and maps may have half precision
        grids = [torch.empty(x.shape[-2:], device=x.device) for x in features]
        (anchors,) = self.rpn.anchor_generator(ImageList(images, [(0, 0)]), grids)
        per_cell = self.rpn.anchor_generator.num_anchors_per_location()
        sizes = [grid.numel() * num for grid, num in zip(grids, per_cell, strict=True)]
        return list(anchors.split(sizes))

"""Class-agnostic boxes from the region proposal network of torchvision's detectors (Ren et al. 2015)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from kinegraph.stages.device import without_autocast
from kinegraph.stages.proposals.selection import Proposals, candidates, padded, select

# F frames, A anchors per cell, h w size of a frame, H W size of a map.

SIZE_DIVISOR = 32


class RpnProposer(nn.Module):
    """The RPN of a detector, without the detector's second stage.

    backbone: images [F, 3, H, W] -> mapping level name -> [F, C, H', W'] (torchvision's `BackboneWithFPN`).
    rpn: only its `head` and `anchor_generator` are used.
    mean, std: RGB, for pixel values in 0..1.
    pre_nms_top: the number of candidates per level that enter non-maximum suppression.
    score_threshold: as in `select`.
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
        """Returns the layer that moves anchors."""
        layer: nn.Conv2d = self.rpn.head.bbox_pred
        return layer

    def forward(self, frames: Tensor, top: int) -> Proposals:
        """Returns the `top` best boxes of frames [F, 3, h, w] uint8 RGB.

        Frames are resized as the catalogue's `input_size` says.
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
        """Returns frames normalised, then padded with zeros at the right and bottom.

        The result is [F, 3, H, W], with H and W multiples of 32.
        """
        return padded((frames.float() / 255 - self.mean) / self.std, SIZE_DIVISOR)

    def _anchors(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Returns anchors [H*W*A, 4] float32 of each level.

        The generator takes its type from its input. Maps may have half precision, so the generator gets empty float32
        grids of the maps' sizes.
        """
        grids = [torch.empty(x.shape[-2:], device=x.device) for x in features]
        (anchors,) = self.rpn.anchor_generator(ImageList(images, [(0, 0)]), grids)
        per_cell = self.rpn.anchor_generator.num_anchors_per_location()
        sizes = [grid.numel() * num for grid, num in zip(grids, per_cell, strict=True)]
        return list(anchors.split(sizes))

"""Class-agnostic boxes from a region proposal network (Ren et al. 2015, arXiv 1506.01497) on a feature pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, clip_boxes_to_image

# F frames, A anchors per cell, K candidates, h w frame size, H W size of a map.

SIZE_DIVISOR = 32


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The best boxes of F frames of one size; rows past `count` are zero.

    boxes [F, top, 4] float32, xyxy in pixels of the frames given; scores [F, top] float32, objectness logits,
    descending; count [F] int64.
    """

    boxes: Tensor
    scores: Tensor
    count: Tensor

    def __post_init__(self) -> None:
        if self.boxes.shape != (*self.scores.shape, 4) or self.scores.shape[:1] != self.count.shape:
            raise ValueError(f"shapes do not belong together: {self!r}")

    def __repr__(self) -> str:
        shapes = (f"{name}={list(value.shape)}" for name, value in vars(self).items())
        return f"Proposals({', '.join(shapes)})"


class RpnProposer(nn.Module):
    """The RPN of a detector, without the detector's second stage.

    backbone: images [F, 3, H, W] -> mapping level name -> [F, C, H', W'] (torchvision's `BackboneWithFPN`).
    rpn: only its `head`, `anchor_generator` and `box_coder` are used.
    mean, std: RGB, for pixel values in 0..1.
    pre_nms_top: candidates that each level may send into non-maximum suppression.
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
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.pre_nms_top = pre_nms_top
        self.nms_threshold = nms_threshold
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor, top: int) -> Proposals:
        """frames [F, 3, h, w] uint8 RGB, resized as the catalogue's `input_size` says -> the `top` best boxes."""
        images = self._images(frames)
        features = list(self.backbone(images).values())
        logits, deltas = self.rpn.head(features)
        with torch.autocast(frames.device.type, enabled=False):  # half precision moves boxes by whole pixels
            anchors = self._anchors(images, features)
            boxes, scores, levels = self._candidates(logits, deltas, anchors)
            return self._select(boxes, scores, levels, (frames.shape[2], frames.shape[3]), top)

    def _images(self, frames: Tensor) -> Tensor:
        """Normalised, then padded with zeros at the right and bottom: [F, 3, H, W], H and W multiples of 32."""
        images = (frames.float() / 255 - self.mean) / self.std
        height, width = frames.shape[2:]
        return F.pad(images, (0, -width % SIZE_DIVISOR, 0, -height % SIZE_DIVISOR))

    def _anchors(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Per level [H*W*A, 4] float32. The generator takes its dtype from the maps, which may be half precision."""
        grids = [torch.empty(x.shape[-2:], device=x.device) for x in features]
        (anchors,) = self.rpn.anchor_generator(ImageList(images, [(0, 0)]), grids)
        per_cell = self.rpn.anchor_generator.num_anchors_per_location()
        sizes = [grid.numel() * num for grid, num in zip(grids, per_cell, strict=True)]
        return list(anchors.split(sizes))

    def _candidates(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best `pre_nms_top` of each level: boxes [F, K, 4], logits [F, K], level of each [K]."""
        boxes, scores, levels = [], [], []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            flat = logit.permute(0, 2, 3, 1).flatten(1).float()  # [F, H*W*A]
            delta = delta.permute(0, 2, 3, 1).reshape(*flat.shape, 4)  # channels are anchor-major: [F, H*W*A, 4]
            score, index = flat.topk(min(self.pre_nms_top, flat.shape[1]), dim=1)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4)).float()
            box = self.rpn.box_coder.decode_single(chosen.flatten(0, 1), anchor[index].flatten(0, 1))
            boxes.append(box.view(chosen.shape))
            scores.append(score)
            levels.append(torch.full((score.shape[1],), level, device=score.device))
        return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels)

    def _select(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int], top: int) -> Proposals:
        """Clip to the frame, drop what is empty or not finite, suppress per level, keep the `top` best.

        Ranking is by logit. torchvision ranks by sigmoid, which is 1.0 in float32 for every logit above 17.
        """
        finite = boxes.isfinite().all(-1) & scores.isfinite()
        boxes = clip_boxes_to_image(boxes, size)
        valid = finite & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        out = Proposals(
            boxes=boxes.new_zeros(len(boxes), top, 4),
            scores=scores.new_zeros(len(boxes), top),
            count=levels.new_zeros(len(boxes)),
        )
        for f, keep in enumerate(valid):
            box, score = boxes[f, keep], scores[f, keep]
            best = batched_nms(box, score, levels[keep], self.nms_threshold)[:top]
            out.boxes[f, : len(best)] = box[best]
            out.scores[f, : len(best)] = score[best]
            out.count[f] = len(best)
        return out

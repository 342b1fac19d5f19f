"""Selects the best boxes of each frame from the raw outputs of a region proposal network (RPN).

The method is that of Ren et al. 2015, arXiv 1506.01497.

Shapes: F frames, A anchors per cell, K candidates, h rows and w columns of a frame, H rows and W columns of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

BOX_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))  # dw and dh are clamped at log(1000 / 16), as in torchvision and detectron2
SHIFTED_NUMBERS = 4000  # up to so many numbers of boxes, torchvision moves the boxes of different levels apart on a CPU
FIRST_TRIED = 8  # times `top` candidates usually have `top` boxes that remain after suppression


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The best boxes of F frames of one size, at most `top` of each frame."""

    boxes: Tensor  # [F, top, 4] float32, (x1, y1, x2, y2) in pixels of the frames
    scores: Tensor  # [F, top] float32, objectness logits in descending order
    # [F] int64, the number of boxes of each frame. `boxes` and `scores` are 0 after the last box of a frame.
    count: Tensor

    def __post_init__(self) -> None:
        if self.boxes.shape != (*self.scores.shape, 4) or self.scores.shape[:1] != self.count.shape:
            raise ValueError(f"shapes do not belong together: {self!r}")

    def __repr__(self) -> str:
        shapes = (f"{name}={list(value.shape)}" for name, value in vars(self).items())
        return f"Proposals({', '.join(shapes)})"


def candidates(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor], pre_nms_top: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Chooses the best boxes of each frame, at most `pre_nms_top` of each pyramid level. Returns (boxes [F, K, 4],
    logits [F, K], numbers of the levels [K]) of the K candidates, ordered by level.

    `logits`, `deltas` and `anchors` have one tensor per level. `logits` is [F, A, H, W] for F frames and A anchors per
    cell. `anchors` is [H*W*A, 4], as (x1, y1, x2, y2) in pixels of the network's input, like the returned boxes.
    `deltas` is [F, 4A, H, W]: the shift and scaling of each anchor.
    """
    codes, origins, scores, levels = [], [], [], []
    for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        flat = logit.permute(0, 2, 3, 1).flatten(1).float()  # [F, H*W*A]
        delta = delta.permute(0, 2, 3, 1).reshape(*flat.shape, 4)  # [F, H*W*A, 4]
        score, index = flat.topk(min(pre_nms_top, flat.shape[1]), dim=1)
        codes.append(delta.gather(1, index[..., None].expand(-1, -1, 4)).float())
        origins.append(anchor[index])
        scores.append(score)
        levels.append(torch.full((score.shape[1],), level, device=score.device))
    chosen = torch.cat(codes, 1)  # of all levels at once, because a GPU waits for torchvision's coder twice a call
    boxes = BOX_CODER.decode_single(chosen.flatten(0, 1), torch.cat(origins, 1).flatten(0, 1))
    return boxes.view(chosen.shape), torch.cat(scores, 1), torch.cat(levels)


def select(
    boxes: Tensor,
    scores: Tensor,
    levels: Tensor,
    size: tuple[int, int],
    nms_threshold: float,
    top: int,
    score_threshold: float = 0.0,
) -> Proposals:
    """Selects the `top` best boxes of each of F frames by non-maximum suppression (NMS) within each pyramid level.
    Returns Proposals.

    `boxes` [F, K, 4] are (x1, y1, x2, y2) in pixels of the frame, for K candidates. `scores` [F, K] are logits.
    `levels` [K] are the numbers of the levels. If the overlap (IoU) of two boxes is above `nms_threshold`, the box with
    the lower score is dropped.

    Boxes are clipped to the frame, whose `size` is (height, width). A box is dropped if it is empty or not finite, or
    if the sigmoid of its score is less than `score_threshold`. Candidates of equal scores stay in their order.
    """
    finite = boxes.isfinite().all(-1) & scores.isfinite()
    boxes = clip_boxes_to_image(boxes, size)
    valid = finite & (boxes[..., 2:] > boxes[..., :2]).all(-1) & (scores.sigmoid() >= score_threshold)
    out = Proposals(
        boxes=boxes.new_zeros(len(boxes), top, 4),
        scores=scores.new_zeros(len(boxes), top),
        count=levels.new_zeros(len(boxes)),
    )
    # By logit, as in detectron2. torchvision uses the sigmoid, which is 1.0 in float32 for logits above 17.
    order = scores.masked_fill(~valid, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    boxes, scores = boxes.gather(1, order[..., None].expand_as(boxes)), scores.gather(1, order)
    levels = levels[order]  # [F, K]
    for f, num in enumerate(valid.sum(1).cpu().tolist()):  # this waits for a GPU, and the suppression does again
        best = remaining(boxes[f, :num], scores[f, :num], levels[f, :num], nms_threshold, top)
        out.boxes[f, : len(best)] = boxes[f, best]
        out.scores[f, : len(best)] = scores[f, best]
        out.count[f].fill_(len(best))
    return out


def remaining(boxes: Tensor, scores: Tensor, levels: Tensor, nms_threshold: float, top: int) -> Tensor:
    """Runs non-maximum suppression (NMS) within each pyramid level. Returns the indices of the `top` best boxes that
    remain. The result is `batched_nms(...)[:top]` of torchvision.

    `boxes` [K, 4] are ordered by `scores` [K], best first. `levels` [K] are the numbers of the levels. If the overlap
    (IoU) of two boxes is above `nms_threshold`, the box with the lower score is dropped.
    """
    if boxes.is_cuda or boxes.numel() <= SHIFTED_NUMBERS:  # overlaps of boxes that are moved apart differ by rounding
        best: Tensor = batched_nms(boxes, scores, levels, nms_threshold)[:top]
        return best
    tried = FIRST_TRIED * top
    while True:
        kept = torch.zeros(min(tried, len(boxes)), dtype=torch.bool)
        for level in range(int(levels.max()) + 1):
            of_level = (levels[:tried] == level).nonzero()[:, 0]
            kept[of_level[nms(boxes[of_level], scores[of_level], nms_threshold)]] = True
        best = kept.nonzero()[:top, 0]
        if len(best) == top or tried >= len(boxes):
            return best
        tried *= 4


def pad_images(images: Tensor, divisor: int) -> Tensor:
    """Returns `images` [F, 3, h, w] with zeros added at the right and bottom, as [F, 3, H, W].

    H and W are h and w, rounded up to multiples of `divisor`.
    """
    height, width = images.shape[2:]
    if height % divisor == width % divisor == 0:
        return images  # F.pad would copy them
    return F.pad(images, (0, -width % divisor, 0, -height % divisor))

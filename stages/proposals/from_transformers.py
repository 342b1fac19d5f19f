"""Computes proposals and their classes with a detector of the package transformers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, nms

from kinegraph.stages.device import computing_in, move_network, upload
from kinegraph.stages.errors import UsageError, WeightsError
from kinegraph.stages.proposals.from_networks import FRAMES_TOGETHER, PIXELS_PER_PASS
from kinegraph.stages.proposals.options import TransformersOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals
from kinegraph.stages.proposals.transformers_detectors import Detector, read_detector
from kinegraph.stages.weights.transformers_load import class_and_config, files_digest, load_network


class TransformersSource:
    """A source of proposals that runs the detector `options.model` of transformers on the device `device`, in float32.

    Raises WeightsError if the weights cannot be read or do not belong to the network. Raises UsageError if a package is
    missing.
    """

    def __init__(self, options: TransformersOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        self._detector = read_detector(options.model)
        self.digest = files_digest(self._detector.path)
        self._network = move_network(load_detector(self._detector), device)
        pixels = self._detector.pixels
        self._mean, self._std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (pixels.mean, pixels.std)
        )

    @property
    def frames_together(self) -> int:
        return FRAMES_TOGETHER[self.device.type]

    @torch.inference_mode()
    def propose(self, frames: ClipFrames) -> ClipProposals:
        assert frames.pixels is not None
        out = ClipProposals.empty(len(frames.pixels), self.options.top, has_labels=True)
        assert out.labels is not None
        limits = torch.tensor([frames.width, frames.height] * 2, dtype=torch.float32)
        for t, (boxes, scores, labels) in enumerate(self._detected(frames.pixels)):
            corners = (box_convert(boxes, "cxcywh", "xyxy") * limits).clamp(torch.zeros(4), limits)
            best = self._best(corners, scores)
            num = out.count[t] = len(best)
            out.boxes[t, :num], out.scores[t, :num] = corners[best].numpy(), scores[best].numpy()
            out.labels[t, :num] = labels[best].numpy()
        return out

    def _detected(self, frames: np.ndarray) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Runs the detector on `frames` [T, h, w, 3] uint8. Returns (boxes [Q, 4], scores [Q], classes [Q]) on the CPU
        for each frame.

        Q is the number of boxes that the network finds in any frame. Boxes are (centre x, centre y, width, height) as
        fractions of the frame. No frame is padded, because the frames of a clip have one size.
        """
        pixels = upload(frames, self.device).permute(0, 3, 1, 2)  # [T, 3, h, w], channels-last
        step = max(1, PIXELS_PER_PASS // (pixels.shape[2] * pixels.shape[3]))
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for first in range(0, len(pixels), step):
            part = pixels[first : first + step]
            with computing_in("fp32", self.device):
                result = self._network(pixel_values=(part.float() / 255 - self._mean) / self._std)
            scores, labels = _classified(result.logits, has_no_object=self._detector.family.has_no_object)
            found += zip(result.pred_boxes.cpu(), scores.cpu(), labels.cpu(), strict=True)
        return found

    def _best(self, corners: Tensor, scores: Tensor) -> Tensor:
        """Returns the indices of the best boxes, best score first, at most `top` of them. `corners` [Q, 4] are the
        boxes, and `scores` [Q] their scores.

        Boxes without area, and boxes that are not finite, are left out.
        """
        is_valid = (corners[:, 2:] > corners[:, :2]).all(1) & corners.isfinite().all(1) & scores.isfinite()
        kept = is_valid.nonzero()[:, 0]
        kept = kept[scores[kept].sort(descending=True, stable=True).indices]
        if self.options.nms_threshold is not None:
            kept = kept[nms(corners[kept], scores[kept], self.options.nms_threshold)]
        return kept[: self.options.top]


def _classified(logits: Tensor, *, has_no_object: bool) -> tuple[Tensor, Tensor]:
    """Returns (scores [B, Q], class numbers [B, Q]) of Q boxes in each of B frames. The score is the probability of the
    most probable class.

    `logits` are [B, Q, classes]. If `has_no_object` is true, the last class means "no object" and is never the result.
    """
    probabilities = logits.softmax(-1)[..., :-1] if has_no_object else logits.sigmoid()
    best = probabilities.max(-1)
    return best.values, best.indices


def load_detector(detector: Detector) -> nn.Module:
    """Returns the network of `detector` with the weights in its folder, frozen, in evaluation mode, on the CPU, in
    float32. Nothing is downloaded, even if `config.json` asks for a pretrained backbone.

    Raises WeightsError if the weights cannot be read or do not belong to the network. Raises UsageError if a package is
    missing.
    """
    family = detector.family
    values = {**detector.config, "use_pretrained_backbone": False}
    config: Any
    try:
        network_class, config = class_and_config(detector.path, family.module, family.network, family.config, values)
        config.backbone_config._attn_implementation = "eager"  # convolutions, which refuse another value
        config.backbone_config.use_pretrained_backbone = False
        network = load_network(detector.path, network_class, config)
    except WeightsError as error:
        if not isinstance(error.__cause__, ImportError):
            raise  # otherwise timm is missing, which has the backbones of DETR's published folders
        raise UsageError(
            f"proposals.model: {detector.path} needs timm: pip install 'kinegraph[timm]' ({error.__cause__})"
        ) from error
    return network.eval().requires_grad_(False)

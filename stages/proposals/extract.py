"""Proposals of a clip: a frozen region proposal network on whole frames."""

from dataclasses import dataclass

import numpy as np
import torch

from stages.device import computing_in, frozen_on, upload
from stages.proposals.build import build_proposer
from stages.proposals.catalogue import entry
from stages.proposals.options import ProposalOptions
from stages.regions.geometry import boxes_in_crop
from stages.weights.load import weights_digest


@dataclass(frozen=True, kw_only=True)
class ClipProposals:
    """Boxes [T, N, 4] float32 in video pixels, logits [T, N] float32, count [T] int16; zero past count."""

    boxes: np.ndarray
    scores: np.ndarray
    count: np.ndarray

    def within(self, crop: tuple[float, float, float, float]) -> "ClipProposals":
        """Those that overlap the crop, closed up; boxes are not clipped."""
        top = self.scores.shape[1]
        kept = [
            boxes_in_crop(boxes, scores, int(count), crop, top)
            for boxes, scores, count in zip(self.boxes, self.scores, self.count, strict=True)
        ]
        boxes, scores, count = zip(*kept, strict=True)
        return ClipProposals(boxes=np.stack(boxes), scores=np.stack(scores), count=np.array(count, np.int16))


class ProposalExtractor:
    """The proposal network of a config on one device."""

    def __init__(self, options: ProposalOptions, device: torch.device) -> None:
        network = build_proposer(options.network, options.weights)
        self.digest = weights_digest(network, options.weights, entry(options.network).weights)
        self.options, self.device = options, device
        self._network = frozen_on(network, device)

    @torch.inference_mode()
    def propose(self, frames: np.ndarray, width: int, height: int) -> ClipProposals:
        """frames [T, h, w, 3] uint8 at network size, of a video of width x height px."""
        pixels = upload(frames, self.device).permute(0, 3, 1, 2)  # [T, 3, h, w], channels-last
        with computing_in(self.options.precision, self.device):
            found = self._network(pixels, self.options.top)
        limits = np.array([width, height, width, height], np.float32)
        scale = limits / np.array([*frames.shape[2:0:-1]] * 2, np.float32)
        return ClipProposals(
            boxes=np.clip(found.boxes.cpu().numpy() * scale, 0, limits),
            scores=found.scores.cpu().numpy(),
            count=found.count.cpu().numpy().astype(np.int16),
        )

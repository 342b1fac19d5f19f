"""Proposals of a frozen region proposal network on whole frames."""

import numpy as np
import torch

from stages.device import computing_in, frozen_on, upload
from stages.proposals.build import build_proposer
from stages.proposals.catalogue import entry
from stages.proposals.options import CheckpointOptions, TinyOptions, TorchvisionOptions
from stages.proposals.source import ClipFrames, ClipProposals
from stages.weights.load import weights_digest


class NetworkSource:
    """A network of the catalogue on one device; one clip's frames at a time."""

    def __init__(self, options: TorchvisionOptions | TinyOptions | CheckpointOptions, device: torch.device) -> None:
        network = build_proposer(options.network, options.weights)
        self.digest = weights_digest(network, options.weights, entry(options.network).weights)
        self.precision = "fp32" if isinstance(options, CheckpointOptions) else options.precision
        self.options, self.device = options, device
        self._network = frozen_on(network, device)

    @torch.inference_mode()
    def propose(self, frames: ClipFrames) -> ClipProposals:
        assert frames.pixels is not None
        pixels = upload(frames.pixels, self.device).permute(0, 3, 1, 2)  # [T, 3, h, w], channels-last
        with computing_in(self.precision, self.device):
            found = self._network(pixels, self.options.top)
        limits = np.array([frames.width, frames.height] * 2, np.float32)
        scale = limits / np.array([*frames.pixels.shape[2:0:-1]] * 2, np.float32)
        return ClipProposals(
            boxes=np.clip(found.boxes.cpu().numpy() * scale, 0, limits),
            scores=found.scores.cpu().numpy(),
            count=found.count.cpu().numpy().astype(np.int16),
        )

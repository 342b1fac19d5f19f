"""Computes proposals with a frozen region proposal network on whole frames."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kinegraph.stages.device import computing_in, move_network, require_precision, upload
from kinegraph.stages.proposals.build import build_proposer
from kinegraph.stages.proposals.catalogue import entry
from kinegraph.stages.proposals.options import CheckpointOptions, TinyOptions, TorchvisionOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals
from kinegraph.stages.weights.load import weights_digest

PIXELS_PER_PASS = 4 * 2**20  # four frames of 800 x 1333; maps of a ResNet-50 with FPN then take 1.3 GB
# `PixelSource.frames_together`, by kind of device. On a CPU, a frame among four takes as long as one among eight.
FRAMES_TOGETHER = {"cpu": 4, "cuda": 32}


class NetworkSource:
    """A source of proposals that runs a network of the catalogue, `options.network`, on the device `device`.

    The network takes several frames of a clip at once, with at most PIXELS_PER_PASS pixels together. A network of
    detectron2 takes one frame at a time. Raises WeightsError if the weights cannot be read or do not belong to the
    network. Raises UsageError if the device cannot compute in the precision of the options.
    """

    def __init__(self, options: TorchvisionOptions | TinyOptions | CheckpointOptions, device: torch.device) -> None:
        self.precision = "fp32" if isinstance(options, CheckpointOptions) else options.precision
        require_precision(self.precision, device, "proposals.precision")
        network = build_proposer(options.network, options.weights)
        self.digest = weights_digest(network, options.weights, entry(options.network).weights)
        self.options, self.device = options, device
        # Frame by frame and channels-first, as in detectron2. Sums in another order swap boxes of almost equal scores.
        self._is_exact = isinstance(options, CheckpointOptions)
        self._network = network.to(device) if self._is_exact else move_network(network, device)

    @property
    def frames_together(self) -> int:
        return 1 if self._is_exact else FRAMES_TOGETHER[self.device.type]

    @torch.inference_mode()
    def propose(self, frames: ClipFrames) -> ClipProposals:
        assert frames.pixels is not None
        pixels = upload(frames.pixels, self.device).permute(0, 3, 1, 2)  # [T, 3, h, w], channels-last
        with computing_in(self.precision, self.device):
            passes = [self._network(part, self.options.top) for part in self._passes(pixels)]
        limits = np.array([frames.width, frames.height] * 2, np.float32)
        scale = limits / np.array([*frames.pixels.shape[2:0:-1]] * 2, np.float32)
        return ClipProposals(
            boxes=np.clip(_joined([part.boxes for part in passes]) * scale, 0, limits),
            scores=_joined([part.scores for part in passes]),
            count=_joined([part.count for part in passes]).astype(np.int16),
        )

    def _passes(self, pixels: Tensor) -> list[Tensor]:
        """Divides `pixels` [T, 3, h, w] into the parts that the network takes at once, and returns the parts. There are
        T frames of h rows and w columns.

        A part has at most PIXELS_PER_PASS pixels, but at least one frame.
        """
        step = 1 if self._is_exact else max(1, PIXELS_PER_PASS // (pixels.shape[2] * pixels.shape[3]))
        return [pixels[at : at + step] for at in range(0, len(pixels), step)]


def _joined(parts: Sequence[Tensor]) -> np.ndarray:
    values: np.ndarray = torch.cat([*parts]).cpu().numpy()
    return values

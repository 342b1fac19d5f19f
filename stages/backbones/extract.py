"""Computes the features of clips. A frozen backbone runs on uint8 pixels.

Shapes: B clips, T frames, T' frames of a map, C channels, S side of the square input, H rows and W columns of a map.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from kinegraph.stages.backbones.build import backbone_digest, build_backbone
from kinegraph.stages.backbones.catalogue import CATALOGUE, entry
from kinegraph.stages.backbones.compiling import require_compiler
from kinegraph.stages.backbones.folding import fold_batch_norms
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import pixels_of
from kinegraph.stages.device import computing_in, frozen_on, is_slow_at, require_precision

log = logging.getLogger("kinegraph")


class FeatureExtractor:
    """The network of one backbone entry on one device. A worker process loads it once.

    If `compiled` is True, torch.compile makes faster code of the network at the first batch, which takes minutes.
    Raises UsageError if the machine has no compiler for torch.compile, or if the device cannot compute in the precision
    of the options. Raises WeightsError if the weights cannot be read or do not belong to the network.
    """

    def __init__(self, options: BackboneOptions, device: torch.device, *, compiled: bool = False) -> None:
        require_precision(options.precision, device, f"precision of backbone {options.model}")
        if is_slow_at(options.precision, device):
            log.warning(
                "%s computes in bf16, for which this CPU has no instructions. fp32 can be 100 times faster here. "
                "It needs another cache: --set backbones.NAME.precision=fp32 --set cache=...",
                options.model,
            )
        if compiled:
            require_compiler(device)
        backbone = build_backbone(options.model, options.weights, options.taps, **options.options)
        self.digest = backbone_digest(backbone, entry(options.model), options.weights)
        if options.model in CATALOGUE:
            fold_batch_norms(backbone)
        self.options, self.device = options, device
        network = frozen_on(backbone, device)
        self._network = torch.compile(network) if compiled else network
        pixels = pixels_of(options)
        self._reversed = pixels.channel_order == "BGR"
        self._mean, self._std = (_per_channel(values, device) for values in (pixels.mean, pixels.std))

    @torch.inference_mode()
    def maps(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns tap -> maps [B, T', C, H, W] for `clips` [B, T, S, S, 3] uint8 RGB.

        The maps have the precision of the computation (`precision` of the options). Maps in bf16 differ from maps in
        float32 by about 1 % of their standard deviation. A test holds the limit.
        """
        if self._reversed:
            clips = clips.flip(-1)
        x = (clips.float() / 255 - self._mean) / self._std
        x = x.permute(0, 4, 1, 2, 3)  # [B, 3, T, S, S]; the permutation makes it channels-last without a copy
        with computing_in(self.options.precision, self.device):
            outputs = self._network(x)
        return {tap: out.transpose(1, 2) for tap, out in outputs.items()}


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)

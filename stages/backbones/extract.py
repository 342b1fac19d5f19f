"""Computes the features of clips: runs a backbone on uint8 pixels. The backbone is frozen for extraction, or trainable.

Shapes: B clips, T frames, T' maps of a clip, C channels, S side of the square input, H rows and W columns of a map.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import MAP_RANK
from kinegraph.stages.backbones.build import backbone_digest, build_from_options
from kinegraph.stages.backbones.catalogue import CATALOGUE, entry
from kinegraph.stages.backbones.compiling import require_compiler
from kinegraph.stages.backbones.folding import fold_batch_norms
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import pixels_of
from kinegraph.stages.backbones.planes import flatten_layers
from kinegraph.stages.cuda_graphs import GraphedForward
from kinegraph.stages.device import computing_in, is_slow_at, move_network, require_precision
from kinegraph.stages.normalising import normalised
from kinegraph.stages.weights.sources import Pixels

log = logging.getLogger("kinegraph")


class Normalised(nn.Module):
    """A network with a first layer that normalises pixels. Gradients flow to the network.

    `network` takes normalised clips [B, 3, T, S, S] float32 and returns {tap: maps [B, C, T', H, W]}. `pixels` has the
    mean and the standard deviation of each channel, for values in 0..1, and the order of the channels (RGB or BGR).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, pixels: Pixels) -> None:
        super().__init__()
        self.network, self.is_reversed = network, pixels.channel_order == "BGR"
        self.register_buffer("mean", torch.tensor(pixels.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std, dtype=torch.float32), persistent=False)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Normalises the pixels of B clips and runs the network. Returns {tap: maps [B, T', C, H, W]}. A tap is a named
        layer. T' is smaller than T if the network joins frames.

        `clips` [B, T, S, S, 3] are uint8 RGB pixels. If class tokens are wanted, the result also has `<tap>_class` ->
        [B, T', C], or [B, 1, C] if a clip has one class token. If the output of the whole network is wanted, the result
        has `head` -> [B, C], or [B, T, C] in a network that sees each frame alone.
        """
        if self.is_reversed:
            clips = clips.flip(-1)
        # [B, 3, T, S, S]; the permutation makes it channels-last without a copy
        x = normalised(clips, self.mean, self.std).permute(0, 4, 1, 2, 3)
        return {name: out.transpose(1, 2) if out.ndim == MAP_RANK else out for name, out in self.network(x).items()}


class FeatureExtractor:
    """The network of one backbone on one device, ready to run. A worker process makes it once.

    `options` is the backbone's entry in the config. If `compiled` is true, the network runs through torch.compile.
    Raises UsageError if there is no compiler, or if the device cannot compute in the wanted precision. Raises
    WeightsError if the weights cannot be read or do not belong to the network.
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
        backbone = build_from_options(options)
        self.digest = backbone_digest(backbone, entry(options.model), options.weights)
        if options.model in CATALOGUE:
            fold_batch_norms(backbone)
        flatten_layers(backbone, convolutions=options.precision == "fp32" and device.type == "cpu")
        self.options, self.device = options, device
        self._plain = move_network(backbone, device)
        self._compiled: Any = None  # the network through torch.compile, from its first use on
        self._network = Normalised(self._plain, pixels_of(options)).to(device)
        self.use_compiler(compiled)
        self._run: Callable[[Tensor], dict[str, Tensor]] = self._forward

    def use_compiler(self, is_on: bool) -> None:
        """Switches torch.compile on if `is_on` is true, otherwise off. When it is on, the first batch of each size
        starts a compilation, which takes up to minutes.

        On a CPU the compiled code is frozen: it has the weights in the order and the type that the CPU needs. Raises
        UsageError if the machine has no compiler.
        """
        if not is_on:
            self._network.network = self._plain
            return
        require_compiler(self.device)
        if self._compiled is None:
            options: dict[str, Any] | None = {"freezing": True} if self.device.type == "cpu" else None
            self._compiled = torch.compile(self._plain, dynamic=False, options=options)
        self._network.network = self._compiled

    def use_graphs(self) -> None:
        """Runs the network through CUDA graphs from now on. A CUDA graph starts all kernels of the network by one call.
        The device must be a GPU.
        """
        self._run = GraphedForward(self._forward, self.options.model, self.device)

    @torch.inference_mode()
    def maps(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on B clips. Returns {tap: maps [B, T', C, H, W]}.

        `clips` [B, T, S, S, 3] are uint8 RGB. If the options ask for them, the result also has class tokens and the
        output `head`, with the shapes of `Normalised.forward`. The maps have the option `precision`. Maps in bf16
        differ from maps in float32 by about 1 % of their standard deviation.
        """
        return self._run(clips)

    def _forward(self, clips: Tensor) -> dict[str, Tensor]:
        with computing_in(self.options.precision, self.device):
            maps: dict[str, Tensor] = self._network(clips)
        return maps

"""Runs a backbone on a batch of clips.

The maps are rounded to the stored type, written to the cache, and passed on in memory to the stages that read them.
Class tokens and the output after the last tap are written in float32.

Shapes: B clips of a batch, T frames, C channels, H rows and W columns of a map.
"""

import torch
from torch import Tensor

from kinegraph.stages.backbones.backbone import MAP_RANK
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.sharing import SharedFrames, run_frames
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.device import DTYPES_STORED
from kinegraph.stages.stage import StageBatch


class BackboneRunner:
    """The runner of the stage `key`, such as `features/i3d`. It runs one frozen backbone on batches of clips and writes
    the outputs of its taps (named layers).

    `options` name the network, its weights and its taps. The network runs on `device`. A clip has `num_frames` frames.
    The network takes every `square.every`-th frame, cut and resized as `square` says. If `compiled` is true, the
    network runs through torch.compile.

    If `new_frames` is a number, consecutive clips overlap, and each clip has so many frames that the clip before it
    lacks. Each distinct frame is then computed once.
    """

    def __init__(
        self,
        key: str,
        options: BackboneOptions,
        square: Square,
        device: torch.device,
        *,
        num_frames: int,
        compiled: bool,
        new_frames: int | None = None,
    ) -> None:
        self.key, self.options, self.square = key, options, square
        self._num_frames, self._new_frames, self._device = -(-num_frames // square.every), new_frames, device
        self._extractor = FeatureExtractor(options, device, compiled=compiled)
        self.digest = self._extractor.digest
        self._shared = None if new_frames is None else SharedFrames(self._extractor.maps, square, new_frames)

    def use_graphs(self) -> None:
        """Runs the network through CUDA graphs from now on. A CUDA graph starts all kernels of the network by one call.
        The device must be a GPU.
        """
        self._extractor.use_graphs()

    def use_compiler(self, is_on: bool) -> None:
        """Switches torch.compile on for the network if `is_on` is true, otherwise off."""
        self._extractor.use_compiler(is_on)

    def try_out(self, num_clips: int) -> None:
        """Runs the network on a batch of `num_clips` black clips and waits for the results, so that the caller can
        measure time and memory. The results are dropped.
        """
        shape, size = (num_clips, self._num_frames), self.square.size
        if self._new_frames is not None:
            shape = (run_frames(self._num_frames, num_clips, self._new_frames), 1)
        maps = self._extractor.maps(torch.zeros(*shape, size, size, 3, dtype=torch.uint8, device=self._device))
        for values in maps.values():
            values.flatten()[:1].cpu()  # waits for a GPU

    def run(self, batch: StageBatch) -> None:
        if self._shared is None:
            outputs = self._extractor.maps(batch.upload(batch.pixels(self.square)))
        else:
            outputs = self._shared.of(batch)
        for name, values in outputs.items():
            if values.ndim == MAP_RANK:
                self._keep_maps(name, values, batch)
            else:
                self._keep_vectors(name, values, batch)

    def _keep_maps(self, tap: str, maps: Tensor, batch: StageBatch) -> None:
        """Stores the maps [B, T, C, H, W] of one tap, rounded to the type of the cache, or their means over H and W, or
        both. The config decides which. Also passes the rounded maps to the stages that read them.

        There are B clips of T maps with C channels, H rows and W columns. A clip is marked as failed if its rounded
        maps have a NaN or an infinite value.
        """
        array = f"{self.key}/{tap}"
        stored = maps.to(DTYPES_STORED[self.options.storage_dtype])
        if batch.stores(array):
            batch.write_batch(array, stored)
        if batch.stores(f"{array}_pooled"):
            batch.write_batch(f"{array}_pooled", maps.float().mean((3, 4)))
        is_bad = ~stored.permute(0, 1, 3, 4, 2).isfinite().flatten(1).all(1)  # in the order in memory, without a copy
        batch.fail_where(is_bad, "non_finite", lambda slot: self._why_not_finite(tap, maps[slot]))
        batch.hand_on(array, stored)

    def _keep_vectors(self, name: str, vectors: Tensor, batch: StageBatch) -> None:
        """Stores the array `name` in float32: class tokens [B, T, C], or the output `head` [B, T, C] or [B, C].

        There are B clips, T frames and C channels. A clip is marked as failed if a value is NaN or infinite.
        """
        array, values = f"{self.key}/{name}", vectors.float()
        if batch.stores(array):
            batch.write_batch(array, values)
        is_bad = ~values.isfinite().flatten(1).all(1)
        batch.fail_where(is_bad, "non_finite", lambda _: f"{name} is not finite")

    def _why_not_finite(self, tap: str, maps: Tensor) -> str:
        if bool(maps.isfinite().all()):
            return f"{tap} is finite but overflows {self.options.storage_dtype}"
        return f"{tap} is not finite before rounding"

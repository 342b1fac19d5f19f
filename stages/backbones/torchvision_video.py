"""Defines torchvision's networks for video as backbones. Parameters have torchvision's names."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import CLASS_SUFFIX
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.weights.random import draw_as_built


class S3D(Backbone):
    """S3D, an Inception network with separable convolutions (Xie et al. 2018, arXiv 1712.04851).

    Taps have the names of the paper.
    """

    stages: ClassVar = {
        "stem": ("features.0", "features.1"),
        "conv2": ("features.2", "features.3"),
        "mixed_3b": ("features.4", "features.5"),
        "mixed_3c": ("features.6",),
        "mixed_4b": ("features.7", "features.8"),
        "mixed_4c": ("features.9",),
        "mixed_4d": ("features.10",),
        "mixed_4e": ("features.11",),
        "mixed_4f": ("features.12",),
        "mixed_5b": ("features.13", "features.14"),
        "mixed_5c": ("features.15",),
    }

    def __init__(self) -> None:
        from torchvision.models.video import s3d  # takes as long to import as torch

        super().__init__()
        self.adopt(s3d())


class VideoResNet(Backbone):
    """One of torchvision's ResNets of 18 layers for video: R(2+1)D, R3D or MC3 (Tran et al. 2018, arXiv 1711.11248).
    `network` is torchvision's network. `stages` maps each tap to the submodules that compute it.
    """

    stages: ClassVar = {
        "stem": ("stem",),
        "res2": ("layer1",),
        "res3": ("layer2",),
        "res4": ("layer3",),
        "res5": ("layer4",),
    }

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.adopt(network)


class VideoTransformer(Backbone):
    """A transformer of torchvision for video. `build` is a function that returns a new torchvision network."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._build = build
        self.adopt(build())

    def draw(self, seed: int) -> None:
        """Fills the network with random weights, as torchvision initialises it. The weights depend on `seed` alone."""
        draw_as_built(self, seed, self._build)

    def is_classifier(self, name: str) -> bool:
        """Returns whether the tensor `name` of a weights file belongs to torchvision's classifier."""
        return name in ("head.weight", "head.bias", "head.1.weight", "head.1.bias")


class VideoSwin(VideoTransformer):
    """A Video Swin Transformer (Liu et al. 2022, arXiv 2106.13230). An attention window spans 8 x 7 x 7 tokens, and a
    patch has 2 frames, 4 rows and 4 columns.

    The tap `stage<n>` is the output of stage n before the merging of patches. The tap `norm` is the output of the last
    stage after the final norm. Its mean is the feature of the paper. If patches do not fill the input, the input is
    padded at its ends.
    """

    stages: ClassVar = {
        "stage1": ("patch_embed", "features.0"),
        "stage2": ("features.1", "features.2"),
        "stage3": ("features.3", "features.4"),
        "stage4": ("features.5", "features.6"),
        "norm": ("norm",),
    }

    def step(self, tap: str, x: Tensor) -> Tensor:
        """Returns the output [B, C, T', H', W'] of the tap `tap`. `x` is the output of the tap below, or the clips [B,
        3, T, H, W] for the lowest tap.

        There are B clips. A map has T' time steps, C channels, H' rows and W' columns.
        """
        if tap != "stage1":
            x = x.permute(0, 2, 3, 4, 1)
        return super().step(tap, x).permute(0, 4, 1, 2, 3)


class MViT(VideoTransformer):
    """A Multiscale Vision Transformer: v1 (Fan et al. 2021, arXiv 2104.11227) or v2 (Li et al. 2022, arXiv 2112.01526).
    It takes only clips of 16 frames of 224 x 224 px.

    The tap `block<i>` is the output of block i. The tap `norm` is the output of the last block after the final norm.
    The class token of `norm` is the feature of the papers.
    """

    stages: ClassVar = {
        "block0": ("conv_proj", "pos_encoding", "blocks.0"),
        **{f"block{number}": (f"blocks.{number}",) for number in range(1, 16)},
        "norm": ("norm",),
    }

    def cut_below(self, tap: str) -> None:
        """Always raises ValueError, because layers above a tap also need the class token, which is not part of the
        tap's maps.
        """
        raise ValueError(f"{type(self).__name__} cannot begin at the tap {tap!r}: above it, the class token is needed")

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the network on B clips `x` [B, 3, T, H, W]. Returns {tap: maps [B, C, T', H', W']} for each wanted tap
        (a named layer). If class tokens are wanted, the result also has `<tap>_class` -> class token [B, 1, C].
        """
        x = self.get_submodule("conv_proj")(x)
        grid = x.shape[2:]  # T', H', W'
        tokens = self.get_submodule("pos_encoding")(x.flatten(2).transpose(1, 2))  # [B, 1 + T' H' W', C]
        outputs: dict[str, Tensor] = {}
        for tap in self.levels:
            layer = self.get_submodule(self.stages[tap][-1])
            if tap == "norm":
                tokens = layer(tokens)
            else:
                tokens, grid = layer(tokens, grid)
            if tap not in self.taps:
                continue
            outputs[tap] = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
            if self.wants_class_tokens:
                outputs[f"{tap}{CLASS_SUFFIX}"] = tokens[:, :1]
        return outputs

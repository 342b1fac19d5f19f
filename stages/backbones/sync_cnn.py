"""Defines the small networks for SyncMNIST, a data set with videos of wandering digits.

The layout of the networks follows the paper on recurrent space-time graphs (RSTG, Nicolicioiu et al. 2019), which
presents SyncMNIST.

Shapes: B clips, T frames, H rows and W columns of a frame.
"""

from typing import ClassVar

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone

WIDTHS = {"sync_cnn": (512, 512, 512), "tiny_sync_cnn": (16, 32, 64)}
LAST_SPAN = {"sync_cnn": 1, "tiny_sync_cnn": 3}  # number of frames that the last convolution spans


class SyncCnn(Backbone):
    """A network of three blocks for SyncMNIST. A block is a 3 x 3 convolution without padding, a ReLU and 2 x 2
    max-pooling. The first block takes the mean of R, G and B.

    - `name` "sync_cnn": the network of the RSTG paper (section 3.1), with 512 channels. It sees each frame alone.
    - `name` "tiny_sync_cnn": a network with few channels. Its last convolution spans three frames without padding, so a
      clip of T frames has T - 2 maps in the last block.

    For frames of 64 px, the maps of the three blocks have 31, 14 and 6 px a side.
    """

    stages: ClassVar = {"block1": ("grey", "block1"), "block2": ("block2",), "block3": ("block3",)}

    def __init__(self, name: str) -> None:
        super().__init__()
        first, second, third = WIDTHS[name]
        self.grey = Grey()
        self.block1 = _block(1, first)
        self.block2 = _block(first, second)
        self.block3 = _block(second, third, LAST_SPAN[name])


class Grey(nn.Module):
    """A layer that computes the mean of the colour channels: [B, 3, T, H, W] -> [B, 1, T, H, W], for B clips of T
    frames with H rows and W columns.
    """

    def forward(self, clips: Tensor) -> Tensor:
        return clips.mean(1, keepdim=True)


def _block(in_channels: int, out_channels: int, span: int = 1) -> nn.Sequential:
    conv = nn.Conv3d(in_channels, out_channels, (span, 3, 3))
    return nn.Sequential(conv, nn.ReLU(inplace=True), nn.MaxPool3d((1, 2, 2)))

"""Defines TSM, the temporal shift module (Lin, Gan and Han 2019, arXiv 1811.08383).

TSM is a 2D ResNet whose blocks take some of their channels from the neighbouring frames.

Shapes: B clips, T frames (segments in the paper), C channels, H rows and W columns of a map.
"""

from typing import ClassVar

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame
from kinegraph.stages.backbones.resnet2d import ResNet2D

SHIFT_DIVISOR = 8


class ShiftedConv(nn.Conv2d):
    """A convolution on frames. Before the convolution, 1/8 of the channels are taken from the next frame and 1/8 from
    the previous frame. At the ends of a clip, these channels are 0.

    The input has the frames of all clips one after the other. `num_frames` is the number of frames of one clip.
    """

    num_frames: int

    def forward(self, input: Tensor) -> Tensor:
        """Shifts channels between frames, then applies the convolution. `input` is [B*T, C, H, W] for B clips of T
        frames. Returns [B*T, C', H', W'], with C and C' channels, H and H' rows, W and W' columns.
        """
        return super().forward(shift_channels(input, self.num_frames))


def shift_channels(frames: Tensor, num_frames: int) -> Tensor:
    """Shifts channels between the frames of a clip. `frames` and the result are [B*T, C, H, W], with T = `num_frames`.

    At frame t, the first C/8 channels are those of frame t + 1. The next C/8 channels are those of frame t - 1. The
    other channels are not changed. Channels from outside the clip are 0.
    """
    fold = frames.shape[1] // SHIFT_DIVISOR
    x = frames.view(-1, num_frames, *frames.shape[1:])  # [B, T, C, H, W]
    out = x.clone()
    out[:, :-1, :fold], out[:, -1, :fold] = x[:, 1:, :fold], 0
    out[:, 1:, fold : 2 * fold], out[:, 0, fold : 2 * fold] = x[:, :-1, fold : 2 * fold], 0
    return out.flatten(0, 1)


class ShiftedResNet(Backbone):
    """The torchvision ResNet `resnet` with channels that are shifted between frames before conv1 of every block.
    `resnet` must have bottlenecks. `stages` maps each tap to torchvision's submodules that compute it.

    Parameters have torchvision's names. The shortcut of a block sees the frames before the shift.
    """

    stages: ClassVar = ResNet2D.stages

    def __init__(self, resnet: nn.Module) -> None:
        from torchvision.models.resnet import Bottleneck  # takes as long to import as torch

        super().__init__()
        self.adopt(resnet)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                conv = block.conv1
                block.conv1 = ShiftedConv(conv.in_channels, conv.out_channels, 1, bias=False)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on B clips. Returns {tap: maps [B, C, T, H', W']} for each wanted tap (a named layer): one
        map for each frame.

        `clips` are normalised pixels [B, 3, T, H, W].
        """
        for module in self.modules():
            if isinstance(module, ShiftedConv):
                module.num_frames = clips.shape[2]
        return frame_by_frame(self.run, clips)

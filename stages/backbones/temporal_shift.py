"""TSM, the temporal shift module (Lin, Gan and Han 2019, arXiv 1811.08383).

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
    the previous frame.

    The input has the frames of all clips one after the other. `num_frames` is the number of frames of one clip. In the
    first frame of a clip, the channels from a previous frame are 0. In the last frame, the channels from a next frame
    are 0.
    """

    num_frames: int

    def forward(self, input: Tensor) -> Tensor:
        """Returns the convolved frames [B*T, C', H', W'] for `input` [B*T, C, H, W], with B clips of T frames.

        C', H' and W' are the channels, rows and columns after the convolution.
        """
        return super().forward(shifted(input, self.num_frames))


def shifted(frames: Tensor, num_frames: int) -> Tensor:
    """Returns `frames` [B*T, C, H, W] with channels shifted between the frames of a clip. The shape stays the same: B
    clips, T frames (`num_frames`), C channels, H rows and W columns.

    At frame t, the first C/8 channels are those of frame t + 1. The next C/8 channels are those of frame t - 1. The
    other channels are not changed. If frame t + 1 or t - 1 lies outside the clip, its channels are 0.
    """
    fold = frames.shape[1] // SHIFT_DIVISOR
    x = frames.view(-1, num_frames, *frames.shape[1:])  # [B, T, C, H, W]
    out = x.clone()
    out[:, :-1, :fold], out[:, -1, :fold] = x[:, 1:, :fold], 0
    out[:, 1:, fold : 2 * fold], out[:, 0, fold : 2 * fold] = x[:, :-1, fold : 2 * fold], 0
    return out.flatten(0, 1)


class ShiftedResNet(Backbone):
    """The torchvision ResNet `resnet`, which has bottlenecks. Channels are shifted between frames before conv1 of every
    block. `stages` maps the name of each tap to torchvision's submodules that compute it.

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
        """Returns tap -> maps [B, C, T, H', W'] for the wanted taps. `clips` are normalised pixels [B, 3, T, H, W].

        There are B clips of T frames with H rows and W columns. A tap has a map for each frame, with C channels, H'
        rows and W' columns.
        """
        for module in self.modules():
            if isinstance(module, ShiftedConv):
                module.num_frames = clips.shape[2]
        return frame_by_frame(self.run, clips)

"""TSM (Lin, Gan and Han 2019, arXiv 1811.08383): a 2D ResNet whose blocks see parts of the neighbouring frames.

B clips, T frames (the segments), C channels, H, W.
"""

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame
from kinegraph.stages.backbones.resnet2d import ResNet2D

SHIFT_DIVISOR = 8


class ShiftedConv(nn.Conv2d):
    """A convolution on frames. Before it, 1/8 of the channels come from the next frame and 1/8 from the previous frame.

    `num_frames` is the number of consecutive inputs that form one clip. Beyond the ends of a clip are zeros.
    """

    num_frames: int

    def forward(self, input: Tensor) -> Tensor:
        """Returns [B*T, C', H', W'] for an input [B*T, C, H, W]."""
        return super().forward(shifted(input, self.num_frames))


def shifted(frames: Tensor, num_frames: int) -> Tensor:
    """Returns shifted frames [B*T, C, H, W] of the same shape.

    At frame t, channels [0, C/8) are those of frame t + 1, channels [C/8, C/4) those of frame t - 1, the other channels
    those of frame t.
    """
    fold = frames.shape[1] // SHIFT_DIVISOR
    x = frames.view(-1, num_frames, *frames.shape[1:])  # [B, T, C, H, W]
    out = x.clone()
    out[:, :-1, :fold], out[:, -1, :fold] = x[:, 1:, :fold], 0
    out[:, 1:, fold : 2 * fold], out[:, 0, fold : 2 * fold] = x[:, :-1, fold : 2 * fold], 0
    return out.flatten(0, 1)


class ShiftedResNet(Backbone):
    """A torchvision ResNet of bottlenecks with its own parameter names. Frames are shifted before conv1 of every block.

    The shift is residual, because the shortcut sees the unshifted frames.
    """

    stages: ClassVar = ResNet2D.stages

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.adopt(resnet)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                conv = block.conv1
                block.conv1 = ShiftedConv(conv.in_channels, conv.out_channels, 1, bias=False)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns wanted tap -> maps [B, C, T, H', W'] for normalised clips [B, 3, T, H, W]."""
        for module in self.modules():
            if isinstance(module, ShiftedConv):
                module.num_frames = clips.shape[2]
        return frame_by_frame(self.run, clips)

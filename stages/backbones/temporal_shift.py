"""TSM (Lin, Gan and Han 2019, arXiv 1811.08383): a 2D ResNet whose blocks see a part of the frames beside their own.

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
    """A convolution of frames that first takes 1/8 of the channels from the next frame and 1/8 from the one before.

    `num_frames` says how many consecutive inputs are one clip. Beyond its ends are zeros.
    """

    num_frames: int

    def forward(self, input: Tensor) -> Tensor:
        """[B*T, C, H, W] -> [B*T, C', H', W']."""
        return super().forward(shifted(input, self.num_frames))


def shifted(frames: Tensor, num_frames: int) -> Tensor:
    """[B*T, C, H, W] -> the same shape: channels [0, C/8) of frame t + 1, [C/8, C/4) of t - 1, the rest of t."""
    fold = frames.shape[1] // SHIFT_DIVISOR
    x = frames.view(-1, num_frames, *frames.shape[1:])  # [B, T, C, H, W]
    out = x.clone()
    out[:, :-1, :fold], out[:, -1, :fold] = x[:, 1:, :fold], 0
    out[:, 1:, fold : 2 * fold], out[:, 0, fold : 2 * fold] = x[:, :-1, fold : 2 * fold], 0
    return out.flatten(0, 1)


class ShiftedResNet(Backbone):
    """A torchvision ResNet of bottlenecks under its own parameter names, shifted before conv1 of every block.

    The shift is residual: the shortcut sees the frames as they are.
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
        """clips [B, 3, T, H, W], normalised -> wanted tap -> [B, C, T, H', W']."""
        for module in self.modules():
            if isinstance(module, ShiftedConv):
                module.num_frames = clips.shape[2]
        return frame_by_frame(self.run, clips)

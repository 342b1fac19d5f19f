"""Defines a small I3D for the offline demo. Its weights are a file of 0.4 MB.

Shapes: B clips, T frames, C channels, H rows and W columns.
"""

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone

WIDTHS = {"stem": 16, "res2": 32, "res3": 64, "res4": 96}
TEMPORAL_KERNELS = {"res2": (3, 1), "res3": (3, 1), "res4": (3, 1, 3, 1)}


class TinyI3D(Backbone):
    """An I3D with few channels, for frames of 96 x 96 px. The layout is that of Wang and Gupta 2018 (arXiv 1806.01810,
    Table 1).

    For clips [B, 3, T, H, W], the taps have these maps:

    `stem`: [B, 16, T, H/2, W/2]
    `res2`: [B, 32, T, H/4, W/4]
    `res3`: [B, 64, T/2, H/8, W/8]
    `res4`: [B, 96, T/2, H/8, W/8]

    The cells of res4 are only 8 px apart, so that two objects of 14 px have different cells. `python -m
    kinegraph.stages.generated.tiny_networks` made the shipped weights.
    """

    stages = {  # noqa: RUF012 (a ClassVar in the base)
        "stem": ("stem",),
        "res2": ("pool1", "res2"),
        "res3": ("pool2", "res3"),
        "res4": ("res4",),
    }

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, WIDTHS["stem"], (3, 5, 5), stride=2), nn.ReLU(inplace=True))
        self.pool1 = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.res2 = _stage("res2", WIDTHS["stem"], stride=1)
        self.pool2 = nn.MaxPool3d((2, 1, 1))
        self.res3 = _stage("res3", WIDTHS["res2"], stride=2)
        self.res4 = _stage("res4", WIDTHS["res3"], stride=1)


class _Bottleneck(nn.Module):
    """A residual block: three convolutions with the kernels t x 1 x 1, 1 x 3 x 3 and 1 x 1 x 1, whose output is added
    to a shortcut. t is `temporal_kernel`.

    The second convolution divides the height and width of the maps by `stride`.
    """

    def __init__(self, in_channels: int, out_channels: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        middle = out_channels // 2
        self.residual = nn.Sequential(
            _conv(in_channels, middle, (temporal_kernel, 1, 1)),
            nn.ReLU(inplace=True),
            _conv(middle, middle, (1, 3, 3), stride),
            nn.ReLU(inplace=True),
            _conv(middle, out_channels, (1, 1, 1)),
        )
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else _conv(in_channels, out_channels, (1, 1, 1), stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the block on the maps x [B, C, T, H, W]: B clips, C channels, T frames, H rows and W columns. Returns
        [B, out_channels, T, H / stride, W / stride].
        """
        y: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return y


def _stage(name: str, in_channels: int, *, stride: int) -> nn.Sequential:
    first, *others = TEMPORAL_KERNELS[name]
    blocks = [_Bottleneck(in_channels, WIDTHS[name], first, stride)]
    blocks += [_Bottleneck(WIDTHS[name], WIDTHS[name], kernel, 1) for kernel in others]
    return nn.Sequential(*blocks)


def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Sequential:
    """Returns a convolution and a batch norm behind it. `kernel` is (time steps, rows, columns). `stride` is the stride
    in rows and columns. With stride 1 the maps keep their size.
    """
    t, h, w = (side // 2 for side in kernel)
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, (1, stride, stride), (t, h, w), bias=False),
        nn.BatchNorm3d(out_channels),
    )

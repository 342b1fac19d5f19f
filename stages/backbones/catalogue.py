"""Lists the frozen backbones in CATALOGUE: name -> BackboneEntry. A BackboneEntry describes the input, the taps and the
weights of a network.

Imports no torch, because plans are made from the list.
"""

from dataclasses import replace

from kinegraph.stages.backbones.entry import AS_TRAINED, GEOMETRY, INFLATE, PAPER, BackboneEntry, Counts, ModelOptions
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS
from kinegraph.stages.backbones.slowfast_entries import SLOWFAST_ENTRIES
from kinegraph.stages.backbones.taps import HALF_DOWN, HALF_UP, Level, Tap, Window, taps_of
from kinegraph.stages.backbones.transformers_entry import transformers_entry
from kinegraph.stages.weights.registry import BACKBONE_WEIGHTS
from kinegraph.stages.weights.sources import IMAGENET_MEAN, IMAGENET_STD, KINETICS_MEAN, KINETICS_STD
from kinegraph.stages.weights.transformers_files import TRANSFORMERS_PREFIX

TIMM_PREFIX = "timm/"
HALF_VALID = (3, 2)  # kernel and stride in Inception-V3, whose layers do not pad
TORCHVISION_VIDEO_MEAN, TORCHVISION_VIDEO_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def _resnet_taps(*widths: int) -> tuple[Tap, ...]:
    res2, res3, res4, res5 = widths
    return taps_of(
        Level("stem", 64, (HALF_UP, HALF_UP)),
        Level("res2", res2),
        Level("res3", res3, (HALF_UP,)),
        Level("res4", res4, (HALF_UP,)),
        Level("res5", res5, (HALF_UP,)),
    )


def _image(name: str, num_params: int, gmacs: float, taps: tuple[Tap, ...]) -> BackboneEntry:
    """Returns the BackboneEntry of a network that was trained on ImageNet, on images of 224 px.

    `num_params` and `gmacs` (billions of multiplications) are those of the whole network, with its classifier of 1000
    classes.
    """
    return BackboneEntry(
        name=name,
        taps=taps,
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=1, size=224, num_classes=1000),
        sees_single_frames=True,
    )


_BN_INCEPTION_TAPS = taps_of(
    Level("stem", 64, (HALF_UP, HALF_DOWN)),
    Level("conv2", 192, (HALF_DOWN,)),
    Level("inception_3a", 256),
    Level("inception_3b", 320),
    Level("inception_3c", 576, (HALF_DOWN,)),
    Level("inception_4a", 576),
    Level("inception_4b", 576),
    Level("inception_4c", 608),
    Level("inception_4d", 608),
    Level("inception_4e", 1056, (HALF_DOWN,)),
    Level("inception_5a", 1024),
    Level("inception_5b", 1024),
    size_multiple=32,  # keeps all sides even; branches that halve an odd side differ by one row
)

_INCEPTION_V3_TAPS = taps_of(
    Level("stem", 192, (HALF_VALID, (3, 1), HALF_VALID, (3, 1), HALF_VALID)),
    Level("mixed_5b", 256),
    Level("mixed_5c", 288),
    Level("mixed_5d", 288),
    Level("mixed_6a", 768, (HALF_VALID,)),
    *(Level(f"mixed_6{letter}", 768) for letter in "bcde"),
    Level("mixed_7a", 1280, (HALF_VALID,)),
    Level("mixed_7b", 2048),
    Level("mixed_7c", 2048),
)

_S3D_TAPS = taps_of(
    Level("stem", 64, (HALF_UP, HALF_UP), (HALF_UP,)),
    Level("conv2", 192),
    Level("mixed_3b", 256, (HALF_UP,)),
    Level("mixed_3c", 480),
    Level("mixed_4b", 512, (HALF_UP,), (HALF_UP,)),
    Level("mixed_4c", 512),
    Level("mixed_4d", 512),
    Level("mixed_4e", 528),
    Level("mixed_4f", 832),
    Level("mixed_5b", 832, (HALF_DOWN,), (HALF_DOWN,)),
    Level("mixed_5c", 1024),
)

_INCEPTION_I3D_TAPS = taps_of(  # TensorFlow's padding "SAME": all sizes are rounded up
    Level("conv3d_1a", 64, (HALF_UP,), (HALF_UP,)),
    Level("conv3d_2b", 64, (HALF_UP,)),
    Level("conv3d_2c", 192),
    Level("mixed_3b", 256, (HALF_UP,)),
    Level("mixed_3c", 480),
    Level("mixed_4b", 512, (HALF_UP,), (HALF_UP,)),
    Level("mixed_4c", 512),
    Level("mixed_4d", 512),
    Level("mixed_4e", 528),
    Level("mixed_4f", 832),
    Level("mixed_5b", 832, (HALF_UP,), (HALF_UP,)),
    Level("mixed_5c", 1024),
)


def _inception_i3d(name: str, num_params: int, gmacs: float) -> BackboneEntry:
    return BackboneEntry(
        name=name,
        taps=_INCEPTION_I3D_TAPS,
        size=224,
        mean=(0.5, 0.5, 0.5),  # x / 127.5 - 1 for bytes x
        std=(0.5, 0.5, 0.5),
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=64, size=224, num_classes=400),
    )


def _resnet18_video(name: str, num_params: int, gmacs: float, time: tuple[Window, ...] = (HALF_UP,)) -> BackboneEntry:
    """Returns the BackboneEntry of a ResNet of 18 layers for video.

    `time` has (kernel, stride) in time of the first block of res3, res4 and res5. It is empty if no block changes the
    number of maps. `num_params` is the number of parameters. `gmacs` are billions of multiplications for a clip of 16
    frames of 112 px.
    """
    return BackboneEntry(
        name=name,
        taps=taps_of(
            Level("stem", 64, (HALF_UP,)),
            Level("res2", 64),
            Level("res3", 128, (HALF_UP,), time),
            Level("res4", 256, (HALF_UP,), time),
            Level("res5", 512, (HALF_UP,), time),
        ),
        size=112,
        mean=TORCHVISION_VIDEO_MEAN,
        std=TORCHVISION_VIDEO_STD,
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=16, size=112, num_classes=400),
    )


def _video_swin(name: str, width: int, num_params: int, gmacs: float) -> BackboneEntry:
    """Returns the BackboneEntry of a Video Swin Transformer with `width` channels in its first stage.

    `num_params` is its number of parameters. `gmacs` are billions of multiplications for a clip of 32 frames of 224 px.
    """
    return BackboneEntry(
        name=name,
        taps=taps_of(
            Level("stage1", width, ((1, 4),), (HALF_UP,)),
            Level("stage2", 2 * width, (HALF_UP,)),
            Level("stage3", 4 * width, (HALF_UP,)),
            Level("stage4", 8 * width, (HALF_UP,)),
            Level("norm", 8 * width),
        ),
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=32, size=224, num_classes=400),
    )


def _mvit(name: str, widths: tuple[int, ...], num_params: int, gmacs: float) -> BackboneEntry:
    """Returns the BackboneEntry of a Multiscale Vision Transformer. `widths` has the channels of its 16 blocks.

    `num_params` is its number of parameters. `gmacs` are billions of multiplications for a clip of 16 frames of 224 px.
    """
    first, *others = (
        Level(f"block{number}", width, (HALF_UP,) if number in (1, 3, 14) else ())
        for number, width in enumerate(widths)
    )
    return BackboneEntry(
        name=name,
        taps=taps_of(
            first._replace(space=((1, 4),), time=(HALF_UP,)),
            *others,
            Level("norm", widths[-1]),
            only_size=224,
            only_frames=16,
            class_token="clip",
        ),
        size=224,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=16, size=224, num_classes=400),
    )


_TINY_I3D_TAPS = taps_of(
    Level("stem", 16, (HALF_UP,)),
    Level("res2", 32, (HALF_UP,)),
    Level("res3", 64, (HALF_UP,), (HALF_DOWN,)),
    Level("res4", 96),
)


def _sync_cnn(
    name: str, widths: tuple[int, int, int], num_params: int, gmacs: float, time: tuple[Window, ...] = ()
) -> BackboneEntry:
    """Returns the BackboneEntry of the network `name` for SyncMNIST, a data set with videos of moving digits.

    `widths` are the channels of the three blocks. `time` has (kernel, stride) in time of the last block. It is empty if
    the network sees each frame alone. `num_params` is the number of parameters. `gmacs` are billions of multiplications
    for a clip of 10 frames.
    """
    shrink = ((3, 1), HALF_DOWN)
    below = (Level(f"block{block}", width, shrink) for block, width in enumerate(widths[:2], 1))
    return BackboneEntry(
        name=name,
        taps=taps_of(*below, Level("block3", widths[2], shrink, time)),
        size=64,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=10, size=64, num_classes=0),
    )


def _video(name: str, num_params: int, gmacs: float, *, num_frames: int, size: int) -> BackboneEntry:
    """Returns the BackboneEntry of a network of the ResNet-3D family that was trained on Kinetics-400.

    `num_params` is the number of parameters. `gmacs` are billions of multiplications for a clip of `num_frames` frames
    of `size` x `size` px.
    """
    layout = LAYOUTS[name]
    return BackboneEntry(
        name=name,
        taps=layout.taps,
        size=224,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=num_frames, size=size, num_classes=400),
        options={GEOMETRY: (AS_TRAINED, PAPER), **layout.options},
        inflates="resnet50" if layout.blocks == (3, 4, 6, 3) else "resnet101",
    )


_ENTRIES = (
    _image("resnet18", 11_689_512, 1.814, _resnet_taps(64, 128, 256, 512)),
    _image("resnet34", 21_797_672, 3.664, _resnet_taps(64, 128, 256, 512)),
    _image(
        "resnet50",
        25_557_032,
        4.089,
        _resnet_taps(256, 512, 1024, 2048),
    ),
    _image(
        "resnet101",
        44_549_160,
        7.801,
        _resnet_taps(256, 512, 1024, 2048),
    ),
    BackboneEntry(
        name="inception_v3",
        taps=_INCEPTION_V3_TAPS,
        size=299,
        mean=(0.5, 0.5, 0.5),  # torchvision reaches the same by its `transform_input`
        std=(0.5, 0.5, 0.5),
        counts=Counts(num_params=23_834_568, gmacs=5.713, num_frames=1, size=299, num_classes=1000),
        sees_single_frames=True,
    ),
    _image("bn_inception", 11_295_240, 2.033, _BN_INCEPTION_TAPS),
    BackboneEntry(
        name="tsm_r50",
        taps=_resnet_taps(256, 512, 1024, 2048),
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        counts=Counts(num_params=24_327_632, gmacs=32.698, num_frames=8, size=224, num_classes=400),
        min_frames=2,
        inflates="resnet50",
    ),
    _video("c2d_r50", 24_327_632, 25.46, num_frames=8, size=256),
    _video("i3d_r50", 28_043_472, 152.472, num_frames=32, size=224),
    _video("i3d_r101", 51_754_192, 226.665, num_frames=32, size=224),
    _video("nonlocal_i3d_r50", 35_401_936, 220.859, num_frames=32, size=224),
    _video("nonlocal_i3d_r101", 59_112_656, 295.052, num_frames=32, size=224),
    _video("slowonly_r50", 32_454_096, 54.518, num_frames=8, size=256),
    BackboneEntry(
        name="s3d",
        taps=_S3D_TAPS,
        size=224,
        mean=TORCHVISION_VIDEO_MEAN,
        std=TORCHVISION_VIDEO_STD,
        counts=Counts(num_params=8_320_048, gmacs=17.979, num_frames=16, size=224, num_classes=400),
    ),
    _inception_i3d("inception_i3d", 12_697_264, 111.151),
    replace(_inception_i3d("inception_i3d_flow", 12_675_312, 102.339), sees="flow"),
    _resnet18_video("r2plus1d_18", 31_505_325, 40.519),
    _resnet18_video("r3d_18", 33_371_472, 40.697),
    _resnet18_video("mc3_18", 11_695_440, 43.343, time=()),
    *SLOWFAST_ENTRIES,
    _video_swin("swin3d_t", 96, 28_158_070, 87.764),
    _video_swin("swin3d_s", 96, 49_816_678, 165.682),
    _video_swin("swin3d_b", 128, 88_048_984, 281.333),
    _mvit("mvit_v1_b", (192, 192, *[384] * 11, *[768] * 3), 36_610_672, 70.599),
    _mvit("mvit_v2_s", (96, 192, 192, *[384] * 11, *[768] * 2), 34_537_744, 64.224),
    BackboneEntry(
        name="tiny_i3d",
        taps=_TINY_I3D_TAPS,
        size=96,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        counts=Counts(num_params=183_216, gmacs=0.407, num_frames=16, size=96, num_classes=0),
    ),
    _sync_cnn("sync_cnn", (512, 512, 512), 4_724_736, 23.416),
    _sync_cnn("tiny_sync_cnn", (16, 32, 64), 60_160, 0.108, time=((3, 1),)),
)

CATALOGUE: dict[str, BackboneEntry] = {
    known.name: replace(known, weights=BACKBONE_WEIGHTS.get(known.name, {})) for known in _ENTRIES
}


def entry(name: str, options: ModelOptions = {}, weights: str = "") -> BackboneEntry:  # noqa: B006 (the default is never changed)
    """Returns the BackboneEntry of the backbone `name`: its taps, its input and its named weights.

    `name` is a name of the catalogue, `timm/<model>` or `transformers/<folder>`. `options` are the options of the
    network. The defaults are those with which `weights` were trained. Raises ValueError if there is no such backbone or
    option. The message lists the allowed names.
    """
    if name.startswith(TIMM_PREFIX):
        from kinegraph.stages.backbones.timm_image import timm_entry

        backbone: BackboneEntry = timm_entry(name.removeprefix(TIMM_PREFIX))
    elif name.startswith(TRANSFORMERS_PREFIX):
        backbone = transformers_entry(name.removeprefix(TRANSFORMERS_PREFIX))
    elif name in CATALOGUE:
        backbone = CATALOGUE[name]
    else:
        raise ValueError(
            f"no backbone {name!r}; there are {', '.join(CATALOGUE)}, timm/<model> and transformers/<folder>"
        )
    chosen = backbone.choose(options, weights)
    if not chosen:
        return backbone
    if name not in LAYOUTS:
        return replace(backbone, chosen=chosen)
    return replace(backbone, chosen=chosen, taps=replace(LAYOUTS[name], **chosen).taps)  # type: ignore[arg-type]


def owner(backbone: BackboneEntry, weights: str) -> tuple[BackboneEntry, str]:
    """Returns (BackboneEntry of the network that `weights` were made for, `weights` without `inflate:`).

    For `inflate:...` the entry is that of the 2D network whose weights are inflated. For other weights the entry is
    `backbone`.
    """
    if weights.startswith(INFLATE) and backbone.inflates is not None:
        return CATALOGUE[backbone.inflates], weights.removeprefix(INFLATE)
    return backbone, weights

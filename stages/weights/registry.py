"""Lists the weight files that have a name in configs, in BACKBONE_WEIGHTS: backbone -> name -> WeightSource. Imports no
torch.

Only torchvision and the BN-Inception file publish their sha256, or its first digits. Other downloads are not checked.
The fingerprint of every cache covers the sha256 of the file that was used.
"""

from dataclasses import replace

from kinegraph.cache_schemas.crops import Resize
from kinegraph.stages.weights.sources import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KINETICS_MEAN,
    KINETICS_STD,
    Pixels,
    Sampling,
    WeightSource,
)

_IMAGENET = Pixels(mean=IMAGENET_MEAN, std=IMAGENET_STD)
_KINETICS = Pixels(mean=KINETICS_MEAN, std=KINETICS_STD)
_KINETICS_BGR = Pixels(mean=KINETICS_MEAN, std=KINETICS_STD, channel_order="BGR")
_TORCHVISION_VIDEO = Pixels(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))
# torchvision normalises as for ImageNet, then its network reverts that (`transform_input`).
_INCEPTION_V3 = Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_CAFFE = Pixels(mean=(104 / 255, 117 / 255, 128 / 255), std=(1 / 255, 1 / 255, 1 / 255), channel_order="BGR")

# Options of the ResNet-3D family. The networks of Wang and Gupta 2018 have res5_stride 1.
_Geometry = dict[str, int | str]
_POOLED: _Geometry = {
    "stem_time_stride": 1,
    "pool1_time_stride": 1,
    "pool1_padding": 1,
    "pool2_time_stride": 2,
    "res5_stride": 2,
}
_UNPOOLED = _POOLED | {"pool2_time_stride": 1}
_NONLOCAL_NET = _POOLED | {"pool1_padding": 0}
_NONLOCAL_NET_LONG = _NONLOCAL_NET | {"stem_time_stride": 2, "pool1_time_stride": 2}
_GROUPED: _Geometry = {"res3_attention_frames": 4}

# Licences of files.
_SLOWFAST = "Apache-2.0 (SlowFast), trained on Kinetics-400"
_PYTORCHVIDEO = "Apache-2.0 (PyTorchVideo), trained on Kinetics-400"

# Frames per second of the videos (Kinetics: nominally) for which "8 x 8" means 8 frames, 8 apart.
_KINETICS_FPS, _CHARADES_FPS = 30, 24


def _torchvision(
    file_name: str,
    pixels: Pixels,
    short_side_px: int,
    crop_px: int,
    sampling: Sampling | None = None,
    resize: Resize | None = None,
) -> WeightSource:
    """Returns the WeightSource of a file of torchvision. `file_name` contains the first eight digits of the sha256.
    `pixels`, `short_side_px` and `crop_px` describe the input with which the network was tested.

    `sampling` describes the clips of a network of videos (Kinetics-400). It is None for a network of images (ImageNet).
    `resize` is None for networks of videos that were tested on frames of a fixed size, whatever their aspect ratio.
    """
    return WeightSource(
        url=f"https://download.pytorch.org/models/{file_name}",
        file_name=file_name,
        sha256=file_name.rpartition("-")[2].removesuffix(".pth"),
        licence=f"BSD-3-Clause (torchvision), trained on {'Kinetics-400' if sampling else 'ImageNet-1k'}",
        pixels=pixels,
        sampling=sampling,
        short_side_px=short_side_px,
        crop_px=crop_px,
        resize=resize,
        classes=400 if sampling else 1000,
    )


def _imagenet(file_name: str, short_side_px: int = 256) -> WeightSource:
    return _torchvision(file_name, _IMAGENET, short_side_px, 224, resize="pillow")


def _video_swin(file_name: str) -> WeightSource:
    return _torchvision(file_name, _IMAGENET, 256, 224, Sampling(num_frames=32, fps=15), resize="torch")


def _mvit(file_name: str) -> WeightSource:
    return _torchvision(file_name, _KINETICS, 256, 224, Sampling(num_frames=16, fps=7.5), resize="torch")


def _kinetics(
    url: str,
    licence: str,
    num_frames: int,
    step: int,
    geometry: _Geometry,
    resize: Resize | None = "torch",
    size: int = 256,
) -> WeightSource:
    """Returns the WeightSource of a weights file that Facebook published for Kinetics-400, a data set of videos with
    400 classes.

    `url` is the path of the file on dl.fbaipublicfiles.com, and `licence` its licence in words. The network was trained
    and tested on clips of `num_frames` frames, which are every `step`-th frame of the video. `geometry` has the options
    of the network that the shapes of its weights do not show. `resize` says how frames were resized in the test. It is
    None if this is unknown. `size` is the short side of the frames and the side of the crops in the test, in px.
    """
    return WeightSource(
        url=f"https://dl.fbaipublicfiles.com/{url}",
        file_name=url.rpartition("/")[2],
        licence=licence,
        pixels=_KINETICS,
        sampling=Sampling(num_frames=num_frames, fps=_KINETICS_FPS / step),
        short_side_px=size,
        crop_px=size,
        resize=resize,
        classes=400,
        geometry=geometry,
    )


def _mvit_of_pytorchvideo() -> WeightSource:
    url = "pytorchvideo/model_zoo/kinetics/MVIT_B_16x4.pyth"
    return replace(_kinetics(url, _PYTORCHVIDEO, 16, 4, {}), crop_px=224)


def _two_pathways(frames_and_step: str, depth: int = 50, *, slowfasts_own: bool = True) -> dict[str, WeightSource]:
    """Returns {name: WeightSource} of the files of one SlowFast network with two pathways.

    `frames_and_step` is the part of the file names that describes the slow pathway, such as `8x8`: 8 frames, every 8th
    frame of the video. The fast pathway always takes 32 frames, every second frame of the video. `depth` is that of the
    ResNet. If `slowfasts_own` is False, only pytorchvideo has a file of the network.
    """
    file, own = f"SLOWFAST_{frames_and_step}_R{depth}", "pyslowfast/model_zoo/kinetics400"
    url = f"pytorchvideo/model_zoo/kinetics/{file}.pyth"
    named = {f"pytorchvideo_{frames_and_step}": _kinetics(url, _PYTORCHVIDEO, 32, 2, {})}
    if slowfasts_own:
        named[f"slowfast_{frames_and_step}"] = _kinetics(f"{own}/{file}.pkl", _SLOWFAST, 32, 2, {})
    return named


def _x3d(letters: str, num_frames: int, step: int, size: int) -> dict[str, WeightSource]:
    """Returns {name: WeightSource} of the files of one X3D network. `letters` is its size, such as XS. A clip has
    `num_frames` frames, every `step`-th frame of the video. `size` is the side of the crops in px.
    """
    urls = {
        "pytorchvideo": (f"pytorchvideo/model_zoo/kinetics/X3D_{letters}.pyth", _PYTORCHVIDEO),
        "slowfast": (f"pyslowfast/x3d_models/x3d_{letters.lower()}.pyth", _SLOWFAST),
    }
    return {
        f"{name}_{num_frames}x{step}": _kinetics(*file, num_frames, step, {}, size=size) for name, file in urls.items()
    }


def _slowfast(name: str, num_frames: int, step: int, geometry: _Geometry) -> WeightSource:
    url = f"pyslowfast/model_zoo/kinetics400/{name}_{num_frames}x{step}_R50.pkl"
    return _kinetics(url, _SLOWFAST, num_frames, step, geometry)


def _pytorchvideo(name: str, num_frames: int, step: int, geometry: _Geometry, depth: int = 50) -> WeightSource:
    url = f"pytorchvideo/model_zoo/kinetics/{name}_{num_frames}x{step}_R{depth}.pyth"
    return _kinetics(url, _PYTORCHVIDEO, num_frames, step, geometry)


def _pytorchvideo_frames(dataset: str, licence_name: str, classes: int, fps: float | None) -> WeightSource:
    """Returns the WeightSource of a SlowOnly network of the package pytorchvideo, trained on JPEG frames of a data set.

    `dataset` is the name of the data set in the URL of the file, and `licence_name` its name in the licence text. The
    data set has `classes` classes. A clip took `fps` frames from each second of video. If `fps` is None, the frames
    were spread over the whole video. The network expects BGR, because the code base SlowFast read JPEG frames as BGR.
    """
    return WeightSource(
        url=f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/{dataset}/SLOW_8x8_R50.pyth",
        file_name=f"{dataset}_SLOW_8x8_R50.pyth",
        licence=f"Apache-2.0 (PyTorchVideo), trained on Kinetics-400 and {licence_name}",
        pixels=_KINETICS_BGR,
        sampling=Sampling(num_frames=8, fps=fps),
        short_side_px=256,
        crop_px=256,
        resize="torch",
        classes=classes,
        geometry=_UNPOOLED,
    )


def _nonlocal_net(name: str, affine: bool, num_frames: int, step: int) -> WeightSource:
    """Returns the WeightSource of a file of video-nonlocal-net, the code that the authors of non-local networks
    released.

    `name` is the name of the network. The network takes clips of `num_frames` frames, which are every `step`-th frame
    of the video. If `affine` is True, the file has a scale and a shift in place of each norm. If it is False, the file
    has norms.
    """
    before = "I3D" if affine else "IN"
    geometry = _NONLOCAL_NET_LONG if (num_frames, step) in ((32, 2), (128, 1)) else _NONLOCAL_NET
    if affine and "nonlocal" in name:
        geometry = geometry | _GROUPED
    return _kinetics(
        f"video-nonlocal/{name}_{num_frames}x{step}_{before}_pretrain_400k.pkl",
        "CC-BY-NC-4.0 (video-nonlocal-net), trained on Kinetics-400",
        num_frames,
        step,
        geometry,
        resize=None,  # the resizing of the authors' code is not known
    )


def _tsm(name: str, dataset: str, classes: int, num_frames: int, fps: float | None = None) -> WeightSource:
    return WeightSource(
        url=f"https://hanlab18.mit.edu/projects/tsm/models/{name}.pth",
        file_name=f"{name}.pth",
        licence=f"MIT (temporal-shift-module), trained on {dataset}",
        pixels=_IMAGENET,
        sampling=Sampling(num_frames=num_frames, fps=fps),
        short_side_px=256,
        crop_px=224,
        resize="pillow",
        classes=classes,
    )


_SHIFTED = "resnet50_shift8_blockres_avg_segment"

BACKBONE_WEIGHTS: dict[str, dict[str, WeightSource]] = {
    "resnet18": {"imagenet1k_v1": _imagenet("resnet18-f37072fd.pth")},
    "resnet34": {"imagenet1k_v1": _imagenet("resnet34-b627a593.pth")},
    "resnet50": {
        "imagenet1k_v1": _imagenet("resnet50-0676ba61.pth"),
        "imagenet1k_v2": _imagenet("resnet50-11ad3fa6.pth", 232),
        "slowfast_imagenet1k": WeightSource(
            url="https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/R50_IN1K.pyth",
            file_name="R50_IN1K.pyth",
            licence="Apache-2.0 (SlowFast), trained on ImageNet-1k",
            pixels=_IMAGENET,
            short_side_px=256,
            crop_px=256,
            classes=1000,
        ),
        # Trained on 5 frames against overfitting, tested on 8 (scripts/train_tsn_kinetics_rgb_5f.sh).
        "tsn_kinetics400": _tsm("TSM_kinetics_RGB_resnet50_avg_segment5_e50", "Kinetics-400", 400, 5),
    },
    "resnet101": {
        "imagenet1k_v1": _imagenet("resnet101-63fe2227.pth"),
        "imagenet1k_v2": _imagenet("resnet101-cd907fc2.pth", 232),
    },
    "inception_v3": {
        "imagenet1k_v1": _torchvision("inception_v3_google-0cc3c7bd.pth", _INCEPTION_V3, 342, 299, resize="pillow")
    },
    "bn_inception": {
        "imagenet1k": WeightSource(
            url="http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
            file_name="bn_inception-52deb4733.pth",
            sha256="52deb4733",
            licence="BSD-3-Clause (pretrained-models.pytorch), trained on ImageNet-1k by the authors of TSN",
            pixels=_CAFFE,
            short_side_px=256,
            crop_px=224,
            resize="pillow",
            classes=1000,
        )
    },
    "tsm_r50": {
        "kinetics400_8_dense": _tsm(
            f"TSM_kinetics_RGB_{_SHIFTED}8_e100_dense", "Kinetics-400", 400, 8, _KINETICS_FPS / 8
        ),
        "kinetics400_8": _tsm(f"TSM_kinetics_RGB_{_SHIFTED}8_e50", "Kinetics-400", 400, 8),
        "kinetics400_16": _tsm(f"TSM_kinetics_RGB_{_SHIFTED}16_e50", "Kinetics-400", 400, 16),
        "something_v1_8": _tsm(f"TSM_something_RGB_{_SHIFTED}8_e45", "Something-Something V1", 174, 8),
        "something_v1_16": _tsm(f"TSM_something_RGB_{_SHIFTED}16_e45", "Something-Something V1", 174, 16),
        "something_v2_8": _tsm(f"TSM_somethingv2_RGB_{_SHIFTED}8_e45", "Something-Something V2", 174, 8),
        "something_v2_16": _tsm(f"TSM_somethingv2_RGB_{_SHIFTED}16_e45", "Something-Something V2", 174, 16),
    },
    "c2d_r50": {
        "pytorchvideo_8x8": _pytorchvideo("C2D", 8, 8, _POOLED),
        "slowfast_8x8": _slowfast("C2D_NOPOOL", 8, 8, _UNPOOLED),
        "nonlocal_net_8x8": _nonlocal_net("c2d_baseline", False, 8, 8),
        "nonlocal_net_32x2": _nonlocal_net("c2d_baseline", False, 32, 2),
    },
    "i3d_r50": {
        "pytorchvideo_8x8": _pytorchvideo("I3D", 8, 8, _POOLED),
        "slowfast_8x8": _slowfast("I3D", 8, 8, _POOLED),
        "nonlocal_net_8x8": _nonlocal_net("i3d_baseline", False, 8, 8),
        "nonlocal_net_32x2": _nonlocal_net("i3d_baseline", False, 32, 2),
        "nonlocal_net_32x4": _nonlocal_net("i3d_baseline", True, 32, 4),
        "nonlocal_net_128x1": _nonlocal_net("i3d_baseline", True, 128, 1),
    },
    "nonlocal_i3d_r50": {
        "slowfast_8x8": _slowfast("I3D_NLN", 8, 8, _POOLED),
        "nonlocal_net_8x8": _nonlocal_net("i3d_nonlocal", False, 8, 8),
        "nonlocal_net_32x2": _nonlocal_net("i3d_nonlocal", False, 32, 2),
        "nonlocal_net_32x4": _nonlocal_net("i3d_nonlocal", True, 32, 4),
        "nonlocal_net_128x1": _nonlocal_net("i3d_nonlocal", True, 128, 1),
    },
    "slowonly_r50": {
        "pytorchvideo_4x16": _pytorchvideo("SLOW", 4, 16, _UNPOOLED),
        "pytorchvideo_8x8": _pytorchvideo("SLOW", 8, 8, _UNPOOLED),
        "pytorchvideo_something_v2_8x8": _pytorchvideo_frames("ssv2", "Something-Something V2", 174, None),
        "pytorchvideo_charades_8x8": _pytorchvideo_frames("charades", "Charades", 157, _CHARADES_FPS / 8),
        "slowfast_4x16": _slowfast("SLOWONLY", 4, 16, _UNPOOLED),
        "slowfast_8x8": _slowfast("SLOWONLY", 8, 8, _UNPOOLED),
    },
    "csn_r101": {"pytorchvideo_32x2": _pytorchvideo("CSN", 32, 2, {}, depth=101)},
    "x3d_xs": _x3d("XS", 4, 12, 182),
    "x3d_s": _x3d("S", 13, 6, 182),
    "x3d_m": _x3d("M", 16, 5, 256),
    "x3d_l": _x3d("L", 16, 5, 356),
    "slowfast_r50_4x16": _two_pathways("4x16"),
    "slowfast_r50_8x8": _two_pathways("8x8"),
    "slowfast_r101_8x8": _two_pathways("8x8", 101, slowfasts_own=False),
    "s3d": {
        "kinetics400_v1": _torchvision(
            "s3d-d76dad2f.pth", _TORCHVISION_VIDEO, 256, 224, Sampling(num_frames=128, fps=15)
        )
    },
    "r2plus1d_18": {
        "kinetics400_v1": _torchvision(
            "r2plus1d_18-91a641e6.pth", _TORCHVISION_VIDEO, 128, 112, Sampling(num_frames=16, fps=15)
        )
    },
    "r3d_18": {
        "kinetics400_v1": _torchvision(
            "r3d_18-b3b3357e.pth", _TORCHVISION_VIDEO, 128, 112, Sampling(num_frames=16, fps=15)
        )
    },
    "mc3_18": {
        "kinetics400_v1": _torchvision(
            "mc3_18-a90a0ba3.pth", _TORCHVISION_VIDEO, 128, 112, Sampling(num_frames=16, fps=15)
        )
    },
    "swin3d_t": {"kinetics400_v1": _video_swin("swin3d_t-7615ae03.pth")},
    "swin3d_s": {"kinetics400_v1": _video_swin("swin3d_s-da41c237.pth")},
    "swin3d_b": {
        "kinetics400_v1": _video_swin("swin3d_b_1k-24f7c7c6.pth"),
        "kinetics400_imagenet22k_v1": _video_swin("swin3d_b_22k-7c6ae6fa.pth"),
    },
    "mvit_v1_b": {
        "kinetics400_v1": _mvit("mvit_v1_b-dbeb1030.pth"),
        "pytorchvideo_16x4": _mvit_of_pytorchvideo(),
    },
    "mvit_v2_s": {"kinetics400_v1": _mvit("mvit_v2_s-ae3be167.pth")},
    "tiny_i3d": {
        "shipped": WeightSource(
            path="backbones/shipped/tiny_i3d.safetensors",
            file_name="tiny_i3d.safetensors",
            sha256="ec3706c8191455a9c1afd665c0d2ac9365443c463d9091e1081e34dacbf1a8c3",
            licence="as this package; made by kinegraph.stages.generated.tiny_networks",
        )
    },
    "tiny_sync_cnn": {
        "shipped": WeightSource(
            path="backbones/shipped/tiny_sync_cnn.safetensors",
            file_name="tiny_sync_cnn.safetensors",
            sha256="a253e49676c519d8706a1497092cda7d027cede758611bdf65165ef8a4198e57",
            licence="as this package; made by kinegraph.stages.generated.sync_networks",
        )
    },
}

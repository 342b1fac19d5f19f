"""The files that are known by name."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights

from kinegraph.cache_schemas.crops import Framing, Resize
from kinegraph.stages.backbones.build import untrained
from kinegraph.stages.backbones.catalogue import CATALOGUE, entry
from kinegraph.stages.backbones.non_local import NonLocal
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import framing_of
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS
from kinegraph.stages.weights.registry import BACKBONE_WEIGHTS
from kinegraph.stages.weights.sources import WeightSource, known_source

SOURCES = [(model, name, source) for model, named in BACKBONE_WEIGHTS.items() for name, source in named.items()]
TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101", "inception_v3", "s3d", "r2plus1d_18"]
TORCHVISION += ["r3d_18", "mc3_18", "swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b", "mvit_v2_s"]


def test_file_names_are_unique_and_models_exist() -> None:
    names = [source.file_name for _, _, source in SOURCES]
    assert len({*names}) == len(names)
    assert BACKBONE_WEIGHTS.keys() <= CATALOGUE.keys()
    assert CATALOGUE["i3d_r50"].weights == BACKBONE_WEIGHTS["i3d_r50"]


@pytest.mark.parametrize(("model", "name", "source"), SOURCES)
def test_a_public_file_says_what_it_expects(model: str, name: str, source: WeightSource) -> None:
    assert source.licence
    if source.url is None:
        return
    assert source.url.endswith(source.file_name.removeprefix("ssv2_").removeprefix("charades_"))
    assert source.pixels is not None
    assert None not in (source.short_side_px, source.crop_px, source.classes)
    image = model.startswith(("resnet", "inception", "bn_")) and name != "tsn_kinetics400"
    assert (source.sampling is None) == image


@pytest.mark.parametrize("model", TORCHVISION)
def test_torchvisions_files_are_as_torchvision_says(model: str) -> None:
    ours = {name: x for name, x in BACKBONE_WEIGHTS[model].items() if "download.pytorch.org" in str(x.url)}
    assert ours.keys() == {weights.name.lower() for weights in get_model_weights(model)}
    for weights in get_model_weights(model):
        source, transforms = ours[weights.name.lower()], weights.transforms()
        assert (source.url, source.classes) == (weights.url, len(weights.meta["categories"]))
        assert source.crop_px == transforms.crop_size[0]
        assert source.short_side_px == transforms.resize_size[0]
        keeps_aspect = len(transforms.resize_size) == 1
        assert source.crop_px is not None
        resize: Resize = "torch" if source.sampling else "pillow"  # torchvision's videos are resized without antialias
        framing = Framing(size=source.crop_px, resize_short=source.short_side_px, resize=resize)
        assert source.framing == (framing if keeps_aspect else None)
        assert source.url.endswith(f"-{source.sha256}.pth")
        pixels = torch.rand(3, generator=torch.Generator().manual_seed(0))
        theirs = (pixels - torch.tensor(transforms.mean)) / torch.tensor(transforms.std)
        if model == "inception_v3":  # Inception3._transform_input
            theirs = theirs * (torch.tensor([0.229, 0.224, 0.225]) / 0.5)
            theirs += (torch.tensor([0.485, 0.456, 0.406]) - 0.5) / 0.5
        assert source.pixels is not None
        seen = (pixels - torch.tensor(source.pixels.mean)) / torch.tensor(source.pixels.std)
        torch.testing.assert_close(seen, theirs)


TRAINED = [(model, name) for model, name, source in SOURCES if source.geometry]
CLIPS = [(32, 97), (64, 64)]  # frames and side: odd, so that padding shows, and even


def test_every_file_of_the_3d_family_says_what_it_was_trained_in() -> None:
    assert [(model, name) for model, name, _ in SOURCES if model in LAYOUTS] == TRAINED
    assert all(source.geometry.keys() <= CATALOGUE[model].options.keys() for model, _, source in SOURCES)


@pytest.mark.parametrize(("model", "name"), TRAINED)
def test_the_network_of_a_public_file_is_the_one_it_was_trained_in(model: str, name: str) -> None:
    """Every module is as the entry says, and maps have the shapes that its taps tell."""
    known, geometry = entry(model, weights=name), BACKBONE_WEIGHTS[model][name].geometry
    with torch.device("meta"):
        network = untrained(model, **known.chosen).eval()
        for num_frames, size in CLIPS:
            maps = network(torch.empty(1, 3, num_frames, size, size))
            shapes = {tap: tuple(x.transpose(1, 2).shape[1:]) for tap, x in maps.items()}
            assert shapes == {tap.name: tap.shape(num_frames, size) for tap in known.taps}
    built = dict(network.named_modules())
    joined = geometry["pool1_time_stride"]
    assert built["conv1"].stride == (geometry["stem_time_stride"], 2, 2)
    assert (built["pool1"].kernel_size, built["pool1"].stride) == ((joined, 3, 3), (joined, 2, 2))
    assert built["pool1"].padding == (0, geometry["pool1_padding"], geometry["pool1_padding"])
    assert getattr(built["pool2"], "kernel_size", (1, 1, 1)) == (geometry["pool2_time_stride"], 1, 1)
    assert built["res5.0.conv2"].stride == (1, geometry["res5_stride"], geometry["res5_stride"])
    if "nonlocal" in model:
        seen = {path: module.frames for path, module in built.items() if isinstance(module, NonLocal)}
        groups = geometry.get("res3_attention_frames", "all")
        assert seen == {f"res3.after.{i}": groups for i in (1, 3)} | {f"res4.after.{i}": "all" for i in (1, 3, 5)}


@pytest.mark.parametrize(
    ("name", "num_frames", "shape"),
    [
        ("slowfast_8x8", 8, (4, 2048, 8, 8)),
        ("nonlocal_net_8x8", 8, (4, 2048, 8, 8)),
        ("nonlocal_net_32x2", 32, (4, 2048, 8, 8)),
        ("nonlocal_net_32x4", 32, (16, 2048, 8, 8)),
        ("nonlocal_net_128x1", 128, (16, 2048, 8, 8)),
    ],
)
def test_maps_are_as_large_as_the_code_that_trained_says(
    name: str, num_frames: int, shape: tuple[int, int, int, int]
) -> None:
    """Its last pool joins VIDEO_LENGTH / 2 frames, in the paper's own networks VIDEO_LENGTH / 8."""
    assert entry("nonlocal_i3d_r50", weights=name).tap("res5").shape(num_frames, 256) == shape
    stem = entry("nonlocal_i3d_r50", weights=name).tap("stem")
    assert stem.shape(num_frames, 224)[2] == (56 if name == "slowfast_8x8" else 55)


def test_data_sets_of_jpeg_frames_were_read_as_bgr() -> None:
    orders: dict[str, Any] = {name: x.pixels and x.pixels.channel_order for _, name, x in SOURCES}
    bgr = {name for name, order in orders.items() if order == "BGR"}
    assert bgr == {"pytorchvideo_something_v2_8x8", "pytorchvideo_charades_8x8"} | {
        name for model, name, _ in SOURCES if model == "bn_inception"
    }


def test_files_of_tsn_and_tsm_say_in_their_name_how_many_frames_they_saw() -> None:
    named = [source for _, _, source in SOURCES if "_segment" in source.file_name]
    assert len(named) == 8
    for source in named:
        assert source.sampling is not None
        assert f"_segment{source.sampling.num_frames}_" in source.file_name


def test_networks_without_antialias() -> None:
    """Video networks of PySlowFast and PyTorchVideo, which resize tensors, and torchvision's that keep the aspect."""
    public = ("pyslowfast", "pytorchvideo", "swin3d", "mvit")
    theirs = [s for _, _, s in SOURCES if s.sampling and any(name in str(s.url) for name in public)]
    assert [source for _, _, source in SOURCES if source.resize == "torch"] == theirs


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"weights": "slowfast_8x8"}, Framing(size=256, resize_short=256, resize="torch")),
        ({"weights": "slowfast_8x8", "size": 256}, Framing(size=256, resize_short=256, resize="torch")),
        ({"weights": "slowfast_8x8", "size": 224}, Framing(size=224)),
        (
            {"weights": "slowfast_8x8", "size": 224, "resize_short": 256},
            Framing(size=224, resize_short=256, resize="torch"),
        ),
        ({"weights": "slowfast_8x8", "resize_short": None}, Framing(size=224)),
        ({"weights": "slowfast_8x8", "resize": "pillow"}, Framing(size=256, resize_short=256)),
        ({"weights": "nonlocal_net_32x2"}, Framing(size=224)),
        ({"weights": "random:0"}, Framing(size=224)),
        ({"weights": "random:0", "resize_short": 256}, Framing(size=224, resize_short=256)),
        ({"weights": "inflate:imagenet1k_v1"}, Framing(size=224)),
    ],
)
def test_frames_are_framed_as_the_weights_were_tested(given: dict[str, Any], expected: Framing) -> None:
    options = BackboneOptions(model="i3d_r50", taps=("res5",), **given)
    assert framing_of(options, CATALOGUE["i3d_r50"]) == expected


def test_a_local_file_is_known_by_the_name_of_a_public_one() -> None:
    named = BACKBONE_WEIGHTS["i3d_r50"]
    assert known_source("/data/I3D_8x8_R50.pkl", named) is named["slowfast_8x8"]
    assert known_source("slowfast_8x8", named) is named["slowfast_8x8"]
    assert known_source("/data/my.pkl", named) is None
    assert known_source("random:0", named) is None


def test_the_registry_needs_no_torch() -> None:
    modules = "kinegraph.stages.weights.registry, kinegraph.stages.backbones.pixels"
    command = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)

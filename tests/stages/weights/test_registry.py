"""The files that are known by name."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights

from stages.backbones.build import untrained
from stages.backbones.catalogue import CATALOGUE
from stages.backbones.geometry import differences
from stages.weights.registry import BACKBONE_WEIGHTS
from stages.weights.sources import WeightSource, known_source

SOURCES = [(model, name, source) for model, named in BACKBONE_WEIGHTS.items() for name, source in named.items()]
TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101", "inception_v3", "s3d", "r2plus1d_18"]


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
        assert source.url.endswith(f"-{source.sha256}.pth")
        pixels = torch.rand(3, generator=torch.Generator().manual_seed(0))
        theirs = (pixels - torch.tensor(transforms.mean)) / torch.tensor(transforms.std)
        if model == "inception_v3":  # Inception3._transform_input
            theirs = theirs * (torch.tensor([0.229, 0.224, 0.225]) / 0.5)
            theirs += (torch.tensor([0.485, 0.456, 0.406]) - 0.5) / 0.5
        assert source.pixels is not None
        seen = (pixels - torch.tensor(source.pixels.mean)) / torch.tensor(source.pixels.std)
        torch.testing.assert_close(seen, theirs)


@pytest.mark.parametrize(
    ("model", "name", "stride", "told"),
    [
        ("i3d_r50", "pytorchvideo_8x8", 1, ["res5_stride 2 (here 1)"]),
        ("i3d_r50", "pytorchvideo_8x8", 2, []),
        ("c2d_r50", "slowfast_8x8", 2, ["pool2_time_stride 1 (here 2)"]),
        ("slowonly_r50", "slowfast_4x16", 2, []),
        (
            "nonlocal_i3d_r50",
            "nonlocal_net_128x1",
            2,
            [
                "stem_time_stride 2 (here 1)",
                "pool1_time_stride 2 (here 1)",
                "pool1_padding 0 (here 1)",
                "res3_attention groups of 4 frames (here all frames)",
            ],
        ),
    ],
)
def test_the_geometry_a_file_was_trained_in_is_compared(model: str, name: str, stride: int, told: list[str]) -> None:
    with torch.device("meta"):
        network = untrained(model, res5_stride=stride)
    assert differences(network, BACKBONE_WEIGHTS[model][name].geometry) == told
    network.cut(["stem"])
    below = [line for line in told if line.startswith(("stem", "pool1"))]
    assert differences(network, BACKBONE_WEIGHTS[model][name].geometry) == below


def test_data_sets_of_jpeg_frames_were_read_as_bgr() -> None:
    orders: dict[str, Any] = {name: x.pixels and x.pixels.channel_order for _, name, x in SOURCES}
    bgr = {name for name, order in orders.items() if order == "BGR"}
    assert bgr == {"pytorchvideo_something_v2_8x8", "pytorchvideo_charades_8x8"} | {
        name for model, name, _ in SOURCES if model == "bn_inception"
    }


def test_a_local_file_is_known_by_the_name_of_a_public_one() -> None:
    named = BACKBONE_WEIGHTS["i3d_r50"]
    assert known_source("/data/I3D_8x8_R50.pkl", named) is named["slowfast_8x8"]
    assert known_source("slowfast_8x8", named) is named["slowfast_8x8"]
    assert known_source("/data/my.pkl", named) is None
    assert known_source("random:0", named) is None


def test_the_registry_needs_no_torch() -> None:
    command = "import sys, stages.weights.registry, stages.backbones.pixels; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)

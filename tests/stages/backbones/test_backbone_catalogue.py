import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import BUILDERS, untrained
from kinegraph.stages.backbones.catalogue import CATALOGUE, entry
from kinegraph.stages.backbones.folding import fold_batch_norms
from kinegraph.stages.backbones.inception_v3 import InceptionV3
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS
from kinegraph.stages.weights.sources import WeightSource


def test_every_backbone_has_an_entry_and_a_builder() -> None:
    assert CATALOGUE.keys() == BUILDERS.keys() | LAYOUTS.keys()
    assert not BUILDERS.keys() & LAYOUTS.keys()
    assert all(known.name == name for name, known in CATALOGUE.items())


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Backbone:
    """A network without values; with norms folded, whose shapes take most of the time on `meta` and change nothing."""
    with torch.device("meta"):
        whole = untrained(request.param).eval()
    fold_batch_norms(whole)
    return whole


WITH_CLASS_TOKEN = {name for name, known in CATALOGUE.items() if known.taps[0].class_token}
# Networks that have the layers of another one, or more of the same, are left out.
DIFFERENT = [model for model in CATALOGUE if model not in ("x3d_xs", "x3d_m", "x3d_l", "slowfast_r101_8x8")]
EACH = pytest.mark.parametrize(
    ("model", "network"), [(model, model) for model in DIFFERENT], indirect=["network"], scope="module"
)


@EACH
def test_taps_have_the_shapes_of_the_real_network(model: str, network: Backbone) -> None:
    known = CATALOGUE[model]
    inputs: tuple[tuple[int, int], ...] = ((8, 224), (5, 65), (4, 97))
    if (frames := known.taps[0].only_frames) and (side := known.taps[0].only_size):
        inputs = ((frames, side),)
    for least_frames, odd_size in inputs:
        size = odd_size - odd_size % known.taps[0].size_multiple
        num_frames = -(-least_frames // known.taps[0].frames_multiple) * known.taps[0].frames_multiple
        shapes = {tap.name: tap.shape(num_frames, size) for tap in known.taps}
        real = [name for name, shape in shapes.items() if min(shape) > 0]
        cut = copy.deepcopy(network)
        cut.cut(real)
        with torch.device("meta"):
            maps = cut(torch.empty(2, 3, num_frames, size, size))
        assert {name: tuple(x.transpose(1, 2).shape) for name, x in maps.items()} == {
            name: (2, *shapes[name]) for name in real
        }, (num_frames, size)


@pytest.mark.parametrize(
    ("model", "network"),
    [(model, model) for model in DIFFERENT if model not in WITH_CLASS_TOKEN],  # it is needed above a tap, too
    indirect=["network"],
    scope="module",
)
def test_above_a_tap_shapes_follow_from_its_own(model: str, network: Backbone) -> None:
    """For maps that are not square, too, as no whole network here makes them."""
    if model.startswith("slowfast"):
        with pytest.raises(ValueError, match="maps of both pathways"):
            network.cut_below(network.taps[0])
        return
    known = CATALOGUE[model]
    below, *above = known.taps[len(known.taps) // 2 :]
    cached = (8, below.channels, 14, 12)
    network = copy.deepcopy(network)
    network.cut_below(below.name)
    with torch.device("meta"):
        num_frames, channels, height, width = cached
        maps = network(torch.empty(2, channels, num_frames, height, width))
    found = {name: x.transpose(1, 2).shape[1:] for name, x in maps.items()}
    assert found == {tap.name: tap.shape_above(below, cached) for tap in above}
    assert [*network.levels] == [tap.name for tap in above]


@pytest.mark.parametrize(("model", "num_frames", "size"), [("inception_v3", 1, 65), ("s3d", 4, 97)])
def test_an_input_too_small_has_an_empty_map_in_a_plan_and_fails_in_the_network(
    model: str, num_frames: int, size: int
) -> None:
    assert min(CATALOGUE[model].taps[-1].shape(num_frames, size)) == 0
    with torch.device("meta"), pytest.raises(RuntimeError, match=r"Output size is too small|greater than actual"):
        untrained(model).eval()(torch.empty(2, 3, num_frames, size, size))


@pytest.mark.parametrize(
    ("num_frames", "size", "told"),
    [(8, 224, "8 frames: norm needs exactly 16"), (16, 256, "256 px: norm needs exactly")],
)
def test_a_network_whose_positions_are_tied_to_one_input_takes_no_other(num_frames: int, size: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        entry("mvit_v2_s").tap("norm").shape(num_frames, size)
    assert entry("mvit_v2_s").tap("block13").shape(16, 224) == (8, 384, 14, 14)
    assert entry("mvit_v2_s").tap("block13").class_shape(16) == (1, 384)


def test_branches_that_would_not_meet_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="size 112 px: inception_5b needs a multiple of 32"):
        entry("bn_inception").tap("inception_5b").shape(8, 112)
    with torch.device("meta"), pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        untrained("bn_inception")(torch.empty(1, 3, 1, 112, 112))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("i3d_r50", {"res5_stride": 2}),
        ("slowonly_r50", {"res5_stride": 1, "pool2_time_stride": 2}),
        ("c2d_r50", {"pool1_padding": 0, "pool2_time_stride": 1}),
        ("i3d_r101", {"temporal_kernels": "all", "stem_time_stride": 2}),
    ],
)
def test_options_change_the_network_and_its_taps_alike(model: str, options: dict[str, int | str]) -> None:
    tap = entry(model, options).tap("res5")
    with torch.device("meta"):
        maps = untrained(model, **entry(model, options).chosen)(torch.empty(1, 3, 7, 97, 97))
    assert tuple(maps["res5"].transpose(1, 2).shape[1:]) == tap.shape(7, 97)
    assert tap.shape(7, 97) != entry(model).tap("res5").shape(7, 97)


def test_options_are_chosen_from_what_the_entry_lists() -> None:
    known = entry("i3d_r50")
    assert known.choose({"res5_stride": 1, "temporal_kernels": "all"}, "random:0") == {"temporal_kernels": "all"}
    with pytest.raises(ValueError, match="res5_stride: given 4, allowed: 1, 2"):
        known.choose({"res5_stride": 4}, "random:0")
    with pytest.raises(ValueError, match="s3d has no option 'res5_stride'; its options: none"):
        entry("s3d", {"res5_stride": 1})


@pytest.mark.parametrize("weights", ["nonlocal_net_32x2", "/data/i3d_nonlocal_32x2_IN_pretrain_400k.pkl"])
def test_what_options_leave_out_is_as_the_weights_were_trained(weights: str) -> None:
    trained = {"stem_time_stride": 2, "pool1_time_stride": 2, "pool1_padding": 0, "res5_stride": 2}
    assert entry("nonlocal_i3d_r50", weights=weights).chosen == trained
    assert entry("nonlocal_i3d_r50", {"geometry": "as_trained"}, weights).chosen == trained
    del trained["res5_stride"]
    assert entry("nonlocal_i3d_r50", {"res5_stride": 1}, weights).chosen == trained
    paper: dict[str, int | str] = {"geometry": "paper", "pool1_padding": 0}
    assert entry("nonlocal_i3d_r50", paper, weights).chosen == {"pool1_padding": 0}
    assert entry("nonlocal_i3d_r50", {}, "/data/mine.pkl") == CATALOGUE["nonlocal_i3d_r50"]


def test_frames_that_leave_no_whole_groups_are_refused_in_words() -> None:
    res3 = entry("nonlocal_i3d_r50", weights="nonlocal_net_32x4").tap("res3")
    assert res3.shape(40, 224)[0] == 20
    with pytest.raises(ValueError, match="12 frames: res3 needs a multiple of 8"):
        res3.shape(12, 224)
    known = entry("nonlocal_i3d_r50", weights="nonlocal_net_128x1")
    assert known.tap("res2").shape(12, 224)[0] == 3
    with pytest.raises(ValueError, match="48 frames: res5 needs a multiple of 32"):
        known.tap("res5").shape_above(known.tap("res2"), (12, 256, 56, 56))


def test_a_cell_of_an_unpadded_network_sits_where_its_tap_says() -> None:
    """The pixels that a cell of Inception's stem sees lie around (i + 1/2) stride + offset."""
    network = InceptionV3().eval()
    network.cut(["stem"])
    network.maxpool1, network.maxpool2 = nn.AvgPool2d(3, 2), nn.AvgPool2d(3, 2)  # so that every pixel seen counts
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    tap = entry("inception_v3").tap("stem")
    clip = torch.ones(1, 3, 1, 107, 107, requires_grad=True)
    cell = 4
    network(clip)["stem"][0, 0, 0, cell, cell].backward()
    assert clip.grad is not None
    seen = clip.grad[0, 0, 0].sum(0).nonzero().flatten()
    assert (seen[0] + seen[-1] + 1) / 2 == (cell + 0.5) * tap.stride + tap.offset_px
    assert tap.offset_px == 9.5
    others = CATALOGUE.keys() - {"inception_v3", "sync_cnn", "tiny_sync_cnn"}
    assert {tap.offset_px for name in others for tap in CATALOGUE[name].taps} == {0}
    assert [tap.offset_px for tap in entry("sync_cnn").taps] == [1, 3, 7]
    assert [tap.offset_px for tap in entry("i3d_r50", {"pool1_padding": 0}).taps] == [0.5, 0.5, 0, 0, 0]


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet18, resnet34"):
        entry("resnet19")
    with pytest.raises(ValueError, match="stem, res2, res3, res4, res5"):
        entry("resnet18").tap("layer4")


def test_a_weight_source_is_public_or_shipped() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        WeightSource(file_name="x.pth", sha256="00", licence="MIT")


def test_planning_needs_no_torch() -> None:
    modules = (
        "kinegraph.stages.backbones.catalogue, kinegraph.stages.proposals.catalogue, kinegraph.stages.regions.geometry"
    )
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)

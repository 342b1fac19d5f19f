"""Sizes of the heads at their papers' settings, as `kinegraph models --heads` says them."""

import pytest
import torch

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.heads.build import HEADS, build_head
from kinegraph.stages.heads.sizes import SIZES, clips_of, count

SIZE = {size.head: size for size in SIZES}


def test_every_head_has_its_size() -> None:
    assert SIZE.keys() == HEADS.keys()


def test_strg_is_its_graphs_its_projection_and_its_classifier() -> None:
    num_params, gmacs, reads = count(SIZE["strg"])
    d, channels, nodes, frames, classes = 512, 2048, 800, 16, 157
    graphs = 12 * d * d + 2 * 3 * 2 * d
    assert graphs == 3_151_872
    assert num_params == graphs + channels * d + d + 2 * d * classes + classes
    similarity = 2 * nodes * d * d + nodes * nodes * d + 3 * (nodes * nodes * d + nodes * d * d)
    pairs = (frames - 1) * 50 * 50 * d
    overlap = 3 * 2 * (pairs + nodes * d * d)
    shared_g, projection = nodes * d * d, nodes * channels * d + channels * d
    assert gmacs == pytest.approx((similarity + overlap + shared_g + projection + 2 * d * classes) / 1e9, rel=1e-9)
    assert "regions/i3d/res5" in reads


def test_rstg_with_its_backbone_has_the_published_parameters() -> None:
    backbone = 9 * 3 * 512 + 2 * 9 * 512 * 512 + 3 * 512
    assert (count(SIZE["rstg"])[0] + backbone) / 1e6 == pytest.approx(10.57, abs=0.02)


def test_trg_follows_its_formula() -> None:
    c, heads, blocks = 2048, 3, 3
    per_block = heads * c * c + 9 * heads * c * c + heads * heads + heads * 2 * 2 * c
    assert count(SIZE["trg"])[0] == blocks * per_block + c * 174 + 174


@pytest.mark.parametrize(
    ("model", "millions", "gmacs"),
    [("resnet50", 23.9, 32.7), ("bn_inception", 10.4, 16.3), ("inception_v3", 22.1, 45.7)],
)
def test_the_backbones_that_trg_is_compared_with_have_the_sizes_stated(
    model: str, millions: float, gmacs: float
) -> None:
    """8 frames, and 174 classes in place of 1000."""
    known = entry(model)
    assert known.counts is not None
    classifiers = (1000 - 174) * (known.taps[-1].channels + 1)
    assert (known.counts.num_params - classifiers) / 1e6 == pytest.approx(millions, abs=0.05)
    assert 8 * known.counts.gmacs == pytest.approx(gmacs, abs=0.05)
    assert f"{millions}, {gmacs}" in SIZE["trg"].published


def test_trn_on_bn_inception_has_the_size_stated() -> None:
    with torch.device("meta"):
        head = build_head("trn", {"features/net/inception_5b_pooled": (8, 1024)}, 174)
    assert sum(parameter.numel() for parameter in head.parameters()) / 1e6 == pytest.approx(2.9, abs=0.05)


@pytest.mark.parametrize("name", ["st_sgn", "relation_matrix", "lstm", "avg_pool", "trn"])
def test_a_batch_of_this_size_goes_through_the_head(name: str) -> None:
    size = SIZE[name]
    head = build_head(size.head, size.spec, size.num_classes, **size.options)
    with torch.inference_mode():
        assert head.eval()(clips_of(size, head.reads, 2)).shape == (2, size.num_classes)

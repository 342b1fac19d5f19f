"""What padding holds never reaches a logit, and every head can learn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import Head, HeadError
from kinegraph.stages.regions.extract import regions_of_clips
from kinegraph.stages.regions.options import RegionOptions
from tests.stages.heads.conftest import learns_by_heart

Spec = dict[str, tuple[int, ...]]
MakeBatch = Callable[..., dict[str, Tensor]]
REGION_HEADS: list[tuple[str, dict[str, Any]]] = [
    ("proposal_pool", {"hidden": 8}),
    ("proposal_pool", {"concat_global": True, "dim": None}),
    ("strg", {"dim": 8, "graphs": "similarity"}),
    ("strg", {"dim": 8, "graphs": "spatial_temporal", "residual": "raw", "share_g": False}),
    ("strg", {"dim": 8, "graphs": "joint", "activate_last": False}),
    ("strg", {"dim": None, "graphs": "fused", "scale_similarity": True}),
    ("strg", {"dim": 8, "similarity_of": "each"}),
    ("strg", {"dim": 8, "regions_from": "maps"}),
    ("strg", {"dim": 8, "regions_from": "maps", "activate_projection": True}),
    ("proposal_pool", {"dim": 8, "regions_from": "maps", "concat_global": True}),
    ("proposal_pool", {"hidden": 8, "over": "tracks"}),
]
FRAME_HEADS: list[tuple[str, dict[str, Any]]] = [("avg_pool", {}), ("lstm", {"hidden": 16})]


def _trained_looking(head: Head) -> Head:
    """Random weights everywhere, in float64, so that nothing is hidden by a zero."""
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head.double().eval()


def _padded(batch: dict[str, Tensor], extra: int) -> dict[str, Tensor]:
    """The same clips with `extra` regions of NaN behind the valid ones."""
    regions, boxes = batch["regions/i3d/res5"], batch["proposals/boxes"]
    return batch | {
        "regions/i3d/res5": F.pad(regions, (0, 0, 0, extra), value=torch.nan),
        "proposals/boxes": F.pad(boxes, (0, 0, 0, extra), value=torch.nan),
        "tracks/id": F.pad(batch["tracks/id"], (0, extra), value=-1),
    }


@pytest.mark.parametrize(("name", "options"), REGION_HEADS)
def test_padding_changes_nothing(name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch()
    head = _trained_looking(build_head(name, spec, 3, **options))
    wider = spec | {"regions/i3d/res5": (5, 7, 12), "proposals/boxes": (5, 7, 4), "tracks/id": (5, 7)}
    padded_head = _trained_looking(build_head(name, wider, 3, **options))
    padded_head.load_state_dict(head.state_dict())
    torch.testing.assert_close(padded_head(_padded(batch, 3)), head(batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "options"), REGION_HEADS)
def test_regions_past_the_count_have_no_influence_and_no_gradient(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch
) -> None:
    batch = make_batch()
    batch["proposals/count"] = torch.tensor([[4, 2, 0, 3, 1], [0, 4, 4, 0, 1], [-1, 1, 2, 3, 4]], dtype=torch.int16)
    dirty = {key: x.clone() for key, x in batch.items()}
    past = torch.arange(4) >= batch["proposals/count"][..., None]
    dirty["regions/i3d/res5"][past] = torch.nan
    dirty["proposals/boxes"][past] = torch.nan
    head = _trained_looking(build_head(name, spec, 3, **options))
    logits = head(dirty)
    torch.testing.assert_close(logits, head(batch), atol=1e-6, rtol=0)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize(("name", "options"), REGION_HEADS)
def test_clips_without_a_proposal_give_finite_logits_and_gradients(
    name: str, options: dict[str, Any], count: int, spec: Spec, make_batch: MakeBatch
) -> None:
    batch = make_batch()
    batch["proposals/count"].fill_(count)
    batch["regions/i3d/res5"].fill_(torch.nan)
    head = _trained_looking(build_head(name, spec, 3, **options))
    logits = head(batch)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("num_frames", [1, 2])
def test_strg_takes_very_short_clips(num_frames: int, spec: Spec, make_batch: MakeBatch) -> None:
    short = {name: (num_frames, *shape[1:]) for name, shape in spec.items()}
    head = build_head("strg", short, 3, dim=8).double()
    assert head(make_batch(num_clips=1, frames=num_frames)).isfinite().all()


@pytest.mark.parametrize(("name", "options"), FRAME_HEADS + REGION_HEADS)
def test_a_head_learns_32_random_clips_by_heart(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch
) -> None:
    wide = {key: tuple(48 if size == 12 else size for size in shape) for key, shape in spec.items()}
    batch = {key: x.float() for key, x in make_batch(num_clips=32, channels=48).items()}
    labels = torch.arange(32) % 4
    head = build_head(name, wide, 4, dropout=0.0, **options)
    assert learns_by_heart(head, batch, labels, 1e-2, steps=150)


def test_pools_are_masked_means(spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch()
    batch["proposals/count"] = torch.tensor([[1, 0, 2, 0, 0]] * 3, dtype=torch.int16)
    head = _trained_looking(build_head("proposal_pool", spec, 3, dim=None, concat_global=True))
    regions = batch["regions/i3d/res5"]
    pooled = (regions[:, 0, 0] + regions[:, 2, 0] + regions[:, 2, 1]) / 3
    expected = head.classifier.fc(torch.cat([pooled, batch["features/i3d/res5_pooled"].mean(1)], 1))
    torch.testing.assert_close(head(batch), expected)


@pytest.mark.parametrize("regions_from", ["cached", "maps"])
def test_tracks_are_means_of_their_boxes_and_count_alike(regions_from: str, spec: Spec, make_batch: MakeBatch) -> None:
    """Boxes of twice as many frames as features, the three best of each: tracks have numbers beyond 5 x 3."""
    twice = {"proposals/boxes": (10, 4, 4), "proposals/count": (10,), "tracks/id": (10, 4)}
    batch = make_batch() | {name: x for name, x in make_batch(frames=10).items() if name in twice}
    batch["proposals/count"] = torch.tensor([[4, 1, 2, 0, 0, 3, 3, 4, 1, 4], [1] * 10, [0] * 10], dtype=torch.int16)
    batch["tracks/id"] += torch.tensor([0, 0, 0, 30, 30, 30, 0, 0, 0, 0])[:, None]
    options = {"dim": None, "over": "tracks", "regions_from": regions_from, "num_regions": 3}
    head = _trained_looking(build_head("proposal_pool", spec | twice, 3, **options))
    regions, _ = head.read_regions(batch, torch.float64, head.project)
    means = torch.zeros(3, 12, dtype=torch.float64)
    for clip, (features, count, ids) in enumerate(
        zip(regions.features, batch["proposals/count"][:, ::2], batch["tracks/id"][:, ::2], strict=True)
    ):
        boxes: dict[int, list[Tensor]] = {}
        for t in range(5):
            for n in range(min(int(count[t]), 3)):
                boxes.setdefault(int(ids[t, n]), []).append(features[t, n])
        if boxes:
            means[clip] = torch.stack([torch.stack(track).mean(0) for track in boxes.values()]).mean(0)
    torch.testing.assert_close(head(batch), head.classifier.fc(means))
    assert not torch.allclose(head(batch)[0], build_of_boxes(head, spec | twice, options)(batch)[0], atol=1e-3)


def build_of_boxes(head: Head, spec: Spec, options: dict[str, Any]) -> Head:
    """The same weights, without tracks."""
    other = build_head("proposal_pool", spec, 3, **options | {"over": "boxes"}).double().eval()
    other.load_state_dict(head.state_dict())
    return other


def test_the_lstm_knows_the_order_of_frames_and_the_average_does_not(spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch()
    reversed_batch = {key: x.flip(1) for key, x in batch.items()}
    lstm, average = (_trained_looking(build_head(name, spec, 3)) for name in ("lstm", "avg_pool"))
    assert not torch.allclose(lstm(batch), lstm(reversed_batch), atol=1e-3)
    torch.testing.assert_close(average(batch), average(reversed_batch))


@pytest.mark.parametrize(
    ("name", "options"),
    [("strg", {"graphs": "joint"}), ("strg", {"graphs": "similarity"}), ("proposal_pool", {"concat_global": True})],
)
def test_regions_of_unprojected_maps_are_the_cached_ones(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch
) -> None:
    batch = {name: x.float() if x.is_floating_point() else x for name, x in make_batch().items()}
    batch["proposals/count"] = torch.tensor([[4, 2, 0, 3, 1]] * 3, dtype=torch.int16)
    tap = Tap(name="res5", channels=batch["features/i3d/res5"].shape[2], space=((16, 16),))  # 3 x 3 cells of 16 px
    batch["regions/i3d/res5"] = regions_of_clips(
        batch["features/i3d/res5"], batch["proposals/boxes"], batch["proposals/count"], batch["clips/crop"].double(),
        48, tap, RegionOptions(backbones=("i3d",)),
    ).features  # fmt: skip
    batch["features/i3d/res5_pooled"] = batch["features/i3d/res5"].mean((3, 4))
    cached = build_head(name, spec, 3, dim=None, **options).eval()
    from_maps = build_head(name, spec, 3, dim=None, regions_from="maps", **options).eval()
    for parameter in cached.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    from_maps.load_state_dict(cached.state_dict())
    torch.testing.assert_close(from_maps(batch), cached(batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("regions_from", ["cached", "maps"])
@pytest.mark.parametrize("name", ["strg", "proposal_pool"])
def test_fewer_proposals_than_are_cached(name: str, regions_from: str, spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch()
    options = {"dim": 8, "regions_from": regions_from}
    with pytest.raises(HeadError, match="num_regions: given 5, allowed: up to 4, the boxes of a frame that are cached"):
        build_head(name, spec, 3, num_regions=5, **options)
    all_of_two = _trained_looking(
        build_head(name, spec | {"regions/i3d/res5": (5, 2, 12), "proposals/boxes": (5, 2, 4)}, 3, **options)
    )
    best_two = _trained_looking(build_head(name, spec, 3, num_regions=2, **options))
    best_two.load_state_dict(all_of_two.state_dict())
    two = batch | {name: batch[name][:, :, :2] for name in ("regions/i3d/res5", "proposals/boxes")}
    two["proposals/count"] = batch["proposals/count"].clamp(max=2)
    assert torch.equal(best_two(batch), all_of_two(two))


def test_regions_of_maps_keep_their_frame_and_place_in_bfloat16(spec: Spec, make_batch: MakeBatch) -> None:
    """bfloat16 counts to 256 and float16 areas end at 65504: only the features may be rounded."""
    batch = {name: x.float() if x.is_floating_point() else x for name, x in make_batch(num_clips=60).items()}
    batch["proposals/boxes"] = batch["proposals/boxes"] * 8 + 1000
    batch["clips/crop"] = batch["clips/crop"] * 8 + 1000
    head = build_head("strg", spec, 3, dim=8, regions_from="maps").eval()
    with torch.no_grad():
        for parameter in head.graph.parameters():
            parameter.normal_(std=0.3)
        exact = head(batch)
        with torch.autocast("cpu", torch.bfloat16):
            regions, _ = head.read_regions(batch, torch.float32, head.project)
            rounded = head(batch)
    assert regions.features.dtype == torch.bfloat16
    assert regions.boxes is not None
    assert torch.equal(regions.boxes, batch["proposals/boxes"])
    with torch.no_grad():
        expected, _ = head.read_regions(batch, torch.float32, head.project)
    assert expected.features.std() > 0.1
    torch.testing.assert_close(regions.features.float(), expected.features, atol=0.03, rtol=0.02)
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


def test_an_activated_projection_is_that_of_the_whole_map(spec: Spec, make_batch: MakeBatch) -> None:
    """BatchNorm and ReLU see the map, so the regions and the mean of the clip are of the same thing."""
    batch = make_batch()
    head = _trained_looking(build_head("strg", spec, 3, dim=8, regions_from="maps", activate_projection=True))
    maps = torch.einsum("dc,btchw->btdhw", head.project.weight, batch["features/i3d/res5"])
    maps = head.activate(maps.flatten(0, 1) + head.project.bias[:, None, None]).view_as(maps)
    regions, whole = head.read_regions(batch, torch.float64, head.project, head.activate)
    torch.testing.assert_close(whole, maps.mean((1, 3, 4)))
    assert 0 < regions.features.amax() <= maps.amax()
    assert regions.features.amin() >= 0
    for options in ({}, {"regions_from": "maps", "dim": None}):
        with pytest.raises(HeadError, match="activate_projection is true; it needs `regions_from: maps` and a `dim`"):
            build_head("strg", spec, 3, activate_projection=True, **options)


@pytest.mark.parametrize("name", ["strg", "proposal_pool"])
def test_roi_align_of_a_constant_map_and_of_a_box_around_everything(
    name: str, spec: Spec, make_batch: MakeBatch
) -> None:
    """The constant; and with one sample in each of 7 x 7 cells the largest value of the map."""
    batch = make_batch() | {"features/i3d/res5": torch.full((3, 5, 12, 7, 7), 2.5, dtype=torch.float64)}
    seven = spec | {"features/i3d/res5": (5, 12, 7, 7)}
    head = build_head(name, seven, 3, dim=None, regions_from="maps").double()
    regions, _ = head.read_regions(batch, torch.float64, head.project)
    torch.testing.assert_close(regions.features, torch.full_like(regions.features, 2.5))
    batch["proposals/boxes"][:] = batch["clips/crop"][0]
    batch["features/i3d/res5"] = torch.randn(3, 5, 12, 7, 7, dtype=torch.float64)
    regions, _ = head.read_regions(batch, torch.float64, head.project)
    largest = batch["features/i3d/res5"].amax((3, 4))[:, :, None]
    torch.testing.assert_close(regions.features, largest.expand_as(regions.features))


@pytest.mark.parametrize("name", ["strg", "proposal_pool"])
def test_boxes_that_are_shown_are_those_that_change_the_logits(name: str, spec: Spec, make_batch: MakeBatch) -> None:
    """Of twice as many frames with boxes every second one is read, and of its boxes the best two."""
    batch, twice = make_batch(frames=5), make_batch(frames=10)
    batch |= {key: twice[key] for key in ("proposals/boxes", "proposals/count")}
    batch["proposals/count"][:, 4] = 1
    wider = spec | {"proposals/boxes": (10, 4, 4), "proposals/count": (10,)}
    head = _trained_looking(build_head(name, wider, 3, num_regions=2, dim=8))
    assert head.reads_boxes
    is_read = head.boxes_read(batch)
    expected = torch.zeros(3, 10, 4, dtype=torch.bool)
    expected[:, ::2, :2] = True
    expected[:, 4, 1] = False
    assert torch.equal(is_read, expected)
    regions = batch["regions/i3d/res5"].requires_grad_()
    head(batch).sum().backward()
    assert regions.grad is not None
    assert torch.equal(regions.grad.abs().sum(-1) > 0, is_read[:, ::2])


def test_heads_without_boxes_say_so(spec: Spec) -> None:
    assert [build_head(name, spec, 3, **options).reads_boxes for name, options in FRAME_HEADS] == [False] * 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("strg", {"dim": 8, "graphs": "joint"}),
        ("strg", {"dim": 8, "regions_from": "maps"}),
        ("proposal_pool", {"hidden": 8, "over": "tracks"}),
    ],
)
def test_boxes_are_those_of_the_frames_of_the_features(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch
) -> None:
    """Features of 5 of 15 frames, not at equal steps: the head computes as on the boxes of these frames alone."""
    frames = [0, 3, 7, 10, 14]
    batch = make_batch()
    stretched = dict(batch)
    for array in ("proposals/boxes", "proposals/count", "tracks/id"):
        stretched[array] = torch.full_like(batch[array][:, :1], -1).repeat_interleave(15, 1)
        stretched[array][:, frames] = batch[array]
    for array in ("regions/i3d/res5", "features/i3d/res5"):
        stretched[f"clips/box_frames/{array}"] = torch.tensor([frames] * len(batch[array]))
    wider = {array: x.shape[1:] for array, x in stretched.items()}
    head, on_all = (_trained_looking(build_head(name, each, 3, **options)) for each in (spec, wider))
    on_all.load_state_dict(head.state_dict())
    assert len({*on_all.reads} - {*head.reads}) == 1
    assert torch.equal(on_all(stretched), head(batch))
    is_read = on_all.boxes_read(stretched)
    assert is_read[:, frames].all()
    assert is_read.sum() == batch["tracks/id"].numel()
    for graph in on_all.clip_graphs(stretched).values():
        assert [graph.frame(step) for step in range(5)] == frames

"""What a head reads from the cache is what the networks give for the same frames, run directly."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.trainable import build_for
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.wanted import Square, Wanted, WholeFrame
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import FeatureSource
from kinegraph.stages.heads.inputs import MapRegionReader, RegionReader
from kinegraph.stages.heads.tailed import TailedHead
from kinegraph.stages.proposals.build import build_proposer
from kinegraph.stages.proposals.catalogue import entry as proposal_entry
from kinegraph.stages.regions.geometry import boxes_in_crop, on_input
from kinegraph.stages.regions.roi import region_features
from tests.end_to_end.conftest import made, tiny

ROWS, SQUARE = range(6), Square(size=64, every=1)


@dataclass(frozen=True, kw_only=True)
class Online:
    """One row without a cache: maps [T, C, H, W], boxes [T, N, 4], count [T], regions [T, N, C], all float32."""

    maps: Tensor
    boxes: np.ndarray
    count: np.ndarray
    regions: Tensor


@torch.inference_mode()
def online(row: ClipRow, square: Square = SQUARE) -> Online:
    known, proposer = proposal_entry("tiny_rpn"), build_proposer("tiny_rpn", "random:0")
    whole = WholeFrame(network_size=known.input_size, every=2)
    (clip,) = decode_clips(row.path, [row], Wanted(num_frames=8, squares=frozenset([square]), whole=whole), 60.0)
    assert isinstance(clip, DecodedClip)
    assert clip.whole is not None
    network = build_backbone("tiny_i3d", "random:0", ["res4"])
    mean, std = (torch.tensor(values) for values in (entry("tiny_i3d").mean, entry("tiny_i3d").std))
    pixels = (torch.from_numpy(clip.squares[square]).float() / 255 - mean) / std  # [T, S, S, 3]
    maps = network(pixels.permute(3, 0, 1, 2)[None])["res4"][0].transpose(0, 1)  # [T, C, H, W]
    found = proposer(torch.from_numpy(clip.whole).permute(0, 3, 1, 2), 6)
    height, width = clip.whole.shape[1:3]
    boxes = found.boxes.numpy() * np.array([row.frame_width / width, row.frame_height / height] * 2, np.float32)
    kept = [
        boxes_in_crop(b, s, int(n), row.crop, 6)
        for b, s, n in zip(boxes, found.scores.numpy(), found.count, strict=True)
    ]
    boxes, count = np.stack([frame[0] for frame in kept]), np.array([frame[2] for frame in kept])
    projected = torch.from_numpy(on_input(boxes, np.array(row.seen(square), np.float64), 64)).float()
    valid = torch.arange(6) < torch.from_numpy(count)[:, None]
    regions = region_features(maps, projected, valid, stride=8).features
    return Online(maps=maps, boxes=boxes, count=count, regions=regions)


@pytest.fixture(scope="module")
def config(config_for: Callable[..., Config]) -> Config:
    return config_for(
        backbones={"tiny": tiny(storage_dtype="float32")}, regions={"backbones": ["tiny"], "storage_dtype": "float32"}
    )


@pytest.fixture(scope="module")
def cache(config: Config) -> Cache:
    return made(config)


@pytest.fixture(scope="module")
def expected(cache: Cache) -> list[Online]:
    return [online(row) for row in cache.clips.rows(0, len(ROWS))]


def cached(cache: Cache, name: str) -> np.ndarray:
    return np.asarray(zarr.open_group(f"{cache.root}/data.zarr", mode="r")[name])[: len(ROWS)]


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference in standard deviations of what is wanted."""
    return float(np.abs(found - wanted).max() / wanted.std())


def relative_rms(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def test_float32_features_and_proposals(cache: Cache, expected: list[Online]) -> None:
    """fp32: 5e-5 of the standard deviation at the worst place, for another batch and memory layout."""
    maps = np.stack([row.maps.numpy() for row in expected])
    assert relative_error(cached(cache, "features/tiny/res4"), maps) < 5e-5
    assert relative_error(cached(cache, "features/tiny/res4_pooled"), maps.mean((3, 4))) < 5e-5
    np.testing.assert_array_equal(cached(cache, "proposals/count"), np.stack([row.count for row in expected]))
    np.testing.assert_allclose(cached(cache, "proposals/boxes"), np.stack([row.boxes for row in expected]), atol=1e-3)


def test_float32_regions(cache: Cache, expected: list[Online]) -> None:
    regions = np.stack([row.regions.numpy() for row in expected])
    assert relative_error(cached(cache, "regions/tiny/res4"), regions) < 1e-4


def test_intervals_of_a_video(config_for: Callable[..., Config], videos: Path, tmp_path: Path) -> None:
    """Decoded together from one pass, each row is what decoding it alone gives: dense clips, one of them cut short."""
    lines = ["path,label,start,end", "a/v1.mp4,x,0,1", "a/v1.mp4,y,0.3,1.5", "a/v1.mp4,x,1.2,9"]
    (tmp_path / "intervals.csv").write_text("\n".join(lines))
    config = config_for(
        dataset={"kind": "folder", "root": str(videos), "annotations": str(tmp_path / "intervals.csv")},
        clips={"num_frames": 8, "sampling": "dense", "fps": 8, "crops": ["left", "right"]},
        backbones={"tiny": tiny(storage_dtype="float32")},
        regions={"backbones": ["tiny"], "storage_dtype": "float32"},
        store={"shard_clips": 6},
    )
    cache = made(config)
    rows = [*cache.clips.rows()]
    wanted = [online(row) for row in rows]
    assert {row.interval for row in rows} == {(0.0, 1.0), (0.3, 1.5), (1.2, 9.0)}
    for name, of_row in (("features", lambda row: row.maps), ("regions", lambda row: row.regions)):
        whole = np.stack([of_row(row).numpy() for row in wanted])
        assert relative_error(cached(cache, f"{name}/tiny/res4"), whole) < 1e-4
    assert (wanted[0].maps - wanted[2].maps).abs().max() > 0.01, "intervals that look alike prove nothing"


TEN = ["top_left", "top_right", "bottom_left", "bottom_right", "center"]


@pytest.fixture(scope="module")
def ten_crops(config_for: Callable[..., Config], videos: Path) -> Cache:
    """Ten crops of 64 px out of frames resized to a short side of 76 px, without antialias."""
    cut = tiny(storage_dtype="float32", resize_short=76, resize="torch")
    config = config_for(
        dataset={"kind": "folder", "root": str(videos)},
        clips={"num_frames": 8, "sampling": "uniform", "crops": [*TEN, *(f"{crop}_flip" for crop in TEN)]},
        backbones={"tiny": cut, "squares": tiny(storage_dtype="float32")},
        regions={"backbones": ["tiny", "squares"], "storage_dtype": "float32"},
        store={"shard_clips": 10},
    )
    return made(config)


def test_crops_of_resized_and_mirrored_frames(ten_crops: Cache) -> None:
    """Boxes go through what each backbone sees: another rectangle for the one that cuts its crops first."""
    cut = Square(size=64, every=1, resize_short=76, resize="torch")
    rows = [*ten_crops.clips.rows(0, 10)]
    assert sorted(row.crop_name for row in rows if row.mirrored) == sorted(f"{crop}_flip" for crop in TEN)
    for name, square in (("tiny", cut), ("squares", SQUARE)):
        wanted = [online(row, square) for row in rows]
        for kind, of_row in (("features", lambda row: row.maps), ("regions", lambda row: row.regions)):
            whole = np.stack([of_row(row).numpy() for row in wanted])
            found = np.asarray(zarr.open_group(f"{ten_crops.root}/data.zarr", mode="r")[f"{kind}/{name}/res4"])[:10]
            assert relative_error(found, whole) < 1e-4
        assert (wanted[0].maps - wanted[5].maps).abs().max() > 0.01, "crops that look alike prove nothing"


def test_readers_are_told_what_each_backbone_sees(ten_crops: Cache) -> None:
    framing = ten_crops.framing("tiny")
    clips = CachedClips(ten_crops, ["clips/crop", "clips/crop/tiny", "features/tiny/res4"])
    batch = clips.batch(range(10))
    for row, crop, seen in zip(ten_crops.clips.rows(0, 10), batch["clips/crop"], batch["clips/crop/tiny"], strict=True):
        assert tuple(seen.tolist()) == row.seen(framing)
        x1, y1, x2, y2 = crop.tolist()
        assert ((x2, y1, x1, y2) if row.mirrored else (x1, y1, x2, y2)) == row.crop
        assert (seen[0] > seen[2]).item() == row.mirrored
    assert "clips/crop/squares" not in ten_crops.readable()


@torch.inference_mode()
def test_regions_of_maps_are_those_of_the_cache_where_crops_are_cut_and_mirrored(ten_crops: Cache) -> None:
    spec = {name: array.shape for name, array in ten_crops.readable().items()}
    source = FeatureSource("tiny", "res4")
    of_maps, of_cache = MapRegionReader(spec, source), RegionReader(spec, source, boxes=True)
    assert "clips/crop/tiny" in {*of_maps.reads} & {*of_cache.reads}
    batch = CachedClips(ten_crops, [*{*of_maps.reads, *of_cache.reads}]).batch(range(20))
    found, wanted = of_maps(batch, batch["features/tiny/res4"]), of_cache(batch, torch.float32)
    assert torch.equal(found.valid, wanted.valid)
    assert wanted.valid.any()
    stored = torch.arange(6) < batch["proposals/count"][..., None]
    assert not torch.equal(wanted.valid, stored), "some boxes of the row's crop are not seen"
    assert torch.where(wanted.valid[..., None], wanted.features, 0).abs().sum() > 0
    torch.testing.assert_close(
        found.features, torch.where(wanted.valid[..., None], wanted.features, 0.0), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_float16_storage(config_for: Callable[..., Config], expected: list[Online], precision: str) -> None:
    """fp32 rounded to float16: 0.1 % RMS of the standard deviation; computed in fp16: 0.4 %, in bf16: 2 %.

    Of two rows: what a CPU has no instructions for is slow.
    """
    config = config_for(backbones={"tiny": tiny(precision=precision)}, store={"shard_clips": 2})
    index(config)
    extract(config, limit=1)
    cache = Cache(config.cache)
    tolerance = {"fp32": 1e-3, "fp16": 4e-3, "bf16": 2e-2}[precision]
    maps, regions = (np.stack([getattr(row, name).numpy() for row in expected[:2]]) for name in ("maps", "regions"))
    assert relative_rms(cached(cache, "features/tiny/res4")[:2].astype(np.float32), maps) < tolerance
    assert relative_rms(cached(cache, "features/tiny/res4_pooled")[:2], maps.mean((3, 4))) < tolerance
    assert relative_rms(cached(cache, "regions/tiny/res4")[:2].astype(np.float32), regions) < tolerance


@pytest.mark.parametrize("name", ["avg_pool", "strg"])
@torch.inference_mode()
def test_a_head_gives_the_same_logits(cache: Cache, expected: list[Online], name: str) -> None:
    arrays = ["features/tiny/res4_pooled", "regions/tiny/res4", "proposals/boxes", "proposals/count"]
    clips = CachedClips(cache, arrays)
    torch.manual_seed(0)
    head = build_head(name, clips.spec, num_classes=5).eval()
    for parameter in head.parameters():  # some start at zero, and logits of zero prove nothing
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    direct = {
        "features/tiny/res4_pooled": torch.stack([row.maps.mean((2, 3)) for row in expected]),
        "regions/tiny/res4": torch.stack([row.regions for row in expected]),
        "proposals/boxes": torch.from_numpy(np.stack([row.boxes for row in expected])),
        "proposals/count": torch.from_numpy(np.stack([row.count for row in expected]).astype(np.int16)),
    }
    from_cache, wanted = head(clips.batch(ROWS)), head(direct)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(from_cache, wanted, rtol=1e-4, atol=float(1e-4 * wanted.std()))


@pytest.mark.parametrize(
    ("model", "tap", "last", "precision"),
    [
        ("resnet18", "res4", "res5", "bf16"),
        ("bn_inception", "inception_4d", "inception_5b", "fp32"),
        ("tsm_r50", "res4", "res5", "fp32"),
        ("i3d_r50", "res4", "res5", "fp32"),
    ],
)
@torch.inference_mode()
def test_a_tail_goes_on_where_the_cache_ends(
    model: str, tap: str, last: str, precision: str, config_for: Callable[..., Config]
) -> None:
    """The last tap from the cached one against the whole network in float32, RMS in standard deviations.

    0.1 % for float16, as which it is stored; 2 % where it was computed in bf16, by the smallest network. Two clips.
    """
    net = {"model": model, "weights": "random:0", "taps": [tap], "size": 64, "store": ["maps"], "precision": precision}
    train = {"head": "avg_pool", "options": {"tail": {"from": tap}}}
    clips = {"num_frames": 8, "sampling": "uniform", "crops": ["center"]}
    sections = {"clips": clips, "store": {"shard_clips": 2}, "proposals": None, "regions": None}
    config = config_for(backbones={"net": net}, train=train, **sections)
    index(config)
    extract(config, limit=1)
    cache = Cache(config.cache)
    head = build_for(cache, config.train.recipe).eval()
    assert isinstance(head, TailedHead)
    found = head.tail(CachedClips(cache, head.reads).batch(range(2))[f"features/net/{tap}"])
    whole = build_backbone(model, "random:0", [last])
    mean, std = (torch.tensor(values) for values in (entry(model).mean, entry(model).std))
    for row, cached_way in zip(cache.clips.rows(0, 2), found, strict=True):
        (clip,) = decode_clips(row.path, [row], Wanted(num_frames=8, squares=frozenset([SQUARE])), 60.0)
        assert isinstance(clip, DecodedClip)
        pixels = (torch.from_numpy(clip.squares[SQUARE]).float() / 255 - mean) / std
        wanted = whole(pixels.permute(3, 0, 1, 2)[None])[last][0].transpose(0, 1)  # [T, C, H, W]
        assert relative_rms(cached_way.numpy(), wanted.numpy()) < {"fp32": 1e-3, "bf16": 2e-2}[precision]

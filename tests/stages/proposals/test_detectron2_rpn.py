"""Equal to detectron2 on what was recorded from it.

The scenes in fixtures/ run everywhere; frames of real videos, all intermediate maps and unit cases where the folder
shared/fixtures/d2_rpn lies beside the repository.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kinegraph.stages.errors import WeightsError
from kinegraph.stages.proposals import detectron2_rpn
from kinegraph.stages.proposals.build import build_proposer
from kinegraph.stages.proposals.catalogue import entry
from kinegraph.stages.proposals.detectron2_rpn import (
    CELL_ANCHORS,
    PRE_NMS_TOP,
    RESNET50,
    Detectron2Proposer,
    Widths,
    level_anchors,
)
from kinegraph.stages.proposals.options import CheckpointOptions
from kinegraph.stages.proposals.selection import BOX_CODER, candidates, select
from kinegraph.stages.weights.files import read_state
from tests.conftest import SHARED
from tests.stages.proposals.source_contract import built, clip_of
from tests.stages.proposals.test_sources import TINY_CHECKPOINT

SCENES = TINY_CHECKPOINT.parent
RECORDED = SHARED / "fixtures" / "d2_rpn"
KNOWN = replace(entry("detectron2_fpn"), short_side=150, max_side=250)  # of the recordings
LEVELS = ("p2", "p3", "p4", "p5", "p6")

# Safe for other machines and library versions in float32; see "closest call" in fixtures/README.md.
MAPS, LOGITS, DELTAS, BOXES_PX = 2e-4, 2e-4, 5e-5, 5e-3


@pytest.fixture(scope="module")
def network() -> Iterator[Detectron2Proposer]:
    found = build_proposer("detectron2_fpn", str(TINY_CHECKPOINT))
    assert isinstance(found, Detectron2Proposer)
    with torch.inference_mode():
        yield found


def resized(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The picture, and as decoding resizes it for the network."""
    image = Image.open(path).convert("RGB")
    height, width = KNOWN.input_size(image.height, image.width)
    return np.asarray(image), np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def batch(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def close(found: Tensor | np.ndarray, expected: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=atol)


def raw(network: Detectron2Proposer, frames: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    maps = network.backbone(network.images(frames))
    return maps, *network.head(maps)


def check_best(network: Detectron2Proposer, path: Path, expected: Mapping[str, Any], prefix: str = "") -> None:
    """The first 50 in their order, in pixels of the resized picture."""
    _, pixels = resized(path)
    found = network(batch(pixels), 50)
    assert found.count.tolist() == [50]
    close(found.scores[0], expected[f"{prefix}top50_logits"], LOGITS)
    close(found.boxes[0], expected[f"{prefix}top50_boxes_net"], BOXES_PX)


def check_count(network: Detectron2Proposer, frames: Tensor, counts: np.ndarray) -> None:
    """How many remain after suppression, of how many candidates."""
    maps, logits, deltas = raw(network, frames)
    anchors = list(level_anchors([x.shape[-2:] for x in maps], frames.device))
    boxes, _, _ = candidates(logits, deltas, anchors, PRE_NMS_TOP)
    assert boxes.shape[1] == counts[0]
    assert network(frames, 3000).count.item() == counts[2]


@pytest.mark.parametrize("scene", ["scene0", "scene1"])
def test_scenes_equal_detectron2(network: Detectron2Proposer, scene: str) -> None:
    expected = np.load(SCENES / f"expected_{scene}.npz")
    path = SCENES / f"{scene}.png"
    _, pixels = resized(path)
    assert pixels.shape[:2] == tuple(expected["image_hw"])
    frames = batch(pixels)
    images = network.images(frames)
    assert images.shape[2:] == tuple(expected["padded_hw"])
    assert abs(images.double().sum().item() - expected["image_sum"]) < 1
    maps, logits, _ = raw(network, frames)
    for level in (2, 3, 4):
        close(maps[level][0], expected[LEVELS[level]], MAPS)
        close(logits[level][0], expected[f"logits_{LEVELS[level]}"], LOGITS)
    check_best(network, path, expected)
    check_count(network, frames, expected["counts"])


@pytest.mark.parametrize("scene", ["scene0", "scene1"])
def test_the_sources_boxes_are_detectron2s_in_video_pixels(scene: str) -> None:
    """Rounding gives scene1, of 72x128 px, two scales: 141 / 72 and 250 / 128."""
    expected = np.load(SCENES / f"expected_{scene}.npz")
    options = CheckpointOptions(
        source="detectron2-checkpoint", weights=str(TINY_CHECKPOINT), top=50, short_side=KNOWN.short_side
    )
    picture, _ = resized(SCENES / f"{scene}.png")
    found = built(options).propose(clip_of([picture], options))
    close(found.boxes[0], expected["top50_boxes"], BOXES_PX)
    close(found.scores[0], expected["top50_logits"], LOGITS)


@pytest.mark.shared
@pytest.mark.parametrize("frame", ["frame0", "frame1"])
def test_video_frames_equal_detectron2(
    network: Detectron2Proposer, frame: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.load(RECORDED / f"expected_{frame}.npz")
    path = RECORDED / f"{frame}.png"
    _, pixels = resized(path)
    assert np.array_equal(pixels[..., ::-1], expected["resized_bgr_u8"])
    frames = batch(pixels)
    assert np.array_equal(network.images(frames)[0], expected["image"])
    for level, (x, logit, delta) in zip(LEVELS, zip(*raw(network, frames), strict=True), strict=True):
        close(x[0], expected[level], MAPS)
        close(logit[0], expected[f"logits_{level}"], LOGITS)
        close(delta[0], expected[f"deltas_{level}"], DELTAS)
    check_best(network, path, expected, "A_")
    check_count(network, frames, expected["A_counts"])
    # The same weights with other anchors, which tell strides apart.
    monkeypatch.setattr(detectron2_rpn, "ANCHOR_SIDES", (20, 40, 80, 160, 320))
    monkeypatch.setattr(detectron2_rpn, "ANCHOR_RATIOS", (0.4, 1.0, 2.5))
    check_best(network, path, expected, "B_")
    check_count(network, frames, expected["B_counts"])


@pytest.mark.shared
def test_unit_cases_equal_detectron2() -> None:
    cases = np.load(RECORDED / "units.npz")
    boxes = BOX_CODER.decode_single(*(torch.from_numpy(cases[f"decode_{name}"]) for name in ("deltas", "anchors")))
    close(boxes, cases["decode_boxes"], 1e-4)
    for (height, width, short, longest), size in zip(cases["resize_in"], cases["resize_out_hw"], strict=True):
        known = replace(KNOWN, short_side=int(short), max_side=int(longest))
        assert known.input_size(int(height), int(width)) == tuple(size)
    anchors = level_anchors(cases["anchors_grid_hw"].tolist(), torch.device("cpu"))
    assert np.array_equal(torch.cat([*anchors]), cases["anchors"])


@pytest.mark.shared
@pytest.mark.parametrize(("case", "pre_nms", "post_nms"), [(0, 1000, 1000), (1, 6, 1000), (2, 6, 5)])
def test_selection_equals_detectron2(case: int, pre_nms: int, post_nms: int) -> None:
    """Saturated logits, NaN and Inf, boxes outside the image, slivers, duplicates on other levels."""
    cases = np.load(RECORDED / "units.npz")
    anchors = [torch.from_numpy(cases[f"select_props_{level}"]) for level in range(3)]
    scores = [torch.from_numpy(cases[f"select_logits_{level}"]) for level in range(3)]
    kept = [score.topk(min(pre_nms, len(score))) for score in scores]
    boxes = torch.cat([anchor[top.indices] for anchor, top in zip(anchors, kept, strict=True)])
    levels = torch.cat([torch.full((len(top.values),), level) for level, top in enumerate(kept)])
    size = tuple(cases["select_image_hw"].tolist())
    found = select(boxes[None], torch.cat([top.values for top in kept])[None], levels, size, 0.7, post_nms)
    num = int(found.count)
    close(found.boxes[0, :num], cases[f"select_out{case}_boxes"], 1e-4)
    close(found.scores[0, :num], cases[f"select_out{case}_logits"], 0)


def test_anchors_by_hand() -> None:
    """At stride 32 the anchor of ratio 1 around cell (y, x) = (1, 2) is a square of 256 px around (64, 32)."""
    anchors = [*level_anchors([(1, 1), (1, 1), (1, 1), (2, 3), (1, 1)], torch.device("cpu"))]
    assert anchors[3].shape == (2 * 3 * 3, 4)
    assert anchors[3][(1 * 3 + 2) * 3 + 1].tolist() == [64 - 128, 32 - 128, 64 + 128, 32 + 128]
    tall = anchors[0][2]  # height / width = 2, never rounded
    assert (tall[3] / tall[2]).item() == pytest.approx(2)
    assert tall[2].item() == pytest.approx(32 / 2**0.5 / 2)


def test_the_published_network_has_its_published_parameters() -> None:
    with torch.device("meta"):
        state = Detectron2Proposer(RESNET50, KNOWN.mean, KNOWN.std).state_dict()
    values = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    assert (len(values), sum(x.numel() for x in values.values())) == (287, 27_499_471)
    assert Widths.of(values) == RESNET50


def test_random_weights_give_enough_boxes() -> None:
    frames = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = build_proposer("detectron2_fpn", "random:0")(frames, 50)
    assert found.count.tolist() == [50]
    assert found.scores.abs().max() < 1000


@pytest.fixture
def state() -> dict[str, Tensor]:
    return read_state(TINY_CHECKPOINT)


def test_a_detectors_file_gives_the_same_network(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """As training writes it, with a second stage and an optimizer."""
    path = tmp_path / "model_final.pth"
    torch.save({"model": state | {"roi_heads.box_head.fc1.weight": torch.ones(2)}, "iteration": 3}, path)
    ours, theirs = (build_proposer("detectron2_fpn", str(file)).state_dict() for file in (path, TINY_CHECKPOINT))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_official_file_that_was_cut_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / KNOWN.weights["rpn_R_50_FPN_1x"].file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(TINY_CHECKPOINT.read_bytes()[:9999])
    with pytest.raises(WeightsError, match="if its download was cut off, delete it and try again"):
        build_proposer("detectron2_fpn", "rpn_R_50_FPN_1x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.fpn_output2.norm.weight": torch.ones(16)}, r"fpn_output2\.norm\.weight"),
        ({"backbone.bottom_up.res3.0.conv2.weight": torch.ones(8, 4, 3, 3)}, r"res3\.0\.conv2\.weight"),
        ({"proposal_generator.rpn_head.conv.bias": None}, r"in the network only.*rpn_head\.conv\.bias"),
        (
            {"backbone.fpn_output2.weight": None},
            r"has no 'backbone\.fpn_output2\.weight'\. Expected a file of detectron2",
        ),
        (
            {"pixel_std": torch.tensor([57.375, 57.12, 58.395]).view(3, 1, 1)},
            r"with pixel_std \[57\.375, 57\.12, 58\.395\], this network has \[1\.0, 1\.0, 1\.0\] .*source: detectron2`",
        ),
        ({"pixel_mean": torch.tensor([123.675, 116.28, 103.53])}, r"pixel_mean \[123\..*has \[103\.53, 116\.28, 123\."),
        ({f"{CELL_ANCHORS}2": torch.ones(3, 4)}, r"cell_anchors\.2 \[1\.0, .* has \[-90\.5097, -45\.2548, 90\.5097"),
        ({f"{CELL_ANCHORS}5": torch.ones(3, 4)}, r"cell_anchors\.5 .* this network has \[\]"),
    ],
)
def test_another_networks_file_is_refused(
    tmp_path: Path, state: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    path = tmp_path / "file.pth"
    torch.save({name: x for name, x in (state | change).items() if x is not None}, path)
    with pytest.raises(WeightsError, match=message) as caught:
        build_proposer("detectron2_fpn", str(path))
    assert str(path) in str(caught.value)

"""Every source keeps the contract."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from kinegraph.stages.errors import UsageError, WeightsError
from kinegraph.stages.proposals.options import (
    CheckpointOptions,
    Detectron2Options,
    FileOptions,
    GridOptions,
    ProposalOptions,
    TinyOptions,
    TorchvisionOptions,
)
from kinegraph.stages.proposals.sources import SOURCES, build_source
from tests.stages.proposals.source_contract import FRAMES_PER_SECOND, HEIGHT, VIDEO_FRAMES, WIDTH, SourceContract

TINY_CHECKPOINT = Path(__file__).with_name("fixtures") / "tiny_rpn.pkl"
HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None

# The network of tiny_rpn.pkl, in detectron2's words.
TINY_CONFIG = """
MODEL:
  META_ARCHITECTURE: ProposalNetwork
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS:
    {OUT_FEATURES: [res2, res3, res4, res5], STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], PRE_NMS_TOPK_TEST: 1000}
INPUT: {MIN_SIZE_TEST: 150, MAX_SIZE_TEST: 250}
VERSION: 2
"""


def test_every_source_of_the_config_can_be_built() -> None:
    union, _ = get_args(ProposalOptions)
    assert set(SOURCES) == set(get_args(union))


class TestTiny(SourceContract):
    @pytest.fixture
    def options(self) -> TinyOptions:
        return TinyOptions(source="tiny", weights="shipped", top=7)


class TestTorchvision(SourceContract):
    @pytest.fixture
    def options(self) -> TorchvisionOptions:
        model = "fasterrcnn_mobilenet_v3_large_320_fpn"
        return TorchvisionOptions(source="torchvision", model=model, weights="random:0", top=20, short_side=128)


class TestCheckpoint(SourceContract):
    @pytest.fixture
    def options(self) -> CheckpointOptions:
        return CheckpointOptions(source="detectron2-checkpoint", weights=str(TINY_CHECKPOINT), top=40, short_side=150)


class TestGrid(SourceContract):
    @pytest.fixture
    def options(self) -> GridOptions:
        return GridOptions(source="grid", cells=(3, 4))

    def test_cells_by_hand(self) -> None:
        from kinegraph.stages.proposals.grid import grid_boxes

        assert grid_boxes(2, 3, 90, 60).tolist() == [
            [0, 0, 30, 30], [30, 0, 60, 30], [60, 0, 90, 30],
            [0, 30, 30, 60], [30, 30, 60, 60], [60, 30, 90, 60],
        ]  # fmt: skip


class TestFile(SourceContract):
    @pytest.fixture(params=["seconds", "index"])
    def options(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FileOptions:
        folder = tmp_path_factory.mktemp("boxes")
        frames = [
            {
                request.param: number / FRAMES_PER_SECOND if request.param == "seconds" else number,
                "boxes": [[-5, 2, 30 + number, 40], [20, 30, 20, 50], [50, 20, WIDTH + 9, HEIGHT], [1, 1, 9, 9]],
                "scores": [0.25, 0.9, 0.5, 0.125],
            }
            for number in range(VIDEO_FRAMES)
        ]
        (folder / "a").mkdir()
        (folder / "a/v0.json").write_text(json.dumps({"num_frames": VIDEO_FRAMES, "frames": frames}))
        return FileOptions(source="file", files=f"{folder}/{{stem}}.json", frames=request.param, top=5)


@pytest.mark.parity
@pytest.mark.skipif(not HAS_DETECTRON2, reason="detectron2 is not installed; docs/networks.md says how to build it")
@pytest.mark.filterwarnings("ignore")  # its own: pkg_resources, torch.jit.script
class TestDetectron2(SourceContract):
    @pytest.fixture
    def options(self, tmp_path_factory: pytest.TempPathFactory) -> Detectron2Options:
        config = tmp_path_factory.mktemp("detectron2") / "tiny.yaml"
        config.write_text(TINY_CONFIG)
        return Detectron2Options(source="detectron2", config=str(config), weights=str(TINY_CHECKPOINT), top=40)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ('X: !!python/object/apply:os.mkdir ["ran"]', "could not determine a constructor"),
            ("MODEL: {MYHEAD: 1}", "Non-existent config key: MODEL.MYHEAD"),
            ("VERSION: 3", "."),
            ("MODEL: {META_ARCHITECTURE: Yolo}", "'Yolo'"),
            ("MODEL: {PROPOSAL_GENERATOR: {NAME: PrecomputedProposals}}", "allowed: one with an RPN"),
        ],
    )
    def test_a_config_it_cannot_run_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, problem: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.yaml").write_text(line)
        options = Detectron2Options(source="detectron2", config="config.yaml", weights=str(TINY_CHECKPOINT))
        with pytest.raises(UsageError, match=rf"config\.yaml.*{re.escape(problem)}"):
            build_source(options, torch.device("cpu"))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("weights", ["missing.pkl", str(TINY_CHECKPOINT)])
    def test_weights_that_do_not_belong_are_named(self, tmp_path: Path, weights: str) -> None:
        (tmp_path / "config.yaml").write_text("MODEL: {META_ARCHITECTURE: ProposalNetwork}")
        options = Detectron2Options(source="detectron2", config=str(tmp_path / "config.yaml"), weights=weights)
        with pytest.raises(WeightsError, match=re.escape(weights)):
            build_source(options, torch.device("cpu"))


def test_without_detectron2_the_error_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(UsageError, match=r"git\+https://github.com/facebookresearch/detectron2.*detectron2-checkpoint"):
        build_source(Detectron2Options(source="detectron2"), torch.device("cpu"))

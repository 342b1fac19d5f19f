"""Features as a kind of stage."""

from typing import Any

import pytest
import torch

from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import Runner
from tests.stages.stage_contract import BatchInMemory, RunnerContract, declared

NET = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res3", "res4"], "size": 32, "precision": "fp32"}


class TestBackbones(RunnerContract):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return Recipe.model_validate(
            {"clips": {"num_frames": 8}, "backbones": {"net": NET | {"store": ["maps", "pooled"]}}}
        )

    @pytest.fixture
    def key(self) -> str:
        return "features/net"

    @pytest.fixture
    def batch(self) -> BatchInMemory:
        return BatchInMemory()

    def test_maps_that_are_not_finite_fail_their_clip(
        self, runner: Runner, batch: BatchInMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Said of the first tap; before rounding, or because float16 ends at 65,504."""

        def maps(extractor: FeatureExtractor, clips: torch.Tensor) -> dict[str, torch.Tensor]:
            found = {tap: torch.zeros(4, 2, 3, 2, 2) for tap in ("res3", "res4")}
            found["res3"][1], found["res3"][0], found["res4"][3] = torch.nan, torch.inf, 70_000.0
            return found

        said: list[tuple[int, str]] = []
        monkeypatch.setattr(FeatureExtractor, "maps", maps)
        monkeypatch.setattr(batch, "fail", lambda slot, reason, detail: said.append((slot, f"{reason}: {detail}")))
        runner.run(batch)
        assert said == [
            (0, "non_finite: res3 is not finite before rounding"),
            (3, "non_finite: res4 is finite but overflows float16"),
        ]

    def test_what_nobody_stores_is_not_computed(
        self, runner: Runner, batch: BatchInMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch, "stores", lambda array: False)
        runner.run(batch)
        assert not batch.written
        assert batch.handed_on.keys() == {"features/net/res3", "features/net/res4"}


VIT: dict[str, Any] = {"model": "timm/test_vit", "weights": "random:0", "size": 32, "precision": "fp32"}
MVIT: dict[str, Any] = {"model": "mvit_v2_s", "weights": "random:0", "taps": ["block13", "norm"]}


def stage_of(num_frames: int = 8, **options: object) -> Stage:
    recipe = Recipe.model_validate({"clips": {"num_frames": num_frames}, "backbones": {"net": options}})
    return declared(recipe)["features/net"]


class TestClassTokens(RunnerContract):
    """Of a network that sees each frame alone: class tokens and the output after the last tap, beside means."""

    @pytest.fixture
    def recipe(self) -> Recipe:
        pytest.importorskip("timm")
        vit = VIT | {"taps": ["blocks_1", "blocks_5"], "tokens": "both", "head": True, "every": 2}
        return Recipe.model_validate({"clips": {"num_frames": 8}, "backbones": {"net": vit}})

    @pytest.fixture
    def key(self) -> str:
        return "features/net"

    @pytest.fixture
    def batch(self) -> BatchInMemory:
        return BatchInMemory()

    def test_a_class_token_that_is_not_finite_fails_its_clip(
        self, runner: Runner, batch: BatchInMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def maps(extractor: FeatureExtractor, clips: torch.Tensor) -> dict[str, torch.Tensor]:
            found = {"blocks_1_class": torch.zeros(4, 4, 64), "head": torch.zeros(4, 4, 64)}
            found["blocks_1_class"][0, 1, 2], found["head"][3] = torch.nan, torch.inf
            return found

        monkeypatch.setattr(FeatureExtractor, "maps", maps)
        runner.run(batch)
        assert batch.failed == {0: "non_finite", 3: "non_finite"}


def test_arrays_of_class_tokens() -> None:
    """Of each frame in an image model, one in a network that sees clips. `tokens: class` stores no map."""
    pytest.importorskip("timm")
    vit = stage_of(**VIT, taps=["blocks_5"], tokens="both", head=True, every=2)
    assert {spec.name.rpartition("/")[2]: (spec.shape, spec.frame_step) for spec in vit.arrays} == {
        "blocks_5_pooled": ((4, 64), 2),
        "blocks_5_class": ((4, 64), 2),
        "head": ((4, 64), 2),
    }
    mvit = stage_of(16, **MVIT, tokens="class")
    assert {spec.name: (spec.shape, spec.dims, spec.frame_step) for spec in mvit.arrays} == {
        "features/net/block13_class": ((1, 384), ("clip_token", "block13_channel"), None),
        "features/net/norm_class": ((1, 768), ("clip_token", "norm_channel"), None),
    }


def test_only_what_early_versions_lack_is_recorded() -> None:
    """A cache of an early version has neither class tokens nor a final norm, and goes on with `final_norm: none`."""
    pytest.importorskip("timm")
    plain, low = stage_of(**VIT, taps=["blocks_5"]), stage_of(**VIT, taps=["blocks_1"])
    assert not {"tokens", "head"} & (plain.options.keys() | low.options.keys())
    assert plain.options["options"] == {"final_norm": "applied"}
    early = stage_of(**VIT, taps=["blocks_5"], options={"final_norm": "none"})
    assert "options" not in early.options.keys() | low.options.keys()
    assert early.fingerprint != plain.fingerprint
    advice = kind_of("features/net").keys_to_set(early, plain)
    assert advice.endswith("set under backbones.net: options: {final_norm: none}.")
    assert kind_of("features/net").keys_to_set(plain, plain) == ""
    both = stage_of(**VIT, taps=["blocks_1"], tokens="both", head=True)
    assert (both.options["tokens"], both.options["head"]) == ("both", True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"model": "tiny_i3d", "taps": ["res4"], "tokens": "both"},
            r"backbones\.net\.tokens: given 'both', allowed: patch",
        ),
        ({"model": "tiny_i3d", "taps": ["res4"], "head": True}, r"backbones\.net\.head: given True, allowed: false"),
        ({"model": "mvit_v2_s", "taps": ["norm"]}, r"clips\.num_frames: backbones\.net gets 8 frames: norm needs"),
        (
            {"model": "tsm_r50", "taps": ["res5"], "every": 8},
            r"clips\.num_frames: given 8, allowed: 16 or more for tsm",
        ),
        ({"model": "resnet18", "taps": ["nope"]}, r"backbones\.net\.taps: backbone resnet18 has no tap 'nope'"),
        (
            {"model": "mvit_v2_s", "taps": ["norm"], "tokens": "class", "store": ["maps"]},
            r"store: given \['maps'\], allowed: only with tokens: patch or",
        ),
    ],
)
def test_what_a_network_does_not_have_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check(**options)


def check(**options: object) -> None:
    document = {"clips": {"num_frames": 8}, "backbones": {"net": {"weights": "random:0"} | options}}
    kind_of("features/net").check(Recipe.model_validate(document))

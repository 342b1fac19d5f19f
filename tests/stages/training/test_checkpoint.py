import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kinegraph.stages.training.checkpoint as checkpoint
from kinegraph.cache_schemas.files import write_whole
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.checkpoint import (
    RunError,
    RunExists,
    RunNotFound,
    RunRecord,
    describe_run,
    load_run,
    require_fit,
    require_free,
    require_same_features,
    save_run,
)
from kinegraph.stages.training.options import TrainOptions

FEATURES: dict[str, dict[str, Any]] = {"clips": {"fps": 6.0, "per_video": 1}, "features/tiny": {"model": "tiny_i3d"}}
NAMES = ("jump", "run", "sit")
POOLED = "features/tiny/res5_pooled"


@pytest.fixture
def clips(make_clips: Callable[..., Any]) -> Any:
    return make_clips()


def _saved(folder: Path, clips: Any) -> Head:
    head = build_head("lstm", clips.spec, 3, hidden=16)
    options = TrainOptions(head="lstm", seed=4)
    trained_on = {"train": None}
    record = describe_run(
        head, clips, options, NAMES, {"top1": 0.75}, cache="a/cache", features=FEATURES, trained_on=trained_on,
        classes_from="classes.txt",
    )  # fmt: skip
    save_run(folder, head, record)
    return head


def test_a_run_comes_back_as_it_was(tmp_path: Path, clips: Any) -> None:
    head = _saved(tmp_path / "runs" / "a", clips).eval()
    state = torch.get_rng_state()
    loaded, record = load_run(tmp_path / "runs" / "a")
    assert torch.equal(torch.get_rng_state(), state)
    batch = clips.batch(range(10))
    assert torch.equal(loaded(batch), head(batch))
    assert not loaded.training
    assert loaded.options == head.options
    assert record.spec == {POOLED: (4, 8)}
    assert sorted(path.name for path in (tmp_path / "runs" / "a").iterdir()) == ["model.safetensors", "run.json"]


def test_the_record_says_what_was_trained_on_what(tmp_path: Path, clips: Any) -> None:
    _saved(tmp_path, clips)
    record = json.loads((tmp_path / "run.json").read_text())
    versions = {record.pop("kinegraph_version"), record.pop("torch_version")}
    assert torch.__version__ in versions
    assert record.pop("train")["seed"] == 4
    assert record.pop("weights_sha256") == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert record == {
        "schema_version": 1,
        "cache": "a/cache",
        "head": "lstm",
        "options": {
            "backbone": "tiny",
            "tap": "res5",
            "hidden": 16,
            "convolutions": 0,
            "dim": 128,
            "dropout": 0.3,
        },
        "reads": [POOLED],
        "spec": {POOLED: [4, 8]},
        "num_classes": 3,
        "class_names": list(NAMES),
        "classes_from": "classes.txt",
        "multi_label": False,
        "cache_fingerprint": "f00d",
        "features": FEATURES,
        "recipe": None,
        "metrics": {"top1": 0.75},
        "trained_on": {"train": None},
        "finetune": None,
    }


def test_a_record_of_before_has_no_source_of_its_classes(tmp_path: Path, clips: Any) -> None:
    _saved(tmp_path, clips)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["classes_from"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert load_run(tmp_path)[1].classes_from == ""


def test_a_run_is_not_overwritten(tmp_path: Path, clips: Any) -> None:
    require_free(tmp_path)
    _saved(tmp_path, clips)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(RunExists, match="holds a trained run already"):
        _saved(tmp_path, clips)
    with pytest.raises(RunExists):
        require_free(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("crash_at", [0, 1])
def test_a_crash_while_saving_never_leaves_half_a_run(
    crash_at: int, tmp_path: Path, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def crash(target: Path, parts: list[bytes]) -> Any:
        calls.append(target)
        if len(calls) > crash_at:
            raise KeyboardInterrupt
        return write_whole(target, parts)

    monkeypatch.setattr(checkpoint, "write_whole", crash)
    with pytest.raises(KeyboardInterrupt):
        _saved(tmp_path, clips)
    with pytest.raises(RunNotFound, match=r"no complete run: run\.json is missing"):
        load_run(tmp_path)


def _flip(path: Path) -> None:
    """Changes one bit of the last weight."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"), "model.safetensors is not the lstm"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is not the lstm"),
        (
            lambda folder: _flip(folder / "model.safetensors"),
            r"has sha256 \w{12}, run\.json says \w{12}\. .*another run",
        ),
        (lambda folder: _edit(folder, "options", {"hidden": 17}), "model.safetensors is not the lstm.*size mismatch"),
        (
            lambda folder: _edit(folder, "schema_version", 2),
            "has schema version 2; this kinegraph knows 1. Update",
        ),
        (lambda folder: _edit(folder, "num_classes", -1), "run.json is damaged: .*num_classes: given -1"),
        (lambda folder: _edit(folder, "head", "unheard_of"), "no head 'unheard_of'"),
    ],
)
def test_damaged_runs_are_refused(damage: Callable[[Path], object], message: str, tmp_path: Path, clips: Any) -> None:
    _saved(tmp_path, clips)
    damage(tmp_path)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_run(tmp_path)


def _edit(folder: Path, key: str, value: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def test_a_run_refuses_a_cache_that_it_was_not_made_for(tmp_path: Path, clips: Any) -> None:
    _saved(tmp_path, clips)
    _, record = load_run(tmp_path)
    require_fit(record, clips.spec | {"more/arrays": (1,)}, NAMES)
    with pytest.raises(RunError, match=rf"{POOLED} is \(4, 9\), \(4, 8\) is needed.*or train again"):
        require_fit(record, {POOLED: (4, 9)}, NAMES)
    with pytest.raises(RunError, match=f"cache f00d.*{POOLED} is missing"):
        require_fit(record, {}, NAMES)
    with pytest.raises(RunError, match="it has 3 classes, not the run's 3, or another order"):
        require_fit(record, clips.spec, ("run", "jump", "sit"))


def test_other_views_are_no_other_features(tmp_path: Path, clips: Any) -> None:
    views = {"per_video": 1, "crops": ["center"], "sampling": "centre", "fps": 6.0}
    head = build_head("lstm", clips.spec, 3, hidden=16)
    known = describe_run(head, clips, TrainOptions(), NAMES, {}, cache="c", features={"clips": views}, trained_on={})
    other = views | {"per_video": 10, "crops": ["left", "top_right_flip", "even_11"], "sampling": "dense"}
    require_same_features(known, {"clips": other}, "cafe")
    squeezed = r"\(the run's -> this cache's\):\n  clips.crops: \['square'\] -> \['full', 'square'\]\nExtract"
    with pytest.raises(RunError, match=squeezed):
        require_same_features(known, {"clips": views | {"crops": ["center", "full"]}}, "cafe")
    with pytest.raises(RunError, match=r"sampling: 'dense' -> 'uniform'"):
        require_same_features(known, {"clips": views | {"sampling": "uniform"}}, "cafe")
    _check_other_sides(
        known.model_copy(update={"features": {"clips": views, "features/net": {"size": 64, "resize": "torch"}}}), views
    )
    early = known.model_copy(update={"features": None})
    with pytest.raises(RunError, match="fingerprint: f00d -> cafe"):
        require_same_features(early, {"clips": views}, "cafe")


def _check_other_sides(known: RunRecord, views: dict[str, Any]) -> None:
    """Another side is another view where that is asked for, and other features elsewhere."""
    larger = {"clips": views, "features/net": {"size": 80, "resize_short": 96, "resize": "torch"}}
    require_same_features(known, larger, "cafe", any_side=True)
    with pytest.raises(RunError, match=r"features/net\.size: 64 -> 80"):
        require_same_features(known, larger, "cafe")
    with pytest.raises(RunError, match="resize: 'torch' -> 'pillow'"):
        require_same_features(known, larger | {"features/net": {"size": 80, "resize": "pillow"}}, "cafe", any_side=True)

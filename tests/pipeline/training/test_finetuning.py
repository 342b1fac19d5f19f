"""Backbones and heads are trained together, from pixels and cached boxes."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from typer.testing import CliRunner

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cli.app import app
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config, load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.training import finetuning, joint_comparison
from kinegraph.pipeline.training.decoded_clips import VideosChanged, cut_first, decoding
from kinegraph.pipeline.training.finetuning import StepZero, finetune
from kinegraph.pipeline.training.joint_comparison import compare
from kinegraph.pipeline.training.one_run import lock_folder
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs
from kinegraph.pipeline.training.tuned_run import TunedRun
from kinegraph.pipeline.training.tuning_start import online_head, start_of
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.training.checkpoint import RunError, load_record
from kinegraph.stages.training.clips import VideoLost
from kinegraph.stages.training.train import train
from tests.caches import write_config
from tests.conftest import moving_square, write_video

HEADS: dict[str, dict[str, Any]] = {
    "pooled": {"head": "avg_pool", "options": {"backbone": "tiny", "tap": "res4"}},
    "regions": {"head": "strg", "options": {"backbone": "tiny", "tap": "res4", "dim": 8}},
    "maps": {"head": "strg", "options": {"backbone": "tiny", "tap": "res4", "dim": 8, "regions_from": "maps"}},
    "tail": {"head": "avg_pool", "options": {"tail": {"backbone": "net", "from": "res3"}}},
    "timm": {"head": "avg_pool", "options": {"backbone": "vit", "tap": "blocks_5"}},
    "class_token": {"head": "avg_pool", "options": {"backbone": "vit", "tap": "blocks_5_class"}},
    "projection": {"head": "avg_pool", "options": {"backbone": "vit", "tap": "head"}},
}
STORED, CPU = ["maps", "pooled"], torch.device("cpu")


@dataclass
class Home:
    """A cache, the videos it was made from, and a trained run of each kind of head."""

    root: Path
    document: dict[str, Any]
    runs: dict[str, Path]

    def config(self, start: str = "regions", **options: Any) -> Config:
        section = {"start": str(self.runs[start]), "epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "threads": 1}
        return check_config(self.document | {"finetune": section | options}, "test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("finetuning")
    for number, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2):
        label = "up" if number % 2 else "down"
        write_video(root / "videos" / split / label / f"{number}.mp4", moving_square(10, 96, 80, seed=number))
    net = {"size": 64, "precision": "fp32"}
    document = {
        "cache": str(root / "cache"),
        "dataset": {"kind": "folder", "root": str(root / "videos")},
        "clips": {"num_frames": 8, "sampling": "uniform", "crops": ["center"]},
        "backbones": {
            "tiny": net
            | {"model": "tiny_i3d", "weights": "random:0", "taps": ["res3", "res4"], "store": ["maps", "pooled"]},
            "net": net | {"model": "resnet18", "weights": "random:1", "taps": ["res3"], "store": ["maps"], "every": 4},
            "vit": net
            | {"model": "timm/test_vit", "weights": "random:2", "taps": ["blocks_5"], "size": 160, "every": 4}
            | {"tokens": "both", "head": True},
        },
        "proposals": {"source": "grid", "every": 2, "cells": [2, 2]},
        "regions": {"backbones": ["tiny"]},
        "store": {"shard_clips": 4},
        "run": {"executor": "inline", "threads": 1, "batch_size": 2, "device": "cpu"},
        "train": {"epochs": 1, "batch_size": 4, "threads": 1, "variants": HEADS, "run": str(root / "runs")},
    }
    config = check_config(document, "test")
    index(config)
    assert not extract(config).failures
    runs = {run.results.name: run.folder for run in train_runs(config, [*HEADS])}
    return Home(root=root, document=document, runs=runs)


@pytest.fixture(scope="module")
def tuned(home: Home, tmp_path_factory: pytest.TempPathFactory) -> TunedRun:
    return finetune(home.config(run=str(tmp_path_factory.mktemp("tuned") / "run"), val_split="test", epochs=2))


@pytest.mark.parametrize("name", HEADS)
def test_step_0_is_the_cache_bit_for_bit(home: Home, tmp_path: Path, name: str) -> None:
    """Heads on pooled features, regions, maps, and behind a tail. Without folding and rounding, a few per mille."""
    steps: list[StepZero] = []
    finetune(home.config(name, run=str(tmp_path / "run"), iterations=1), on_start=steps.append)
    assert steps[0].num_clips == 2
    assert steps[0].as_extracted == 0
    assert steps[0].as_trained < 0.04
    is_vit = HEADS[name]["options"].get("backbone") == "vit"
    assert (steps[0].as_trained == 0) == is_vit, "a vision transformer has no batch norm to fold"


def weights_of(run: Path, entry: str = "tiny") -> dict[str, Tensor]:
    return safetensors.torch.load_file(run / f"{entry}.safetensors")


def changed(run: Path, model: str = "tiny_i3d", taps: Sequence[str] = ("res4",)) -> set[str]:
    before = build_backbone(model, "random:0", taps).state_dict()
    after = weights_of(run)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"batch_norm": "frozen"}, {"convolutions"}),
        ({"batch_norm": "statistics"}, {"convolutions", "gains"}),
        ({"batch_norm": "train"}, {"convolutions", "gains", "statistics"}),
        ({"unfreeze": ["res4"]}, {"convolutions"}),
        ({"unfreeze": []}, set()),
    ],
)
def test_what_is_frozen_stays_bit_for_bit(home: Home, tmp_path: Path, options: dict[str, Any], what: set[str]) -> None:
    run = finetune(home.config(run=str(tmp_path / "run"), iterations=2, **options)).folder
    network = build_backbone("tiny_i3d", "random:0", ["res4"])
    norms = {name for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm3d)}
    kinds: dict[str, set[str]] = {"convolutions": set(), "gains": set(), "statistics": set()}
    for name in network.state_dict():
        path, _, last = name.rpartition(".")
        kind = "convolutions" if path not in norms else "gains" if last in ("weight", "bias") else "statistics"
        if "unfreeze" not in options or name.startswith("res4"):
            kinds[kind].add(name)
    assert changed(run) == set().union(*(kinds[kind] for kind in what))


def test_a_tuned_file_closes_the_loop(tuned: TunedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extracted with the tuned weights, the run has the scores that it had while it was tuned."""
    config = load_config(tuned.config_file, [f"cache={tuned.folder}/cache"])
    index(config)
    assert not extract(config).failures
    scores = evaluate_run(tuned.folder, config.cache, "test").result
    assert scores.metrics["top1"] == tuned.results.history[-1]["metrics"]["top1"]
    best = tuned.results.history[(tuned.results.best_epoch or 1) - 1]
    assert scores.loss == pytest.approx(best["metrics"]["loss"], rel=0.01)
    again = train_runs(config, ["regions"])
    assert (
        again[0].results.cache_fingerprint == json.loads((tuned.folder / "run.json").read_bytes())["cache_fingerprint"]
    )


def test_a_second_fine_tuning_never_takes_the_place_of_the_first(tuned: TunedRun) -> None:
    """With --overwrite it would delete the weights that its own config names."""
    config = load_config(tuned.config_file)
    assert config.finetune.run == f"{tuned.folder}-tuned/<head>"
    assert config.train.run == f"{tuned.folder}-trained/<head>"


@pytest.mark.parametrize("name", ["maps", "tail"])
def test_heads_on_maps_and_behind_a_tail_predict_what_they_score(home: Home, name: str) -> None:
    """Up to the rounding of other batches, and with the boxes that the head reads."""
    expected = evaluate_run(home.runs[name]).result.videos
    videos = [home.root / "videos" / video for video in expected.video_ids]
    found = [*Predictor(home.runs[name]).predict(videos, keep_boxes=True)]
    scores = torch.stack([one.scores for one in found if one.scores is not None])
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=1e-5)
    assert [[boxes.boxes.shape for boxes in one.spans[0].boxes] for one in found] == [
        [(4, 4)] * 4 if name == "maps" else []
    ] * 2


def test_a_tuned_run_predicts_also_where_it_was_moved(home: Home, tuned: TunedRun, tmp_path: Path) -> None:
    shutil.copytree(tuned.folder, tmp_path / "moved", ignore=shutil.ignore_patterns("cache*"))
    scores = []
    for folder in (tuned.folder, tmp_path / "moved"):
        (found,) = Predictor(folder).predict([home.root / "videos" / "test" / "up" / "9.mp4"])
        assert found.scores is not None
        scores.append(found.scores)
    assert torch.equal(*scores)
    (tmp_path / "moved" / "tiny.safetensors").write_bytes(
        (tuned.folder / "tiny.safetensors").read_bytes()[:-4] + b"abcd"
    )
    with pytest.raises(RunError, match="weights_sha256"):
        [*Predictor(tmp_path / "moved").predict([home.root / "videos" / "test" / "up" / "9.mp4"])]


def test_evaluate_on_the_old_cache_says_what_to_do(tuned: TunedRun) -> None:
    with pytest.raises(RunError, match=r"weights_sha256(.|\n)*extract.yaml beside"):
        evaluate_run(tuned.folder, split="test")


def test_a_run_that_was_stopped_ends_with_the_same_weights(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views are drawn for each epoch and clip, so that a resumed run sees the same ones."""
    views = {"short_side": [64, 96], "mirror": True, "brightness": 0.3, "saturation": 0.2}
    options: dict[str, Any] = {"views": views, "epochs": 2, "batch_size": 2, "checkpoint_steps": 1, "decode_threads": 3}
    whole = finetune(home.config(run=str(tmp_path / "whole"), **options)).folder
    stopped = home.config(run=str(tmp_path / "stopped"), **options | {"decode_threads": 1})

    def stops(run: object, record: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(stopped, on_epoch=stops)
    assert (tmp_path / "stopped" / "state.pt").exists()
    finetune(stopped)
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(tmp_path / "stopped").items())
    assert (whole / "model.safetensors").read_bytes() == (tmp_path / "stopped" / "model.safetensors").read_bytes()
    plain = finetune(home.config(run=str(tmp_path / "plain"), **options | {"views": {}})).folder
    assert (plain / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()


def test_random_squares_are_resized_by_pillow(caplog: pytest.LogCaptureFixture) -> None:
    square = Square(size=64, resize_short=72, resize="swscale", every=1)
    assert cut_first("tiny", square) == Square(size=64, every=1)
    assert "finetune.views.short_side: Pillow resizes the random squares of tiny" in caplog.text
    torchs = Square(size=64, resize_short=72, resize="torch", every=1)
    assert cut_first("tiny", torchs) == Square(size=64, resize="torch", every=1)


def test_passes_that_are_computed_again_have_the_same_gradients(home: Home, tmp_path: Path) -> None:
    # SGD, because AdamW makes steps of one length of gradients that are near 0
    options: dict[str, Any] = {"iterations": 2, "optimizer": "sgd", "learning_rate": 0.1}
    runs = [
        finetune(home.config(run=str(tmp_path / str(passes)), clips_per_pass=passes, **options)).folder
        for passes in (None, 3)
    ]
    first, second = map(weights_of, runs)
    before = build_backbone("tiny_i3d", "random:0", ("res4",)).state_dict()
    moved = [name for name in first if not torch.equal(first[name], before[name])]
    assert len(moved) > 10
    for name in moved:
        step = first[name] - before[name]
        torch.testing.assert_close(second[name] - before[name], step, atol=1e-4 * float(step.abs().max()), rtol=1e-3)


def test_layer_decay_and_factor(home: Home) -> None:
    config = home.config("pooled", learning_rate_factor=0.1, layer_decay=0.5)
    start = start_of(config, Cache(config.cache), allow_code=False)
    online = online_head(config, start, CPU)
    factors = {tap: online.learning_rate_factor_of(f"backbones.0.network.{path}") for tap, path in (
        ("res4", next(name for name, _ in start.networks[0].network.named_parameters() if name.startswith("res4"))),
        ("stem", next(name for name, _ in start.networks[0].network.named_parameters() if name.startswith("stem"))),
    )}  # fmt: skip
    assert factors == {"res4": 0.1, "stem": pytest.approx(0.1 * 0.5**3)}
    assert online.learning_rate_factor_of("head.classifier.fc.weight") == 1


@pytest.fixture
def moved(home: Home, tmp_path: Path) -> Home:
    """The same home with videos and a cache of its own, to damage."""
    for name in ("videos", "cache"):
        shutil.copytree(home.root / name, tmp_path / name, copy_function=shutil.copy2)
    document = home.document | {
        "cache": str(tmp_path / "cache"),
        "dataset": {"kind": "folder", "root": str(tmp_path / "videos")},
    }
    index(check_config(document, "test"))
    return Home(root=tmp_path, document=document, runs=home.runs)


def test_videos_that_are_gone_or_changed_are_named_before_the_first_step(moved: Home, tmp_path: Path) -> None:
    config = moved.config(run=str(tmp_path / "run"))
    video = moved.root / "videos" / "train" / "up" / "1.mp4"
    content = video.read_bytes()
    video.unlink()
    with pytest.raises(VideosChanged, match=r"1 video is gone: .*up/1.mp4"):
        finetune(config)
    video.write_bytes(content + b"more")
    with pytest.raises(VideosChanged, match=r"1 video has changed since the cache was made: .*up/1.mp4"):
        finetune(config)
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_video_that_fails_later_stops_the_run_by_name_and_the_state_stays(
    moved: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"run": str(tmp_path / "run"), "batch_size": 2, "epochs": 2, "val_split": None}
    whole = finetune(moved.config(**options | {"run": str(tmp_path / "whole")})).folder
    video = moved.root / "videos" / "train" / "up" / "3.mp4"
    content, times = video.read_bytes(), video.stat()

    def breaks(run: object, record: object) -> None:
        video.write_bytes(content[:100])

    with pytest.raises(VideoLost, match=r"up/3.mp4 can no longer be decoded.*give the same command"):
        finetune(moved.config(**options), on_epoch=breaks)
    video.write_bytes(content)
    os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    finetune(moved.config(**options))
    assert (whole / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unfreeze": ["res9"]}, HeadError, "finetune.unfreeze: given 'res9', allowed: all, .*res4"),
        ({"views": {"short_side": [32, 64]}}, UsageError, "finetune.views.short_side: given .* allowed: from 64 px on"),
        ({"views": {"region": "frame"}}, UsageError, "finetune.views.region: .*crop center.*crop, because .*full"),
        ({"views": {"offsets": "random"}}, UsageError, "finetune.views.offsets: .*because proposals/boxes.* belong to"),
    ],
)
def test_options_that_do_not_fit(
    home: Home, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        finetune(home.config(run=str(tmp_path / "run"), **options))


def test_frames_of_segments_are_drawn_anew_in_each_epoch(home: Home) -> None:
    """Ten frames in eight segments: a clip has other frames in another epoch, and the same ones in the same epoch."""
    config = home.config("pooled", views={"offsets": "random"}, val_split=None)
    cache = Cache(config.cache)
    start = start_of(config, cache, allow_code=False)
    with decoding(config, CPU) as decoder:
        clips, _ = finetuning._clips(config, cache, start, online_head(config, start, CPU), decoder)
        seen = [clips.in_epoch(epoch).batch([0, 1])["pixels/tiny"] for epoch in (1, 1, 2)]
        cached = clips.as_cached().batch([0, 1])["pixels/tiny"]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert seen[0].shape == cached.shape
    assert not torch.equal(seen[0], cached)


def test_other_weights_than_those_of_the_run_are_refused(home: Home, tmp_path: Path) -> None:
    backbones = home.document["backbones"]
    other = backbones | {"tiny": backbones["tiny"] | {"weights": "random:5"}}
    config = home.config(run=str(tmp_path / "run")).model_copy(
        update={"backbones": check_config(home.document | {"backbones": other}, "test").backbones}
    )
    with pytest.raises(RunError, match="weights_sha256"):
        finetune(config)


def test_mirrored_views_are_refused_where_classes_have_sides(home: Home) -> None:
    class Sided:
        classes = ("bright light", "eating leftovers", "turn_LEFT")

    config = home.config(views={"mirror": True})
    with pytest.raises(UsageError, match=r"views\.mirror.*turn_LEFT.*always"):
        finetuning._require_mirror_is_right(config, Sided())  # type: ignore[arg-type]
    finetuning._require_mirror_is_right(home.config(views={"mirror": "always"}), Sided())  # type: ignore[arg-type]


def test_runs_with_nothing_to_tune_are_refused(home: Home, tmp_path: Path) -> None:
    """A head on scene graphs alone, imported features, another class list, and the start itself as the place."""
    config = home.config(run=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="the run to start from"):
        finetune(home.config(run=str(home.runs["regions"])))
    for changes, message in (
        ({"reads": ["graphs/objects"], "spec": {"graphs/objects": [4, 3]}}, "nothing to tune"),
        ({"features": {"features/tiny": {"provenance": "unknown"}}}, "imported features"),
        ({"class_names": ["up", "down"]}, "or another order"),
    ):
        shutil.rmtree(tmp_path / "start", ignore_errors=True)
        shutil.copytree(home.runs["regions"], tmp_path / "start")
        record = json.loads((tmp_path / "start" / "run.json").read_bytes())
        (tmp_path / "start" / "run.json").write_text(json.dumps(record | changes))
        section = config.finetune.model_copy(update={"start": str(tmp_path / "start")})
        with pytest.raises(UsageError, match=message):
            finetune(config.model_copy(update={"finetune": section}))
    shutil.rmtree(tmp_path / "start")
    with pytest.raises(UsageError, match="holds no complete run"):
        finetune(config.model_copy(update={"finetune": section}))


def test_overwrite_keeps_the_old_run_until_everything_is_checked(moved: Home, tmp_path: Path) -> None:
    config = moved.config(run=str(tmp_path / "run"), iterations=1)
    run = finetune(config).folder
    (moved.root / "videos" / "train" / "up" / "1.mp4").unlink()
    with pytest.raises(VideosChanged):
        finetune(config, overwrite=True)
    assert (run / "run.json").exists()


def test_two_commands_never_train_one_run(home: Home, tmp_path: Path) -> None:
    """The second one is refused before it touches the state of the first, and goes on once the first has ended."""
    run = tmp_path / "run"
    document = home.document | {"train": home.document["train"] | {"run": str(run)}}
    with lock_folder(run):
        (run / "state.pt").write_bytes(b"of the first")
        for overwrite in (False, True):
            with pytest.raises(RunError, match="run is being trained by another command now"):
                finetune(home.config(run=str(run)), overwrite=overwrite)
            with pytest.raises(RunError, match="run is being trained by another command now"):
                train_runs(check_config(document, "test"), ["pooled"], overwrite=overwrite)
        assert (run / "state.pt").read_bytes() == b"of the first"
    assert train_runs(check_config(document, "test"), ["pooled"], overwrite=True)[0].folder == run


def test_the_command(home: Home, tmp_path: Path) -> None:
    section = {"run": str(tmp_path / "tuned" / "<head>"), "epochs": 1}
    path = write_config(tmp_path / "c.yaml", home.document | {"finetune": section})
    command = ["finetune", str(path), "--start", str(home.runs["pooled"])]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.stderr
    assert "avg_pool_tuned" in told.stdout
    assert re.search(r"step 0, 2 clips: .* equal those from the cache bit for bit", told.stderr)
    assert "kinegraph predict" in told.stderr
    assert CliRunner().invoke(app, command).exit_code == 2, "the folder holds a run already"


def test_joint_training_is_compared_with_the_head_alone(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ways start from one run, and the head alone trains as long as both together. What is finished is kept."""
    document = home.document | {"train": home.document["train"] | {"run": str(tmp_path / "runs")}}
    config = check_config(document | {"finetune": {"epochs": 1, "batch_size": 4, "threads": 1}}, "test")
    notes: list[str] = []
    (found,) = compare(config, "regions", 2, 1, notes.append)
    assert found.epochs_at_cost > 1
    assert found.start == evaluate_run(tmp_path / "runs" / "converged", split="test").result.metrics["top1"]
    tuned = load_record(tmp_path / "runs" / "converged-tuned")
    assert tuned.finetune is not None
    assert tuned.finetune["start"] == str(tmp_path / "runs" / "converged")
    assert {found.joint, found.head_alone, found.head_at_cost} <= {0.0, 0.5, 1.0}
    assert any("converged trained" in note for note in notes)
    (tmp_path / "runs" / "converged-tuned" / "comparison.json").unlink()
    monkeypatch.setattr(joint_comparison, "finetune", None)
    (again,) = compare(config, "regions", 2, 1, notes.append)
    assert again.model_copy(update={"epochs_at_cost": 0, "head_at_cost": 0}) == found.model_copy(
        update={"epochs_at_cost": 0, "head_at_cost": 0}
    )
    monkeypatch.setattr(joint_comparison, "train", None)
    assert compare(config, "regions", 2, 1, notes.append) == [again]
    for other in ({"epochs": 2}, {"batch_norm": "train"}):
        section = config.finetune.model_copy(update=other)
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # it would be tuned anew
            compare(config.model_copy(update={"finetune": section}), "regions", 2, 1, notes.append)


def test_the_head_alone_is_validated_on_the_split_of_fine_tuning_or_not_at_all(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[object] = []

    def trained(head: object, clips: object, val_clips: Any, *arguments: Any, **options: Any) -> Any:
        validated.append(val_clips if val_clips is None else sorted(val_clips.video_ids))
        return train(head, clips, val_clips, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(joint_comparison, "train", trained)
    for val_split in (None, "val"):
        joint_comparison._head_alone(home.config(val_split=val_split), home.runs["regions"], 1, "top1")
    assert validated == [None, ["val/down/6.mp4", "val/up/7.mp4"]]

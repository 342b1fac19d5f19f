"""Scores of videos with many clips and crops, and the files made of scores."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.results import SplitCounts, read_results
from kinegraph.pipeline.training.scoring import RunScores, evaluate_run, write_confusion, write_submission
from kinegraph.pipeline.training.table import TrainedRun, train_runs
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.training.checkpoint import RunError, load_run
from kinegraph.stages.training.evaluation import EvaluationResult, VideoScores
from tests.conftest import moving_square, write_video


@pytest.fixture
def config(tmp_path: Path, tiny_document: dict[str, Any]) -> Config:
    """Two clips and two crops a video."""
    root = tmp_path / "split"
    for split, count in {"train": 2, "test": 3}.items():
        for number in range(count):
            video = moving_square(30, 96, 80, seed=number)
            write_video(root / split / ("left" if number % 2 else "right") / f"{split}{number}.mp4", video)
    clips = tiny_document["clips"] | {"fps": 10, "sampling": "dense", "per_video": 2, "crops": ["left", "right"]}
    train = {"head": "avg_pool", "epochs": 1, "val_split": None, "run": str(tmp_path / "run")}
    document = tiny_document | {"dataset": {"kind": "folder", "root": str(root)}, "clips": clips, "train": train}
    document.pop("regions"), document.pop("proposals")
    found = check_config(document, "test")
    index(found)
    extract(found)
    return found


def test_many_clips_and_crops_are_scored_as_in_a_plain_loop(config: Config) -> None:
    """Joined as the run says, or otherwise without training again; results.json has the former only."""
    for aggregate, of in product(("max", "mean"), ("logits", "probabilities")):
        train = config.train.model_copy(update={"aggregate": aggregate, "aggregate_of": of})
        (run,) = train_runs(config.model_copy(update={"train": train}), overwrite=True)
        _check_against_a_loop(config, run, aggregate, of)
        scores = read_results(run.folder).scores
        others = {"max": "mean", "mean": "max", "logits": "probabilities", "probabilities": "logits"}
        _check_against_a_loop(config, run, others[aggregate], of, f"train.aggregate={others[aggregate]}")
        _check_against_a_loop(config, run, aggregate, others[of], f"train.aggregate_of={others[of]}")
        evaluate_run(run.folder, split="train", overrides=[f"train.aggregate={others[aggregate]}"])
        assert read_results(run.folder).scores == scores
        assert scores.keys() == {"test"}


def _check_against_a_loop(
    config: Config, run: TrainedRun, aggregate: str, of: str, *overrides: str, cache: str | None = None
) -> None:
    """`config` is of the run, or of another `cache`."""
    found = evaluate_run(run.folder, cache, overrides=["train.batch_size=3", *overrides]).result.videos
    head, _ = load_run(run.folder)
    clips = CachedClips(config.cache, head.reads, "test")
    assert len(clips) == 3 * config.clips.rows_per_video
    by_video: dict[str, list[Tensor]] = {}
    for position, video in enumerate(clips.video_ids):
        with torch.inference_mode():
            logits = head(clips.batch([position]))[0].double()
        by_video.setdefault(video, []).append(logits.softmax(0) if of == "probabilities" else logits)
    assert found.video_ids == tuple(by_video)
    for row, scores in zip(found.scores, by_video.values(), strict=True):
        together = torch.stack(scores)
        expected = together.amax(0) if aggregate == "max" else together.mean(0)
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


def test_ten_crops_are_scored_as_in_a_plain_loop(config: Config, tmp_path: Path) -> None:
    """The middle and the corners, each also mirrored: ten rows a video, whose mean is the video's score."""
    places = ("center", "top_left", "top_right", "bottom_left", "bottom_right")
    crops = tuple(f"{place}{flip}" for place in places for flip in ("", "_flip"))
    clips = config.clips.model_copy(update={"per_video": 1, "crops": crops})
    ten = config.model_copy(update={"cache": str(tmp_path / "ten"), "clips": clips})
    index(ten)
    assert not extract(ten).failures
    (run,) = train_runs(config)  # it has seen other crops
    for of in ("logits", "probabilities"):
        overrides = "train.aggregate=mean", f"train.aggregate_of={of}"
        _check_against_a_loop(ten, run, "mean", of, *overrides, cache=ten.cache)


HEADS = {
    "trg": {"dim": 8, "num_blocks": 1, "num_heads": 1},
    "rstg": {"dim": 8, "num_iterations": 1},
    "conv_lstm": {"dim": 8, "hidden": 8},
}


def test_views_of_another_side_are_scored_where_the_head_takes_them(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three crops of 80 px for heads that saw 64 px: the mean over the views, computed by hand."""
    caplog.set_level("INFO")
    entry = config.backbones["tiny"].model_copy(update={"size": 80})
    clips = config.clips.model_copy(update={"crops": ("left", "center", "right")})
    views = config.model_copy(update={"cache": str(tmp_path / "views"), "clips": clips, "backbones": {"tiny": entry}})
    index(views)
    assert not extract(views).failures
    for name, options in HEADS.items():
        told = {"head": name, "options": options, "run": str(tmp_path / name)}
        (run,) = train_runs(config.model_copy(update={"train": config.train.model_copy(update=told)}))
        if name == "conv_lstm":
            with pytest.raises(RunError, match=r"(?s)conv_lstm of .* takes maps of one size alone.*\(4, 96, 10, 10\)"):
                evaluate_run(run.folder, views.cache)
            continue
        found = evaluate_run(run.folder, views.cache, overrides=["train.batch_size=5"]).result.videos
        assert "features/tiny: squares of another side than in the training: size: 64 -> 80" in caplog.text
        caplog.clear()
        seen = CachedClips(views.cache, load_run(run.folder)[0].reads, "test")
        head = build_head(name, seen.spec, 2, **load_run(run.folder)[1].options).eval()
        head.load_state_dict(load_run(run.folder)[0].state_dict())
        with torch.inference_mode():
            logits = torch.cat([head(seen.batch([position])).double() for position in range(len(seen))])
        for video, row in zip(found.video_ids, found.scores, strict=True):
            of_video = logits[[position for position, other in enumerate(seen.video_ids) if other == video]]
            assert len(of_video) == 6
            torch.testing.assert_close(row, of_video.mean(0), atol=1e-6, rtol=0)


def test_runs_of_before_patience_wanted_a_validation_are_still_read(config: Config) -> None:
    (run,) = train_runs(config)
    for file, section in (("run.json", "train"), ("results.json", "recipe")):
        record = json.loads((run.folder / file).read_text())
        (run.folder / file).write_text(json.dumps(record | {section: record[section] | {"patience": 5}}))
    scored = evaluate_run(run.folder).result.metrics
    assert read_results(run.folder).scores == {"test": scored}
    patient = config.model_copy(update={"train": config.train.model_copy(update={"patience": 5})})
    with pytest.raises(ConfigError, match=r"avg_pool: train\.patience: given 5, allowed: null, without a val_split"):
        train_runs(patient, overwrite=True)
    assert read_results(run.folder).scores, "nothing was discarded"


def _scores(labels: Tensor, scores: list[list[float]], videos: tuple[str, ...]) -> RunScores:
    found = VideoScores(video_ids=videos, scores=torch.tensor(scores, dtype=torch.float64), labels=labels)
    nan = float("nan")
    result = EvaluationResult(
        metrics={}, loss=0, num_videos=3, num_failed=1, per_class=(0.5, nan), videos=found, seconds=1
    )
    counts = SplitCounts(num_videos=len(labels), num_failed=0, num_unsealed_clips=0)
    return RunScores(result=result, class_names=("jump", "run"), split="test", counts=counts, num_parameters=1)


INF = float("inf")
VIDEOS = ("test/YSKX3.mp4", "test/N11GT.mp4", "test/0IH69.mp4")


def test_the_submission_has_ids_and_full_scores_and_no_missing_videos(tmp_path: Path) -> None:
    third = 1 / 3
    found = _scores(torch.eye(3, 2), [[third, -2.0], [-INF, -INF], [1e-12, 0.25]], VIDEOS)
    assert write_submission(found, tmp_path / "charades.txt") == 2
    lines = [line.split(" ") for line in (tmp_path / "charades.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["YSKX3", "0IH69"]
    assert [[float(value) for value in line[1:]] for line in lines] == [[third, -2.0], [1e-12, 0.25]]
    twice = _scores(torch.eye(3, 2), [[0, 0]] * 3, ("a/x.mp4", "b/x.mp4", "c.mp4"))
    with pytest.raises(UsageError, match=r"two videos have the id 'x', one of them is b/x\.mp4"):
        write_submission(twice, tmp_path / "twice.txt")
    spaced = _scores(torch.eye(3, 2), [[0, 0]] * 3, ("x.mp4", "a b/my video.mp4", "c.mp4"))
    with pytest.raises(UsageError, match=r"a b/my video\.mp4 has a space in its id"):
        write_submission(spaced, tmp_path / "twice.txt")
    assert not (tmp_path / "twice.txt").exists()


def test_submissions_for_something_something_have_the_best_classes(tmp_path: Path) -> None:
    """V1: the name of the best. V2: the numbers of the five best. Of equal scores the lower number is first."""
    scores = [[0.5, 2.0, 0.1, 0.5, -1.0, 3.0], [-INF] * 6, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    found = _scores(torch.tensor([-1, -1, -1]), scores, ("test/7.webm", "8.webm", "9"))
    found = replace(found, class_names=tuple("abcdef"))
    assert write_submission(found, tmp_path / "v1.csv", "something_v1") == 2
    assert (tmp_path / "v1.csv").read_text() == "7;f\n9;a\n"
    assert write_submission(found, tmp_path / "v2.csv", "something_v2") == 2
    assert (tmp_path / "v2.csv").read_text() == "7;5;1;0;3;2\n9;0;1;2;3;4\n"
    with pytest.raises(UsageError, match="--submission-format something_v2: has one class a video"):
        write_submission(_scores(torch.eye(3, 2), [[0, 0]] * 3, VIDEOS), tmp_path / "many.csv", "something_v2")
    with pytest.raises(UsageError, match=r"a;b\.mp4 has a semicolon in its id"):
        write_submission(_scores(torch.zeros(1).long(), [[0, 0]], ("a;b.mp4",)), tmp_path / "v1.csv", "something_v1")


def test_the_confusion_matrix_counts_videos(tmp_path: Path) -> None:
    found = _scores(torch.tensor([0, 0, 1]), [[2.0, 2.0], [-INF, -INF], [1.0, 0.0]], VIDEOS)
    write_confusion(found, tmp_path / "confusion.csv")
    assert (tmp_path / "confusion.csv").read_text() == "class,jump,run,failed\njump,1,0,1\nrun,1,0,0\n"


def test_classes_without_a_positive_are_named() -> None:
    found = _scores(torch.tensor([0, 0, 0]), [[1.0, 0.0]] * 3, VIDEOS)
    assert found.absent_classes == ["run"]
    assert found.to_json()["per_class"] == {"jump": 0.5}
    assert found.to_json()["classes_without_positives"] == ["run"]

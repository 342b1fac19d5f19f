"""predictions-<split>.parquet: what evaluate writes beside a run, and who may read it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheNotWritable
from kinegraph.pipeline.browsing.scored import read_scored
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.training.kept_predictions import (
    KeptPredictions,
    PredictionsDocument,
    predictions_path,
    read_predictions,
    write_predictions,
)
from kinegraph.pipeline.training.results import ResultsError, read_results, write_results
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import TrainedRun, train_runs


@pytest.fixture
def run(windows_config: Config, tmp_path: Path) -> TrainedRun:
    """A run over whole videos, or over clips, has a row for each video."""
    return trained(windows_config, tmp_path, over="videos")


def trained(config: Config, tmp_path: Path, **options: Any) -> TrainedRun:
    train = {"head": "avg_pool", "epochs": 1, "batch_size": 8, "val_split": None, "run": str(tmp_path / "run")}
    document = config.model_dump(mode="json", exclude_unset=True) | {"train": train | options}
    (run,) = train_runs(check_config(document, "test"), overwrite=True)
    return run


@pytest.mark.parametrize("over", ["videos", "clips"])
def test_the_scores_of_all_videos_are_kept(over: str, windows_config: Config, tmp_path: Path) -> None:
    """The videos of the split `train` are one of 17 windows, and one that cannot be opened."""
    run = trained(windows_config, tmp_path, over=over)
    scores = evaluate_run(run.folder, split="train")
    assert scores.predictions == run.folder / "predictions-train.parquet"
    kept = read_predictions(run.folder, "train")
    videos = scores.result.videos
    assert kept.video_ids == ["long.mp4", "words.mp4"]
    assert kept.num_clips.tolist() == [17, 0]
    assert kept.clip_ids == [None, None]
    assert kept.labels == [[0, 1], [0]]
    assert np.array_equal(kept.scores[0], videos.scores[0].float().numpy())
    assert np.isnan(kept.scores[1]).all()
    assert kept.about.model_dump(include={"split", "class_names", "multi_label", "scores_are"}) == {
        "split": "train", "class_names": ("left", "right"), "multi_label": True, "scores_are": "logits",
    }  # fmt: skip
    assert kept.about.clips == read_results(run.folder).counts["train"].digest
    table = pq.read_table(scores.predictions)
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "video_id": "string", "clip_id": "string", "num_clips": "int32", "labels": "list<element: int32>",
        "scores": "fixed_size_list<element: float>[2]",
    }  # fmt: skip
    assert table["scores"].null_count == 0
    evaluate_run(run.folder)
    browsed = read_scored(run.folder)
    assert browsed.best.tolist() == [browsed.best[0], videos.scores[0].argmax().item(), -1], "test, then train"
    assert browsed.of_video("words.mp4") is None


def test_one_clip_of_a_video_has_its_id(run: TrainedRun, windows_config: Config) -> None:
    """The split `test` has a video of three windows, and one that is shorter than a window and has no row."""
    evaluate_run(run.folder)
    assert read_predictions(run.folder, "test").num_clips.tolist() == [3]
    kept = kept_predictions()
    write_predictions(run.folder, replace(kept, about=read_predictions(run.folder, "test").about))
    again = read_predictions(run.folder, "test")
    assert again.clip_ids == ["a:0", None, None]
    assert (again.labels, again.num_clips.tolist()) == ([[1], [], [0]], [1, 2, 0])
    assert np.array_equal(again.scores, kept.scores, equal_nan=True)
    assert Cache(windows_config.cache).classes == ["left", "right"]


def kept_predictions(**about: Any) -> KeptPredictions:
    document = {
        "split": "test", "class_names": ("left", "right"), "multi_label": False, "scores_are": "logits", "clips": "c",
        "recipe": "r", "weights_sha256": None, "kinegraph_version": "0",
    }  # fmt: skip
    return KeptPredictions(
        about=PredictionsDocument.model_validate(document | about),
        video_ids=["a", "b", "c"],
        clip_ids=["a:0", None, None],
        num_clips=np.array([1, 2, 0], np.int32),
        labels=[[1], [], [0]],
        scores=np.array([[1, 800], [-0.5, 0.25], [np.nan] * 2], np.float32),
    )


def test_probabilities_are_those_of_predict() -> None:
    kept = kept_predictions()
    scores = torch.from_numpy(kept.scores).double()
    for about, expected in (
        ({}, scores.softmax(1)),
        ({"multi_label": True}, scores.sigmoid()),
        ({"scores_are": "probabilities"}, scores),
    ):
        found = torch.from_numpy(kept_predictions(**about).probabilities)
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_a_split_of_any_name_has_a_file(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, kept_predictions(split="my/../test é"))
    assert path == predictions_path(tmp_path, "my/../test é")
    assert [file.name for file in tmp_path.iterdir()] == ["predictions-my%2F..%2Ftest %C3%A9.parquet"]


def test_the_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_predictions(tmp_path, kept_predictions())
    before = path.read_bytes()

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CacheNotWritable):
        write_predictions(tmp_path, kept_predictions(clips="others"))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, before)]


def test_predictions_of_something_else_are_refused(run: TrainedRun, windows_config: Config, tmp_path: Path) -> None:
    folder = run.folder
    with pytest.raises(ResultsError, match=r"has no predictions-test.parquet. `kinegraph evaluate .* --split test`"):
        read_predictions(folder, "test")
    evaluate_run(folder, overrides=["train.aggregate=max"])
    evaluate_run(folder, windows_config.cache)
    assert not predictions_path(folder, "test").exists(), "scores of other settings or another cache are not kept"
    evaluate_run(folder)
    file = predictions_path(folder, "test")
    good, results = file.read_bytes(), read_results(folder)
    digest = {"test": results.counts["test"].model_copy(update={"digest": "0"})}
    recipe = results.recipe.model_copy(update={"epochs": 7})
    for changed, words in (({"counts": digest}, "other clips or labels"), ({"recipe": recipe}, "another recipe")):
        write_results(folder, results.model_copy(update=changed))
        with pytest.raises(ResultsError, match=f"is of {words}.* than the run has now. `kinegraph evaluate"):
            read_predictions(folder, "test")
    write_results(folder, results)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"weights_sha256": "0"}))
    with pytest.raises(ResultsError, match="is of other weights than the run has now"):
        read_predictions(folder, "test")
    (folder / "run.json").write_text(json.dumps(record))
    for bad in (b"words", good[:-100], good[:300] + bytes(200) + good[500:]):
        file.write_bytes(bad)
        with pytest.raises(ResultsError, match=r"is damaged: .*`kinegraph evaluate"):
            read_predictions(folder, "test")
    file.write_bytes(good)
    assert read_predictions(folder, "test").video_ids == ["mid.mp4"]
    trained(windows_config, tmp_path, over="videos")
    assert not file.exists(), "a run that is trained again has no scores of before"

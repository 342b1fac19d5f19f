"""Runs and their predictions beside the clips: what is right and wrong, and predictions that cannot be used."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.training.kept_predictions import (
    KeptPredictions,
    PredictionsDocument,
    recipe_digest,
    write_predictions,
)
from kinegraph.pipeline.training.results import ResultsError, read_results
from kinegraph.stages.training.records import RECORD_FILE
from tests.made_reports import write_runs
from tests.pipeline.browsing.conftest import Browsed

VIDEOS = ("left/v1.mp4", "left/v3.mp4", "left/v5.mp4", "gone.mp4")


@pytest.fixture
def runs(tmp_path: Path, whole: Cache) -> Path:
    """Two runs. The first by name has predictions: one is right, one wrong, one video failed and one is unknown."""
    root = write_runs(tmp_path / "runs", whole.root, seeds=(0,))
    folder = min(root.rglob("seed0"))
    write(folder, ("left", "right"))
    return root


def write(folder: Path, class_names: tuple[str, ...]) -> None:
    (folder / RECORD_FILE).write_text("{}")
    results = read_results(folder)
    digest = recipe_digest(results.recipe, results.cache_fingerprint, results.trained_on)
    about = PredictionsDocument(
        split="test", class_names=class_names, multi_label=False, scores_are="logits", clips="", recipe=digest,
        weights_sha256=None, kinegraph_version="0",
    )  # fmt: skip
    scores = np.array([[2, 0], [0, 2], [np.nan, np.nan], [2, 0]], np.float32)
    kept = KeptPredictions(
        about=about, video_ids=VIDEOS, clip_ids=[None] * 4, num_clips=np.array([1, 1, 0, 1], np.int32),
        labels=[[0]] * 4, scores=scores,
    )  # fmt: skip
    write_predictions(folder, kept)


def test_predictions_filter_clips_and_stand_on_their_pages(whole: Cache, browsed: Browsed, runs: Path) -> None:
    client = browsed(whole, run=runs)
    for query, clip in (("verdict=right", "left/v1.mp4"), ("predicted=right", "left/v3.mp4")):
        page = client.get(f"/?{query}").text
        assert ("1 clip." in page, f"{clip}:0:center" in page) == (True, True), query
    assert "4 clips." in client.get("/?verdict=none").text
    page = client.get("/clips/0").text
    assert '<td><bdi>left</bdi> (label)</td><td class="number">0.881</td>' in page
    assert "has no scores for this video" in client.get("/clips/2").text
    page = client.get("/runs").text
    assert '4 videos, <a href="/?run=0&amp;verdict=wrong">' in page
    assert "no predictions of these weights: run `kinegraph evaluate" in page
    assert "verdict" not in client.get("/", params={"run": "1"}).text
    refused = client.get("/clips/0?run=2")
    assert (refused.status_code, "There is no run 2: the page Runs has 2" in refused.text) == (404, True)


def test_predictions_that_cannot_be_used(
    whole: Cache, browsed: Browsed, runs: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder = min(runs.rglob("seed0"))
    write(folder, ("a", "b"))
    assert "other classes than those of this cache" in browsed(whole, run=folder).get("/runs").text
    (folder / RECORD_FILE).write_text(json.dumps({"weights_sha256": "another"}))
    with caplog.at_level(logging.WARNING):
        assert "no predictions of these weights" in browsed(whole, run=folder).get("/runs").text
    assert "is of other weights than the run has now" in caplog.text
    assert "verdict" not in browsed(whole, run=folder).get("/").text
    (folder / RECORD_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        assert browsed(whole, run=folder).get("/clips/0").status_code == 200
    assert "run.json is missing, so nobody knows" in caplog.text
    with pytest.raises(ResultsError):
        browsed(whole, run=tmp_path / "nowhere")

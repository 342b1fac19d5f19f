"""What tests of reports share: a cache with hostile names and failures, and runs without a training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.reporting import fill
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import Failure
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.training.kept_predictions import (
    KeptPredictions,
    PredictionsDocument,
    recipe_digest,
    write_predictions,
)
from kinegraph.pipeline.training.results import RunResults, SplitCounts, write_results
from kinegraph.stages.training.options import TrainOptions
from tests.conftest import six_videos, tiny_stages

HOSTILE = ["<script>alert('class')</script>", "cost $5_a$\n\u202etxet"]
WORDS = "<img src=x onerror=alert('words')> https://evil.example"
HEADS = {"strg_joint": ("strg", 0.8), "avg_pool": ("avg_pool", 0.3)}


def hostile_cache(root: Path) -> Cache:
    """A cache of six videos with made-up values, hostile names of classes, and a failed clip in each stage."""
    config = check_config(tiny_stages(root / "cache", six_videos(root / "videos")), "hostile")
    index(config)
    cache = fill(config, sources=True)
    cache.storage.put("classes.json", [json.dumps(HOSTILE).encode()])
    for key in cache.stage_keys():
        record = cache.ledger.read(key, 0)
        assert record is not None
        cache.ledger.unseal(key, 0)
        failure = Failure(clip_id=cache.clip_ids(0)[0], reason="truncated", detail=WORDS)
        cache.ledger.seal(record.model_copy(update={"failures": [failure]}))
    return cache


def write_kept(folder: Path, results: RunResults, videos: Sequence[str], num_right: int) -> None:
    """Predictions of a run for videos of two classes. All but `num_right` are wrong; the first one is the surest."""
    (folder / "run.json").write_text(json.dumps({"weights_sha256": "w"}))
    labels = np.arange(len(videos)) % 2
    guesses = np.where(np.arange(len(videos)) < len(videos) - num_right, 1 - labels, labels)
    scores = np.zeros((len(videos), 2), np.float32)
    scores[np.arange(len(videos)), guesses] = np.linspace(3, 1, len(videos))
    about = PredictionsDocument(
        split="test", class_names=tuple(HOSTILE), multi_label=False, scores_are="logits", clips="",
        recipe=recipe_digest(results.recipe, results.cache_fingerprint, results.trained_on), weights_sha256="w",
        kinegraph_version="0.1.0",
    )  # fmt: skip
    kept = KeptPredictions(
        about=about, video_ids=videos, clip_ids=[None] * len(videos), num_clips=np.ones(len(videos), np.int32),
        labels=[[int(label)] for label in labels], scores=scores,
    )  # fmt: skip
    write_predictions(folder, kept)


def write_runs(root: Path, cache: str, videos: Sequence[str] = (), seeds: Sequence[int] = (0, 1, 2)) -> Path:
    """Two heads with a learning curve and test scores for each seed, and with predictions for `videos`."""
    for name, (head, score) in HEADS.items():
        for seed in seeds:
            folder = root / name / f"seed{seed}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng(seed)
            history = [
                {"epoch": epoch, "loss": 2 / epoch, "learning_rate": 0.001 / epoch, "seconds": 1.0, "waited": 0.0,
                 "metrics": {"top1": score * epoch / 9 + 0.02 * float(rng.random()), "loss": 1 / epoch}}
                for epoch in range(1, 9)
            ]  # fmt: skip
            results = RunResults(
                name=name, seed=seed, cache=cache, cache_fingerprint="f", recipe=TrainOptions(head=head, seed=seed),
                environment={}, num_parameters=1000, num_train_clips=4, num_failed_videos=0, metric="top1",
                best_epoch=8, seconds=2.0, history=history, scores={"test": {"top1": score + 0.01 * seed, "top5": 1.0}},
                counts={"test": SplitCounts(num_videos=6, num_failed=0, num_unsealed_clips=0)},
            )  # fmt: skip
            write_results(folder, results)
            if videos:
                write_kept(folder, results, videos, num_right=4 if head == "strg" else 1)
    return root

"""Training over whole videos: the windows of a video are one sample."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kinegraph.cache_schemas.arrays import FRAME_TIMES
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.training.finetuning import finetune
from kinegraph.pipeline.training.samples import opened_samples
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs
from kinegraph.pipeline.training.trainable import build_for
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.head import MASK, HeadError
from kinegraph.stages.training.checkpoint import RunError
from kinegraph.stages.training.clips import clips_identity
from kinegraph.stages.training.evaluation import evaluate
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import STATE_FILE, EpochRecord
from kinegraph.stages.training.train import seeded
from kinegraph.stages.training.videos import CachedVideos

POOLED, KEY = "features/tiny/res4_pooled", "features/tiny"
CPU = torch.device("cpu")


def over_videos(config: Config, tmp_path: Path, **options: Any) -> Config:
    train = {
        "head": "lstm",
        "options": {"hidden": 8},
        "over": "videos",
        "epochs": 2,
        "batch_size": 2,
        "val_split": None,
    }
    document = config.model_dump(mode="json", exclude_unset=True) | {
        "train": train | {"run": str(tmp_path / "runs/<head>")} | options
    }
    return check_config(document, "test")


@pytest.fixture
def own_cache(windows_config: Config, tmp_path: Path) -> Config:
    """A copy of the cache of windows, which the test may change."""
    shutil.copytree(windows_config.cache, tmp_path / "cache")
    return windows_config.model_copy(update={"cache": str(tmp_path / "cache")})


def videos_of(cache: Cache, max_windows: int | None = None) -> CachedVideos:
    return CachedVideos(CachedClips(cache, [POOLED]), max_windows)


def fail_window(cache: Cache, clip_id: str, shard: int) -> None:
    path = Path(cache.root) / "ledger" / KEY / f"{shard:06}.json"
    record = json.loads(path.read_text())
    record["failures"].append({"clip_id": clip_id, "reason": "timeout", "detail": "by the test"})
    path.write_text(json.dumps(record))


def test_vectors_without_a_time_axis_are_not_averaged(windows_cache: Cache) -> None:
    """As the output `head` of a network that sees clips. Here the 8 times of a window stand for it."""
    videos = CachedVideos(CachedClips(windows_cache, [FRAME_TIMES]))
    assert videos.batch([0])[FRAME_TIMES].shape == (1, 17, 8)


def test_a_sample_is_the_sequence_of_a_video(windows_cache: Cache) -> None:
    videos = videos_of(windows_cache)
    assert (videos.video_ids, videos.failed_videos, videos.num_shortened) == (["long.mp4", "mid.mp4"], ["words.mp4"], 0)
    batch = videos.batch([1, 0])
    assert batch[POOLED].shape[:2] == batch[MASK].shape == (2, 17)
    assert batch[MASK].sum(1).tolist() == [3, 17]
    for row, video in enumerate(("mid.mp4", "long.mp4")):
        sequence = videos.clips.video(video)
        expected = sequence[POOLED].mean(1)
        assert torch.equal(batch[POOLED][row, : len(expected)], expected)
        assert not batch[POOLED][row, len(expected) :].any()
        assert torch.equal(batch["labels"][row], sequence["labels"][0])
    assert torch.equal(videos.labels, batch["labels"].flip(0))
    assert videos.failed_labels.tolist() == [[1, 0]]


def test_long_videos_are_read_evenly(windows_cache: Cache) -> None:
    videos = videos_of(windows_cache, max_windows=4)
    assert videos.num_shortened == 1
    long, mid = videos.batch([0])[POOLED][0], videos.batch([1])[POOLED][0]
    assert torch.equal(long, videos.clips.video("long.mp4")[POOLED].mean(1)[[2, 6, 10, 14]])
    assert len(mid) == 3


def test_the_batch_does_not_change_scores(windows_cache: Cache, windows_config: Config, tmp_path: Path) -> None:
    """To 1e-6 of rounding."""
    options = over_videos(windows_config, tmp_path).train.recipe
    with seeded(0, CPU):
        head = build_for(windows_cache, options)
    both, single = (
        evaluate(head, videos_of(windows_cache), options.model_copy(update={"batch_size": size}), device=CPU)
        for size in (2, 1)
    )
    torch.testing.assert_close(both.videos.scores, single.videos.scores, rtol=1e-6, atol=1e-6)
    assert both.videos.video_ids == ("long.mp4", "mid.mp4", "words.mp4")
    assert both.videos.scores.isfinite().all(1).tolist() == [True, True, False]


def test_what_is_left_out_is_told_once(own_cache: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(own_cache.cache)
    fail_window(cache, "long.mp4:3:center", 0)
    config = over_videos(own_cache, tmp_path, max_windows=10)
    options = config.train.recipe
    head = build_for(cache, options)
    videos = opened_samples(cache, head, "train", options)
    assert isinstance(videos, CachedVideos)
    whole = videos_of(cache)
    kept = [k for k in range(17) if k != 3]
    starts = whole.clips.video("long.mp4")["start_seconds"].tolist()
    assert starts == [k / 4 for k in kept]
    assert whole.batch([0])[MASK].sum().item() == 16
    opened_samples(cache, head, "test", options)
    assert [record.getMessage() for record in caplog.records] == [
        "1 failed window of split train is masked out. `kinegraph status CACHE --failed` says why",
        "1 video of split train has no ok window: left out of training, counted in scores: words.mp4",
        "1 video of split train has more than 10 windows. 10 of them are taken evenly",
        "1 video of split test is shorter than a window, without sample and score: short.mp4",
    ]


def test_a_video_that_is_not_extracted_to_its_end(own_cache: Config, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(own_cache.cache)
    cache.ledger.unseal(KEY, 1)
    cache = Cache(own_cache.cache)
    videos = videos_of(cache)
    assert (videos.video_ids, videos.videos) == (["mid.mp4"], ["mid.mp4", "words.mp4"])
    options = TrainOptions(over="videos", head="avg_pool")
    opened_samples(cache, build_for(cache, options), "test", options)
    assert not any("not extracted" in record.getMessage() for record in caplog.records)
    with pytest.raises(UsageError, match="There is no ok clip"):
        evaluate(build_for(cache, options), opened(cache, options), options, device=CPU)
    assert "1 video of split train is not extracted to the end, without sample and score" in caplog.text


def opened(cache: Cache, options: TrainOptions) -> Any:
    return opened_samples(cache, build_for(cache, options), "train", options)


def test_other_windows_are_other_samples(own_cache: Config) -> None:
    cache = Cache(own_cache.cache)
    before = clips_identity(videos_of(cache))
    assert clips_identity(videos_of(cache, max_windows=5)) != before
    fail_window(cache, "mid.mp4:1:center", 2)
    assert clips_identity(videos_of(Cache(own_cache.cache))) != before


@pytest.mark.parametrize("name", ["avg_pool", "lstm", "mlp", "trn"])
def test_a_run_trains_and_continues_exactly(name: str, windows_config: Config, tmp_path: Path) -> None:
    """A run that was stopped in its second epoch has the weights of one that was not."""
    config = over_videos(windows_config, tmp_path, head=name, options={}, test_split="train")
    (whole,) = train_runs(config)
    stopped = config.model_copy(update={"train": config.train.model_copy(update={"run": str(tmp_path / "stopped")})})

    def stop(run: object, record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(stopped, on_epoch=stop)
    assert (tmp_path / "stopped" / STATE_FILE).exists()
    (continued,) = train_runs(stopped)
    weights = [(run.folder / "model.safetensors").read_bytes() for run in (whole, continued)]
    assert weights[0] == weights[1]
    scored = evaluate_run(whole.folder).result
    assert scored.videos.video_ids == ("long.mp4", "words.mp4")
    assert {*scored.metrics} == {"mAP", "wAP"}


def test_prediction_has_the_scores_of_evaluation(
    windows_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One score for the windows of a video together; a run over clips has one for each window."""
    config = over_videos(windows_config, tmp_path)
    (run,) = train_runs(config)
    expected = evaluate_run(run.folder).result.videos
    assert expected.video_ids == ("mid.mp4",)
    folder = Path(windows_config.cache).parent / "videos"
    predictor = Predictor(run.folder, overrides=["run.threads=1", "run.batch_size=4"])
    mid, short, words = predictor.predict([folder / name for name in ("mid.mp4", "short.mp4", "words.mp4")])
    assert mid.scores is not None
    torch.testing.assert_close(mid.scores, expected.scores[0], rtol=1e-5, atol=1e-5)
    assert [(clip.start, clip.end) for clip in mid.clips] == [(0.0, 1.5)]
    assert (mid.failure, mid.num_failed, mid.num_clips) == ("", 0, 3)
    assert (short.scores, short.failure) == (None, "too_short: the video is shorter than a window of the run")
    assert (words.scores, words.num_failed) == (None, 1)
    assert words.failure.startswith("unreadable: ")
    (alone,) = predictor.predict([folder / "short.mp4"])
    assert alone.failure == short.failure
    with pytest.raises(UsageError, match="--intervals: this run has one score for a whole video"):
        next(predictor.predict([folder / "mid.mp4"], window_seconds=1))


def test_what_cannot_be_trained_is_refused(
    windows_config: Config, load: Callable[..., Config], complete: Callable[[Config], Cache], tmp_path: Path
) -> None:
    with pytest.raises(
        HeadError, match=r"conv_lstm: Head conv_lstm reads clips of one length.*avg_pool, mlp, lstm, trn"
    ):
        train_runs(over_videos(windows_config, tmp_path, head="conv_lstm", options={}))
    with pytest.raises(ConfigError, match=re.escape("max_windows: given 3, allowed: null, without over: videos")):
        over_videos(windows_config, tmp_path, over="clips", max_windows=3)
    (run,) = train_runs(over_videos(windows_config, tmp_path, head="avg_pool", options={}, epochs=1))
    tuned = over_videos(windows_config, tmp_path).model_dump(mode="json", exclude_unset=True)
    with pytest.raises(RunError, match="was trained over whole videos"):
        finetune(check_config(tuned | {"finetune": {"start": str(run.folder)}}, "test"))
    config = load(f"train.run={tmp_path}/other", "train.over=videos", "train.head=avg_pool", name="whole")
    complete(config)
    with pytest.raises(
        ConfigError, match=r"train.over: given videos, but in .*rows are from \w+; `clips.sampling: win"
    ):
        train_runs(config)

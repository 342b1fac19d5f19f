"""From a cache to trained runs and their scores."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError, UnknownSplit
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.clusters.wanted_run import RunPlace
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training import samples
from kinegraph.pipeline.training import table as training
from kinegraph.pipeline.training.kept_runs import require_same_recipes
from kinegraph.pipeline.training.recipes import recipes
from kinegraph.pipeline.training.results import read_results
from kinegraph.pipeline.training.samples import opened_samples
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs, wanted_runs
from kinegraph.pipeline.training.trainable import build_for
from kinegraph.stages import processes
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.training.checkpoint import MODEL_FILE, RunError, RunExists, RunNotFound, load_record
from kinegraph.stages.training.records import STATE_FILE, EpochRecord
from tests.conftest import moving_square, tiny_stages, write_video
from tests.pipeline.conftest import Videos

SPLITS = {"train": 4, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Videos, dict[str, Any]]:
    """Two classes in three splits; the document of a cache of them, which is extracted."""
    folder = tmp_path_factory.mktemp("extracted")
    for split, count in SPLITS.items():
        for number in range(count):
            video = moving_square(12, 96, 80, seed=number)
            label = "left" if number % 2 else "right"
            write_video(folder / "split_videos" / split / label / f"{split}{number}.mp4", video)
    document = tiny_stages(folder / "cache", folder / "split_videos")
    index(check_config(document, "test"))
    extract(check_config(document, "test"))
    return Videos(folder / "split_videos"), document


@pytest.fixture
def config(tmp_path: Path, extracted: tuple[Videos, dict[str, Any]]) -> Iterator[Config]:
    """A copy of that cache, and three recipes. Tests may change the videos."""
    videos, document = extracted
    shutil.copytree(document["cache"], tmp_path / "cache")
    variants = {"pool": {"head": "avg_pool"}, "graph": {"options": {"graphs": "similarity"}}}
    train = {"head": "strg", "options": {"dim": 8}, "epochs": 2, "run": str(tmp_path / "runs"), "variants": variants}
    yield check_config(document | {"cache": str(tmp_path / "cache"), "train": train}, "test")
    videos.put_back()


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    document = config.model_dump(mode="json", exclude_unset=True)
    for name, keys in sections.items():
        document[name] = document[name] | keys
    return check_config(document, "test")


def test_a_run_starts_from_the_weights_of_another(config: Config) -> None:
    """With a rate of almost 0, the weights stay. Other weights behind the same folder make another run."""
    (first,) = train_runs(config)
    still = {"start_from": str(first.folder), "run": f"{config.train.run}-2", "epochs": 1, "learning_rate": 1e-12}
    asked = changed(config, train=still)
    (second,) = train_runs(asked)
    weights, started = (safetensors.torch.load_file(run.folder / MODEL_FILE) for run in (first, second))
    torch.testing.assert_close(started, weights, atol=1e-8, rtol=0)
    assert second.results.recipe.start_from == f"{first.folder}@{load_record(first.folder).weights_sha256[:12]}"
    require_same_recipes(asked, wanted_runs(asked, [], 1), overwrite=False)
    train_runs(changed(config, train={"seed": 5}), overwrite=True)
    with pytest.raises(RunExists, match=r"another recipe or other clips \(start_from: "):
        require_same_recipes(asked, wanted_runs(asked, [], 1), overwrite=False)


def test_only_the_classifier_is_fresh_for_other_classes(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    (first,) = train_runs(config)
    classes = Path(config.cache) / "classes.json"
    classes.write_text(json.dumps([*json.loads(classes.read_text()), "up"]))
    still = {"start_from": str(first.folder), "run": f"{config.train.run}-2", "epochs": 1, "learning_rate": 1e-12}
    with caplog.at_level("INFO"):
        (second,) = train_runs(changed(config, train=still))
    weights, started = (safetensors.torch.load_file(run.folder / MODEL_FILE) for run in (first, second))
    fresh = {name for name in weights if weights[name].shape != started[name].shape}
    assert fresh == {"classifier.fc.weight", "classifier.fc.bias"}
    assert "these layers are fresh: classifier.fc.weight, classifier.fc.bias" in caplog.text
    for name in weights.keys() - fresh:
        torch.testing.assert_close(started[name], weights[name], atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"head": "avg_pool", "options": {}}, "has the head strg, and this run trains avg_pool"),
        ({"options": {"dim": 16}}, "has other layers .* Give it the options that the run has"),
    ],
)
def test_a_run_of_another_head_is_no_start(config: Config, keys: dict[str, Any], words: str) -> None:
    (first,) = train_runs(config)
    start = {"start_from": str(first.folder), "run": f"{config.train.run}-2"}
    with pytest.raises(UsageError, match=words):
        train_runs(changed(config, train=start | keys))


def test_a_start_without_a_run_names_the_key(config: Config, tmp_path: Path) -> None:
    words = r"train\.start_from: .*nothing holds no trained run\. Name the folder of one run"
    with pytest.raises(RunNotFound, match=words):
        train_runs(changed(config, train={"start_from": str(tmp_path / "nothing")}))


def test_one_run_is_trained_and_scored(config: Config) -> None:
    (run,) = train_runs(config)
    assert (run.folder, run.results.num_train_clips) == (Path(config.train.run), 4)
    record = json.loads((run.folder / "run.json").read_text())
    assert record["cache"] == config.cache
    assert record["cache_fingerprint"] == CachedClips(config.cache, record["reads"]).cache_fingerprint
    scores = evaluate_run(run.folder).result
    assert (scores.num_videos, scores.num_failed) == (2, 0)
    assert scores.metrics["top5"] == 1.0
    assert evaluate_run(run.folder, split="train").result.num_videos == 4


def test_preloaded_clips_train_the_same(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (mapped,) = train_runs(changed(config, train={"preload": False}))
    (preloaded,) = train_runs(changed(config, train={"preload": True}), overwrite=True)
    assert [record["loss"] for record in preloaded.results.history] == [
        record["loss"] for record in mapped.results.history
    ]
    cache, head = Cache(config.cache), build_for(Cache(config.cache), config.train.recipe)
    assert opened_samples(cache, head, "train", config.train.recipe, preload=None).batches_ahead == 0, "small"
    monkeypatch.setattr(samples, "SMALL_BYTES", 1)
    assert opened_samples(cache, head, "train", config.train.recipe, preload=None).batches_ahead == 1
    monkeypatch.setattr("kinegraph.cache_schemas.reader.available_bytes", lambda: 0)
    with pytest.raises(CacheError, match="0 bytes of memory are free"):
        train_runs(changed(config, train={"preload": True}), overwrite=True)


def test_regions_of_stored_maps(config: Config) -> None:
    """What heads read is offered as one: the crop is a column of the clips and no stored array."""
    maps = {"dim": 8, "regions_from": "maps", "num_regions": 2}
    (run,) = train_runs(changed(config, train={"options": maps}))
    record = json.loads((run.folder / "run.json").read_text())
    assert record["reads"] == ["features/tiny/res4", "proposals/boxes", "proposals/count", "clips/crop"]
    assert record["spec"]["clips/crop"] == [4]
    assert evaluate_run(run.folder).result.num_videos == 2


def test_what_a_head_says_of_missing_arrays_makes_them(config: Config) -> None:
    """The advice is followed word by word, on the cache that gave rise to it."""
    pooled = config.backbones["tiny"].model_dump(exclude_unset=True) | {"store": ["pooled"]}
    config = config.model_copy(update={"cache": config.cache + "_pooled"})
    config = changed(config, backbones={"tiny": pooled})
    index(config)
    extract(config, stages=["features"])
    cache, options = Cache(config.cache), config.train.recipe.model_copy(update={"head": "trg", "options": {}})
    with pytest.raises(HeadError) as told:
        build_for(cache, options)
    found = re.search(
        r"copy of (\w+) .* as (\w+), with `taps: \[(\w+)\]` and `store: \[(\w+)\]`.*--stage (\w+)`", str(told.value)
    )
    assert found is not None, told.value
    known, name, tap, kind, stage = found.groups()
    copy = config.backbones[known].model_dump(exclude_unset=True) | {"taps": [tap], "store": [kind]}
    extract(changed(config, backbones={name: copy}), stages=[stage])
    assert build_for(cache, options).reads == ("features/tiny_maps/res4",)


def test_maps_that_do_not_lie_over_the_whole_crop_are_refused(config: Config) -> None:
    """Their cells are not where the boxes say, by up to a cell; extraction heeds that, the head cannot."""
    odd = config.backbones["tiny"].model_dump(exclude_unset=True) | {"size": 68}
    config = changed(config, backbones={"odd": odd})
    extract(config)
    options = {"regions_from": "maps", "dim": 8}
    train = config.train.recipe
    with pytest.raises(
        HeadError, match=r"given features/odd/res4, whose 9 x 9 cells of 8 px lie from 0 px on over 68 px;"
    ):
        build_for(Cache(config.cache), train.model_copy(update={"options": options | {"backbone": "odd"}}))
    build_for(Cache(config.cache), train.model_copy(update={"options": options | {"backbone": "tiny"}}))
    build_for(Cache(config.cache), train.model_copy(update={"head": "trg", "options": {"backbone": "odd"}}))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_of_variants_and_seeds(config: Config, workers: int) -> None:
    heard: list[tuple[str, int]] = []
    config = changed(config, run={"workers": workers})
    runs = train_runs(
        config, ["pool", "graph", "lstm"], 2, on_run=lambda run: heard.append((run.results.name, run.results.seed))
    )
    in_turn = ("pool", "graph", "lstm") if workers == 1 else ("graph", "lstm", "pool")  # the most parameters first
    assert heard == [(name, seed) for name in in_turn for seed in (0, 1)]
    assert [run.results.name for run in runs[::2]] == ["pool", "graph", "lstm"]
    assert [run.folder.relative_to(config.train.run).as_posix() for run in runs[:2]] == ["pool/seed0", "pool/seed1"]
    assert all((run.folder / "model.safetensors").exists() for run in runs)
    with pytest.raises(RunExists):
        train_runs(config, ["pool", "graph"], 2)
    if workers == 1:
        again = train_runs(config, ["pool"], 2, overwrite=True)
        assert [run.results.scores for run in again] == [run.results.scores for run in runs[:2]]


def test_processes_of_a_table_share_devices_and_cores(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    class NewProcessForEachJob:
        def __init__(self, count: int, mp_context: Any, initializer: Any, initargs: Any) -> None:
            self.begin = partial(initializer, *initargs)

        def submit(self, call: Any, *arguments: Any) -> Future[Any]:
            self.begin()
            done = Future[Any]()
            done.set_result(call(*arguments))
            return done

        def shutdown(self, cancel_futures: bool) -> None: ...

    monkeypatch.setattr(processes, "ProcessPoolExecutor", NewProcessForEachJob)
    monkeypatch.setattr(training, "_train_one", lambda job: job.config.run.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    threads = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    config = changed(config, run={"workers": 4, "threads": "auto"})
    assert train_runs(config, ["pool"], 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert threads == [2, 2, 2], "8 cores among three"


def test_recipes_are_variants_or_heads(config: Config) -> None:
    found = recipes(config, ["graph", "avg_pool", "strg"])
    assert (found["graph"].head, found["graph"].options) == ("strg", {"graphs": "similarity"})
    assert (found["avg_pool"].head, found["avg_pool"].options) == ("avg_pool", {})
    assert found["strg"].options == {"dim": 8}
    assert {recipe.epochs for recipe in found.values()} == {2}
    with pytest.raises(ConfigError, match=r"--head tgr: .* pool, graph, strg, avg_pool"):
        recipes(config, ["tgr"])


def test_a_table_with_a_bad_head_trains_none(config: Config) -> None:
    config = changed(config, train={"variants": {"pool": {"head": "avg_pool"}, "bad": {"options": {"dimm": 3}}}})
    with pytest.raises(HeadError, match="no option 'dimm'"):
        train_runs(config, ["pool", "bad"])
    assert not Path(config.train.run).exists()


def test_a_split_without_clips_is_named(config: Config) -> None:
    with pytest.raises(UnknownSplit, match=r"no clip in split 'dev'; its splits are: test, train, val"):
        train_runs(changed(config, train={"val_split": "dev"}))


def test_features_made_otherwise_are_refused(config: Config, tmp_path: Path) -> None:
    (run,) = train_runs(config)
    tiny = config.backbones["tiny"].model_copy(update={"weights": "random:1"})
    other = config.model_copy(update={"cache": str(tmp_path / "other"), "backbones": {"tiny": tiny}})
    index(other)
    extract(other)
    with pytest.raises(RunError, match=r"with other options .*\n  features/tiny\.weights_sha256: '\w+' -> '"):
        evaluate_run(run.folder, other.cache)


def test_a_cache_without_labels_says_where_they_come_from(config: Config, tmp_path: Path) -> None:
    root = tmp_path / "flat"
    write_video(root / "a.mp4", moving_square(12, 96, 80))
    flat = changed(config, dataset={"root": str(root)}).model_copy(update={"cache": str(tmp_path / "flat_cache")})
    index(flat)
    extract(flat)
    with pytest.raises(ConfigError, match="no labels to train on: put the videos into class folders"):
        train_runs(flat)


def test_results_say_what_was_trained_on_what_and_where(config: Config) -> None:
    (run,) = train_runs(config)
    assert read_results(run.folder) == run.results
    found, record = run.results, json.loads((run.folder / "run.json").read_text())
    assert (found.cache, found.cache_fingerprint) == (
        config.cache,
        CachedClips(config.cache, record["reads"]).cache_fingerprint,
    )
    assert found.recipe == config.train.recipe
    assert {"python", "torch", "kinegraph", "device", "threads"} <= found.environment.keys()
    assert [record["epoch"] for record in found.history] == [1, 2]
    assert found.scores == {"val": found.history[found.best_epoch - 1]["metrics"]}
    scored = evaluate_run(run.folder).result.metrics
    evaluate_run(run.folder, cache=config.cache, split="train")
    evaluate_run(run.folder, split="val")
    again = read_results(run.folder)
    assert again.scores == found.scores | {"test": scored}
    assert again.counts["val"] == found.counts["val"]
    assert again.counts["val"].digest != again.counts["test"].digest


def test_a_table_that_was_cut_off_goes_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = train_runs(changed(config, train={"run": config.train.run + "2"}), ["pool", "lstm"], 2)

    def cut_off(run: RunPlace, record: EpochRecord) -> None:
        if (run.name, run.seed, record.epoch) == ("lstm", 0, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(config, ["pool", "lstm"], 2, on_epoch=cut_off)
    heard: list[tuple[RunPlace, int]] = []
    with pytest.raises(RunExists, match=r"another recipe or other clips \(epochs: 2 -> 3\)"):
        train_runs(changed(config, train={"epochs": 3}), ["pool", "lstm"], 2)
    runs = train_runs(config, ["pool", "lstm"], 2, on_epoch=lambda run, record: heard.append((run, record.epoch)))
    third = RunPlace(name="lstm", seed=0, number=3, num_runs=4, runs_after=1.0, num_epochs=2)
    fourth = RunPlace(name="lstm", seed=1, number=4, num_runs=4, num_epochs=2)
    assert heard == [(third, 2), (fourth, 1), (fourth, 2)]
    assert [run.kept for run in runs] == [True, True, False, False]
    for run, expected in zip(runs, undisturbed, strict=True):
        assert run.results.scores == expected.results.scores
        assert same_weights(run.folder, expected.folder)
        assert not (run.folder / STATE_FILE).exists()
    with pytest.raises(RunExists, match="holds a trained run already"):
        train_runs(config, ["pool", "lstm"], 2)


def test_a_table_is_of_one_kind_of_features(config: Config) -> None:
    (run, *_) = train_runs(config, ["pool", "lstm"], 1)
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(record | {"cache_fingerprint": "other"}))
    (run.folder.parent.parent / "lstm" / "seed0" / "run.json").unlink()
    with pytest.raises(RunExists, match=r"another recipe or other clips \(features: 'other' -> '"):
        train_runs(config, ["pool", "lstm"], 1)


def test_runs_on_arrays_of_another_cache_are_named(config: Config) -> None:
    (run, _) = train_runs(config, ["pool"], 2)
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(record | {"reads": ["features/other/res4"]}))
    (run.folder.with_name("seed1") / "run.json").unlink()
    with pytest.raises(RunExists, match=r"pool.seed0 holds a run on features/other/res4, .*train\.run, or --overwrite"):
        train_runs(config, ["pool"], 2)
    train_runs(config, ["pool"], 2, overwrite=True)


def test_a_table_is_of_one_list_of_clips_and_classes(config: Config) -> None:
    train_runs(config, ["pool", "graph"], 1)
    (Path(config.train.run) / "graph" / "seed0" / "run.json").unlink()
    classes = Path(config.cache) / "classes.json"
    before = classes.read_text()
    classes.write_text(json.dumps(["up", "down"]))
    with pytest.raises(RunExists, match=r"other clips \(trained_on\.classes: '\w+' -> '\w+'\)"):
        train_runs(config, ["pool", "graph"], 1)
    classes.write_text(before)
    assert config.dataset is not None
    write_video(Path(config.dataset.root) / "val" / "left" / "new.mp4", moving_square(12, 96, 80))
    index(config)
    extract(config)
    with pytest.raises(RunExists, match=r"pool.*trained_on\.val\.clips: 2 -> 3; .*--overwrite"):
        train_runs(config, ["pool", "graph"], 1)


@pytest.mark.parametrize("overwrite", [False, True])
def test_seeds_of_a_head_are_of_one_recipe(config: Config, overwrite: bool) -> None:
    train_runs(config, ["pool"], 2)
    with pytest.raises(RunExists, match=r"pool.seed0 .*\(epochs: 2 -> 3\)"):
        train_runs(changed(config, train={"epochs": 3, "seed": 1}), ["pool"], 2, overwrite=overwrite)
    (_, run) = train_runs(changed(config, train={"seed": 1}), ["pool"], 2)
    assert run.results.row() == read_results(run.folder.with_name("seed0")).row()


def same_weights(first: Path, second: Path) -> bool:
    return (first / MODEL_FILE).read_bytes() == (second / MODEL_FILE).read_bytes()


def test_overwriting_forgets_what_was_there(config: Config) -> None:
    (run,) = train_runs(changed(config, train={"tensorboard": True}))
    assert (run.folder / "tensorboard").exists()
    (run.folder / STATE_FILE).write_bytes(b"of something else")
    train_runs(changed(config, train={"epochs": 1}), overwrite=True)
    assert sorted(path.name for path in run.folder.iterdir()) == [MODEL_FILE, "results.json", "run.json"]
    assert len(read_results(run.folder).history) == 1


def test_overwriting_that_was_stopped_goes_on_without_it(config: Config) -> None:
    """All runs of before are gone by then, so that none is of another recipe."""

    def stop(run: RunPlace, record: EpochRecord) -> None:
        raise KeyboardInterrupt

    train_runs(config, ["pool"], 2)
    longer = changed(config, train={"epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        train_runs(longer, ["pool"], 2, overwrite=True, on_epoch=stop)
    assert [len(run.results.history) for run in train_runs(longer, ["pool"], 2)] == [3, 3]


def test_scores_tell_of_clips_that_are_not_extracted_yet(config: Config) -> None:
    assert config.dataset is not None
    (run,) = train_runs(config)
    for name in ("a", "b", "c"):
        write_video(Path(config.dataset.root) / "test" / "left" / f"{name}.mp4", moving_square(12, 96, 80))
    index(config)
    told = evaluate_run(run.folder).to_json()
    assert (told["num_videos"], told["num_failed"], told["num_unsealed_clips"]) == (2, 0, 3)
    assert read_results(run.folder).counts["test"].num_unsealed_clips == 3


def test_classes_that_validation_cannot_judge_are_named(
    config: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = samples.opened_samples

    def with_many_labels(*arguments: Any, **options: Any) -> CachedClips:
        clips = opened(*arguments, **options)
        assert isinstance(clips, CachedClips)
        clips.multi_label, clips._labels = True, [(0,) for _ in clips._labels]
        return clips

    monkeypatch.setattr(training, "opened_samples", with_many_labels)
    train_runs(config, ["pool"])
    told = [record.getMessage() for record in caplog.records]
    assert "split val has no positive of 1 of 2 classes, and its mAP leaves out: right" in told


def test_failed_videos_are_left_out_of_training_counted_in_scores_and_told(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    assert config.dataset is not None
    for split in ("train", "test"):
        (Path(config.dataset.root) / split / "left" / "words.mp4").write_text("words")
    index(config)
    extract(config)
    (run,) = train_runs(config)
    assert (run.results.num_train_clips, run.results.num_failed_videos) == (4, 1)
    scored = evaluate_run(run.folder)
    assert (scored.result.num_videos, scored.result.num_failed) == (3, 1)
    counts = read_results(run.folder).counts
    assert counts == {"val": run.results.counts["val"], "test": scored.counts}
    assert (counts["val"].num_failed, counts["test"].num_failed) == (0, 1)
    told = [record.getMessage() for record in caplog.records]
    for split in ("train", "test"):
        assert f"1 video of split {split} has no ok clip: left out of training, counted in scores" in told

"""What evaluate does with the labels there are: none, one, many, and of failed videos."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import write_config
from tests.conftest import moving_square, tiny_stages, write_video

Command = Callable[..., Any]
Labelled = Callable[..., Path]
VIDEOS = ("a.mp4", "b.mp4", "c.mp4", "d.mp4")
BAD = "words.mp4"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pooled features of four videos, and one that cannot be opened."""
    root = tmp_path_factory.mktemp("evaluate")
    for number, name in enumerate(VIDEOS):
        write_video(root / "videos" / name, moving_square(8, 64, 48, seed=number))
    (root / "videos" / BAD).write_text("words")
    document = tiny_stages(root / "cache", root / "videos")
    del document["proposals"], document["regions"]
    document["backbones"]["tiny"] |= {"taps": ["res2"], "store": ["pooled"]}
    document["run"] |= {"executor": "inline"}
    config = check_config(document, "test")
    index(config)
    extract(config)
    return document


@pytest.fixture
def labelled(tmp_path: Path, document: dict[str, Any], kinegraph: Command) -> Labelled:
    """Gives the cache the labels of csv lines, and a config that trains on it."""

    def index_again(
        *lines: str,
        train: dict[str, Any] | None = None,
        cache: str | None = None,
        views: dict[str, Any] | None = None,
        **dataset: Any,
    ) -> Path:
        (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
        recipe = {"head": "avg_pool", "epochs": 1, "val_split": None, "run": str(tmp_path / "run")}
        changed = {"dataset": document["dataset"] | {"annotations": str(tmp_path / "list.csv")} | dataset}
        clips = {"clips": document["clips"] | (views or {}), "cache": cache or document["cache"]}
        config = write_config(tmp_path / "my.yaml", document | changed | clips | {"train": recipe | (train or {})})
        indexed = kinegraph("index", config)
        assert indexed.exit_code == 0, indexed.stderr
        return config

    return index_again


@pytest.mark.parametrize("labels", [("jump;run", "run"), ("jump", "run")], ids=["many", "one"])
def test_a_split_without_labels_gets_scores_and_no_metrics(
    labels: tuple[str, str], labelled: Labelled, kinegraph: Command, tmp_path: Path
) -> None:
    config = labelled(f"a.mp4,{labels[0]},train", f"b.mp4,{labels[1]},train", "c.mp4,,test", "d.mp4,,test",
                      f"{BAD},,test")  # fmt: skip
    assert kinegraph("train", config).exit_code == 0
    run, scores = tmp_path / "run", tmp_path / "scores.txt"
    told = kinegraph("evaluate", run, "--submission", scores)
    assert told.exit_code == 0
    assert told.stdout == "scored: 3 videos of split test. No video has a label, so there are no metrics\n"
    assert [len(line.split()) for line in scores.read_text().splitlines()] == [3, 3]
    found = json.loads(kinegraph("evaluate", run, "--json").stdout)
    unknown = kinegraph("evaluate", run, "--split", "nothing")
    assert (unknown.exit_code, "has no clip in split 'nothing'" in unknown.stderr) == (2, True)
    assert (found["metrics"], found["loss"], found["num_videos"], found["num_failed"]) == ({}, None, 3, 1)
    assert found["seconds"] > 0
    assert kinegraph("results", run).exit_code == 0


@pytest.mark.parametrize(
    ("label", "lines", "words"),
    [
        ("jump;run", ["c.mp4,,val"], "1 of 1 clips to validate on in split 'val' have no label, the first is of c.mp4"),
        ("jump", ["c.mp4,run,val", f"{BAD},,val"], f"1 of 2 clips to validate on in split 'val' .* of {BAD}: add"),
        ("jump", ["c.mp4,run,val", "d.mp4,,val"], r"1 of 2 clips to validate on in split 'val' .* of d\.mp4: add"),
    ],
    ids=["many labels", "failed", "one label"],
)
def test_missing_labels_stop_a_run_before_it_is_trained(
    label: str, lines: list[str], words: str, labelled: Labelled, kinegraph: Command, tmp_path: Path
) -> None:
    rest = {*VIDEOS, BAD} - {line.split(",")[0] for line in lines}
    others = [f"{video},{label},train" for video in sorted(rest)]
    told = kinegraph("train", labelled(*others, *lines, train={"val_split": "val"}))
    assert (told.exit_code, told.stdout) == (2, "")
    assert re.search(words, told.stderr), told.stderr
    assert "epoch" not in told.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_one_missing_label_among_others_is_named(labelled: Labelled, kinegraph: Command, tmp_path: Path) -> None:
    config = labelled("a.mp4,jump,train", "b.mp4,run,train", "c.mp4,jump,test", "d.mp4,run,test", f"{BAD},,test")
    assert kinegraph("train", config).exit_code == 0
    told = kinegraph("evaluate", tmp_path / "run", "--submission", tmp_path / "scores.txt")
    assert (told.exit_code, told.stdout) == (2, "")
    assert f"1 of 3 clips to evaluate in split 'test' have no label, the first is of {BAD}" in told.stderr


def test_a_part_of_a_data_set_says_what_labels_do_not(labelled: Labelled, kinegraph: Command, tmp_path: Path) -> None:
    """One label a video at most, of two of three classes: all the same many-label, with a column per class."""
    lines = ["a.mp4,jump,train", "b.mp4,,train", "c.mp4,run,test", "d.mp4,,test", f"{BAD},,test"]
    whole = {"classes": ["jump", "run", "sit"], "multi_label": True}
    assert kinegraph("train", labelled(*lines, **whole)).exit_code == 0
    run, scores = tmp_path / "run", tmp_path / "scores.txt"
    found = json.loads(kinegraph("evaluate", run, "--submission", scores, "--json").stdout)
    assert (found["metrics"].keys(), found["num_videos"]) == ({"mAP", "wAP"}, 3)
    assert found["classes_without_positives"] == ["jump", "sit"]
    assert [len(line.split()) for line in scores.read_text().splitlines()] == [1 + 3, 1 + 3]
    for dataset, words in (
        ({"classes": whole["classes"]}, "one label a video"),
        ({}, "it has 2 classes, not the run's 3"),
    ):
        labelled(*lines, **dataset)
        told = kinegraph("evaluate", run)
        assert told.exit_code == 2
        assert words in told.stderr


def test_equal_scores_are_ranked_in_the_order_of_the_list(
    labelled: Labelled, kinegraph: Command, tmp_path: Path
) -> None:
    """Without weights a head gives every video the same: the first in the list is ranked first."""
    lines = ["c.mp4,jump;run,train", "d.mp4,jump,train", f"{BAD},run,train"]
    assert kinegraph("train", labelled(*lines, "a.mp4,jump,test", "b.mp4,run,test")).exit_code == 0
    run, scores = tmp_path / "run", tmp_path / "scores.txt"
    weights = run / "model.safetensors"
    save_file({name: value.zero_() for name, value in load_file(weights).items()}, weights)
    record = json.loads((run / "run.json").read_bytes())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (run / "run.json").write_text(json.dumps(record | {"weights_sha256": digest}))
    for listed, of_run in (("a.mp4,jump", "b.mp4,run"), 1 / 2), (("b.mp4,run", "a.mp4,jump"), 1.0):
        labelled(*lines, *(f"{line},test" for line in listed))
        found = json.loads(kinegraph("evaluate", run, "--submission", scores, "--json").stdout)
        assert found["per_class"]["run"] == pytest.approx(of_run)
        assert [line.split()[0] for line in scores.read_text().splitlines()] == [line[0] for line in listed]


def test_a_run_on_one_view_is_scored_on_many(labelled: Labelled, kinegraph: Command, tmp_path: Path) -> None:
    lines = ["a.mp4,jump,train", "b.mp4,run,train", "c.mp4,jump,test", "d.mp4,run,test"]
    assert kinegraph("train", labelled(*lines, f"{BAD},run,train")).exit_code == 0
    run, many, slow = tmp_path / "run", str(tmp_path / "many"), str(tmp_path / "slow")
    views = labelled(*lines, cache=many, views={"per_video": 2, "crops": ["left", "right"]})
    assert kinegraph("extract", views).exit_code == 0
    scored = kinegraph("evaluate", run, "--cache", many, "--json")
    assert scored.exit_code == 0, scored.stderr
    assert json.loads(scored.stdout)["num_videos"] == 2
    assert len(CachedClips(many, ["features/tiny/res2_pooled"], "test")) == 2 * 2 * 2
    assert kinegraph("extract", labelled(*lines, cache=slow, views={"short": "loop"})).exit_code == 0
    refused = kinegraph("evaluate", run, "--cache", slow)
    assert refused.exit_code == 2
    assert "(the run's -> this cache's):\n  clips.short: 'repeat_last' -> 'loop'\n" in refused.stderr


def test_what_cannot_be_written_is_told_before_anything_is(
    labelled: Labelled, kinegraph: Command, tmp_path: Path
) -> None:
    lines = ["a.mp4,jump,train", "b.mp4,run,train", "c.mp4,jump,test", f"{BAD},run,test", "d.mp4,,val"]
    run, scores, wrong = tmp_path / "run", tmp_path / "scores.txt", tmp_path / "wrong.csv"
    wrong.write_text("class,side\nsit,left\n")
    assert kinegraph("train", labelled(*lines)).exit_code == 0
    for options, words in (
        (["--attributes", wrong], "'sit' is no class of the cache"),
        (["--confusion", tmp_path / "c.csv", "--split", "val"], "no video of split 'val' has a label"),
        (["--set", "train.epochs=3"], "only train.aggregate, train.aggregate_of, train.batch_size, run.device may"),
        (["--set", "train.aggregate=median"], "train.aggregate: Input should be 'max' or 'mean' (given 'median')"),
        (["--set", "run.device=abacus"], "run.device: given 'abacus', allowed: auto, cpu, cuda"),
    ):
        told = kinegraph("evaluate", run, "--submission", scores, *options)
        assert (told.exit_code, told.stdout, scores.exists()) == (2, "", False)
        assert words in told.stderr
    assert "1 of them without an ok clip, counted as wrong" in kinegraph("evaluate", run).stdout
    many = labelled(*lines, multi_label=True)
    assert kinegraph("train", many, "--overwrite").exit_code == 0
    told = kinegraph("evaluate", run, "--submission", scores, "--confusion", tmp_path / "c.csv")
    assert (told.exit_code, scores.exists()) == (2, False)
    assert "--confusion: the run was trained on many labels a video" in told.stderr
    assert "1 of them without an ok clip, ranked last" in kinegraph("evaluate", run).stdout


def test_a_run_knows_its_cache_from_anywhere(
    labelled: Labelled, kinegraph: Command, tmp_path: Path, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(document["cache"])
    config = labelled("a.mp4,jump,train", "b.mp4,run,train", "c.mp4,jump,test", "d.mp4,jump,test", f"{BAD},run,test")
    monkeypatch.chdir(cache.parent)
    assert kinegraph("train", config, "--set", "cache=cache").exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert kinegraph("evaluate", "run").exit_code == 0
    moved = cache.rename(cache.parent / "moved")
    try:
        lost = kinegraph("evaluate", "run")
        assert (lost.exit_code, lost.stdout) == (2, "")
        assert f"run was trained on the cache {cache}, where there is none" in lost.stderr
        assert "name it by --cache" in lost.stderr
        assert kinegraph("evaluate", "run", "--cache", moved).exit_code == 0
    finally:
        moved.rename(cache)

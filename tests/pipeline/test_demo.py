"""What `kinegraph demo` does of itself: which runs it keeps, and what it prints."""

from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cli import heads as commands
from kinegraph.cli.printing import heads as printing
from kinegraph.pipeline import demo
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.demo import demo_config, run_demo
from kinegraph.pipeline.training import table as training
from kinegraph.pipeline.training.results import read_results
from kinegraph.pipeline.training.scoring import RunScores, evaluate_run
from kinegraph.pipeline.training.table import RunsDiverged, TrainedRun
from kinegraph.stages.training.checkpoint import RunExists
from kinegraph.stages.training.clips import UnusableClips
from kinegraph.stages.training.engine import TrainingDiverged
from kinegraph.stages.training.records import RECORD_FILE
from tests.conftest import moving_square, tiny_stages, write_video

ALL_HEADS = Path(__file__).resolve().parents[2] / "examples" / "all_heads.yaml"
FEW = ["dataset.train=20", "dataset.val=10", "dataset.test=10", "run.workers=1"]
GRAPHS_ALONE = ["backbones={}", "proposals=null", "regions=null"]
OPTIONS = "options: {num_object_classes: 11, hidden: 8}"
HEADS = f"train.variants={{st_sgn: {{head: st_sgn, {OPTIONS}}}, matrix: {{head: relation_matrix, {OPTIONS}}}}}"


def _unheard(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return demo_config(ALL_HEADS, tmp_path_factory.mktemp("demo"), [*FEW, *GRAPHS_ALONE, HEADS, "train.epochs=1"])


def test_where_bf16_is_slow_networks_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "is_slow_at", lambda precision, device: precision == "bf16")
    instead = demo_config(demo.CONFIG, None)
    assert (instead.backbones["tiny"].precision, instead.train.precision) == ("fp32", "fp32")
    assert demo_config(demo.CONFIG, None, ["train.precision=bf16"]).train.precision == "bf16"
    whole = "backbones.tiny={model: tiny_i3d, weights: shipped, taps: [res4], precision: bf16}"
    for override in ("backbones.tiny.precision=bf16", whole):
        asked = demo_config(demo.CONFIG, None, [override])
        assert asked.backbones["tiny"].precision == "bf16"


def _times(config: Config) -> list[int]:
    """When each run was recorded."""
    return [path.stat().st_mtime_ns for path in sorted(Path(config.train.run).rglob(RECORD_FILE))]


def test_a_demo_that_was_cut_off_goes_on_and_one_that_was_not_starts_anew(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_demo(config, 2, _unheard)
    assert [row.name for row in first.rows] == ["st_sgn", "matrix"]
    assert [row.about for row in first.rows] == ["true positions: scene graphs", "relation_matrix"]
    printing.demo(first)
    printed = capsys.readouterr().out.splitlines()
    spread = stdev(first.rows[0].scores)
    assert f" ± {spread:.3f} " in printed[1]
    assert printed[-3] == "10 unseen test videos, 2 seeds (±: sample standard deviation)"
    runs, before = Path(config.train.run), _times(config)
    (runs / "st_sgn" / "seed1" / RECORD_FILE).unlink()
    notes: list[str] = []
    resumed = run_demo(config, 2, notes.append)
    assert [note.endswith(": kept") for note in notes[3:]] == [True, False, True, True]
    after = _times(config)
    assert after[:3] == before[:3]
    assert after[3] > before[3]
    assert [row.scores for row in resumed.rows] == [row.scores for row in first.rows]
    run_demo(config, 2, _unheard)
    assert all(new > old for new, old in zip(_times(config), after, strict=True))


def test_a_run_of_another_recipe_is_not_mixed_into_the_table(config: Config) -> None:
    run_demo(config, 1, _unheard)
    (Path(config.train.run) / "st_sgn" / "seed0" / RECORD_FILE).unlink()
    longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2})})
    with pytest.raises(RunExists, match="epochs: 1 -> 2"):
        run_demo(longer, 1, _unheard)
    run_demo(longer, 2, _unheard, overwrite=True)
    assert len(read_results(Path(config.train.run) / "matrix" / "seed0").history) == 2


def test_the_others_of_runs_that_diverge_are_compared(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = config.train.variants | {"wild": {"head": "st_sgn"}}
    train = config.train.model_copy(update={"run": f"{config.train.run}_wild", "variants": variants})
    config = config.model_copy(update={"train": train})
    train_one = training._train_one

    def diverges(job: Any) -> TrainedRun:
        if job.name == "wild":
            raise TrainingDiverged("The loss is nan.")
        return train_one(job)

    monkeypatch.setattr(training, "_train_one", diverges)
    monkeypatch.setattr(demo, "demo_config", lambda *_: config)
    for _ in range(2):  # the same command once more
        with pytest.raises(RunsDiverged, match=r"1 of 3 runs diverged: wild seed 0"):
            commands.demo(None, 1, None, overwrite=False, overrides=[])
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:3]] == ["head", "st_sgn", "matrix"]


def test_videos_without_labels_are_refused_before_heads_are_trained(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, moving_square(8, 96, 80))
    (tmp_path / "list.csv").write_text("path,label,split\na.mp4,left,train\nb.mp4,,test\n")
    document = tiny_stages(tmp_path / "cache", tmp_path / "videos")
    document["dataset"]["annotations"] = str(tmp_path / "list.csv")
    config = check_config(document | {"train": {"variants": {"avg_pool": {"head": "avg_pool"}}}}, "test")
    with pytest.raises(UnusableClips, match=r"1 of 1 clips to compare heads on in split 'test' have no label.* b\.mp4"):
        run_demo(config, 1, _unheard)
    assert not Cache(config.cache).has_stage("features/tiny")


def test_the_score_shown_is_one_that_tests_have(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_many_labels(folder: Path) -> RunScores:
        found = evaluate_run(folder)
        return replace(found, result=replace(found.result, metrics={"mAP": 0.25, "wAP": 0.5}))

    monkeypatch.setattr(demo, "evaluate_run", with_many_labels)
    apart = config.train.model_copy(update={"run": f"{config.train.run}_apart"})
    found = run_demo(config.model_copy(update={"train": apart}), 1, _unheard)
    assert [row.scores for row in found.rows] == [(0.25,), (0.25,)]
    printing.demo(found)
    assert capsys.readouterr().out.splitlines()[0].startswith("head    test mAP  parameters")

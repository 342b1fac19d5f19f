"""Killed and resumed training is training."""

import multiprocessing
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from kinegraph.stages.training import engine
from kinegraph.stages.training.engine import TrainingDiverged
from kinegraph.stages.training.evaluation import ScoresNotFinite, evaluate
from kinegraph.stages.training.records import STATE_FILE, EpochRecord, TrainResult
from kinegraph.stages.training.state import StateError, generators, set_generators
from tests.stages.training import resuming
from tests.stages.training.resuming import OPTIONS, clips, run, run_killed

TIMES = {"seconds", "clips_per_second", "waited"}


def _numbers(result: TrainResult) -> list[dict[str, Any]]:
    return [{key: value for key, value in asdict(record).items() if key not in TIMES} for record in result.history]


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL in steps before and after a state was written, in validation at an epoch's end, and after a state."""
    undisturbed, expected = run(None)
    moments = ["step:1", "step:4", "save:1", "evaluate:1", "step:3", "save:3", "evaluate:2", "step:1"]
    process = multiprocessing.get_context("spawn").Process(target=run_killed, args=(tmp_path, moments))
    process.start()
    process.join()
    assert process.exitcode == 0
    before = (tmp_path / STATE_FILE).stat().st_mtime_ns
    weights, result = run(tmp_path)
    assert (tmp_path / STATE_FILE).stat().st_mtime_ns > before, "there was something left to do"
    assert weights.keys() == undisturbed.keys()
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)
    assert _numbers(result) == _numbers(expected)
    assert (result.best_epoch, result.best_metric) == (expected.best_epoch, expected.best_metric)


def test_a_run_that_was_done_but_not_saved_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, expected = run(tmp_path)
    monkeypatch.setattr(engine, "read_batches", None)
    again, result = run(tmp_path)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert _numbers(result) == _numbers(expected)


def test_a_plateau_is_counted_over_a_pause(tmp_path: Path) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == 3:
            raise KeyboardInterrupt

    still = {"learning_rate": 1e-9, "metric": "top1", "warmup": 0, "epochs": 6, "ema": None}
    options = OPTIONS.model_copy(update=still | {"schedule": "plateau", "plateau_epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, options, on_epoch=stop)
    _, result = run(tmp_path, options)
    assert [record.learning_rate for record in result.history] == pytest.approx([1e-9] * 3 + [1e-10] * 2 + [1e-11])


def test_states_are_also_written_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(engine, "save_state", lambda path, state, of: saved.append(state["step"]))
    run(tmp_path, OPTIONS.model_copy(update={"epochs": 1, "checkpoint_steps": None}))
    assert saved == [5]
    always = {"epochs": 1, "checkpoint_steps": None, "checkpoint_minutes": 1e-9}
    run(tmp_path, OPTIONS.model_copy(update=always))
    assert saved == [5, 1, 2, 3, 4, 5]


def test_short_epochs_share_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(engine, "save_state", lambda path, state, of: saved.append(state["step"]))
    by_epochs = OPTIONS.model_copy(update={"checkpoint_steps": None})
    run(tmp_path, by_epochs)
    assert saved == [5, 20], "after the first and the last of four epochs"
    monkeypatch.setattr(engine, "STATE_SECONDS", 0.0)
    run(tmp_path, by_epochs)
    assert saved == [5, 20, 5, 10, 15, 20]


def test_the_state_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, OPTIONS.model_copy(update={"epochs": 1}))
    with pytest.raises(StateError, match=r"the beginning of another run \(epochs: 1 -> 4\).*--overwrite"):
        run(tmp_path)
    for split, seed, count in (("train", 0, 37), ("val", 1, 20)):
        fewer = {seed: clips(seed, count - 1)}
        monkeypatch.setattr(resuming, "clips", lambda seed, count, fewer=fewer: fewer.get(seed) or clips(seed, count))
        with pytest.raises(StateError, match=rf"\({split}\.clips: {count} -> {count - 1}; {split}\.digest: [^;]*\)"):
            run(tmp_path, OPTIONS.model_copy(update={"epochs": 1}))
        monkeypatch.undo()
    same = {"epochs": 1, "threads": None, "preload": True, "tensorboard": True, "checkpoint_minutes": 3.0}
    run(tmp_path, OPTIONS.model_copy(update=same))


def test_a_run_that_diverges_does_not_hinder_one_with_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_an_epoch(*arguments: Any, **keywords: Any) -> Any:
        if (tmp_path / STATE_FILE).exists():
            raise ScoresNotFinite
        return evaluate(*arguments, **keywords)

    monkeypatch.setattr(engine, "evaluate", after_an_epoch)
    every_epoch = {"epochs": 2, "checkpoint_steps": None}
    with pytest.raises(TrainingDiverged, match="after epoch 2"):
        run(tmp_path, OPTIONS.model_copy(update=every_epoch))
    monkeypatch.undo()
    run(tmp_path, OPTIONS.model_copy(update=every_epoch | {"learning_rate": OPTIONS.learning_rate / 10}))


def test_a_run_begun_on_a_cpu_may_go_on_elsewhere() -> None:
    states = generators(torch.device("cpu"))
    torch.rand(1)
    set_generators(states, torch.device("cuda"))
    assert torch.equal(torch.get_rng_state(), states["cpu"])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo ran > ran",)


def test_a_damaged_or_foreign_file_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / STATE_FILE
    path.write_bytes(b"words")
    with pytest.raises(StateError, match="is not a state of training"):
        run(tmp_path)
    torch.save({"of": {}, "state": Evil()}, path)
    with pytest.raises(StateError, match="is not a state of training"):
        run(tmp_path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s.")
    with pytest.raises(StateError, match=r"is not a state of training .*: .*more than 1000 tuples in it"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1, 2], "it is list, not"),
        ({"state": {}}, "it is a dict of 'state', not"),
        ({"of": {}, "state": []}, "it is a dict of 'of', 'state', not"),
        (Evil(), "torch cannot read it"),
    ],
)
def test_what_is_no_state_is_told_in_our_words(tmp_path: Path, content: object, why: str) -> None:
    torch.save(content, tmp_path / STATE_FILE)
    with pytest.raises(StateError, match=rf"state\.pt is not a state .* wrote: {why}.* --overwrite") as raised:
        run(tmp_path)
    assert "weights_only" not in str(raised.value)


def test_a_state_with_another_value_is_refused_or_goes_on(tmp_path: Path) -> None:
    """Each key in turn is removed, or of another type."""
    run(tmp_path)
    whole = torch.load(tmp_path / STATE_FILE, weights_only=True)
    for key in whole["state"]:
        without = {name: kept for name, kept in whole["state"].items() if name != key}
        values: tuple[object, ...] = (None, {}, -1)
        for value in values:
            torch.save(whole | {"state": without | {key: value}}, tmp_path / STATE_FILE)
            with suppress(StateError):
                run(tmp_path)
        torch.save(whole | {"state": without}, tmp_path / STATE_FILE)
        with pytest.raises(StateError, match=f"it has no `{key}`"):
            run(tmp_path)

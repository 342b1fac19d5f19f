import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kinegraph.stages.training.engine as engine
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.clips import FeaturesNotFinite, UnusableClips
from kinegraph.stages.training.engine import TrainingDiverged
from kinegraph.stages.training.evaluation import EvaluationResult, VideoScores, evaluate
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import EpochRecord, StepRecord, TrainResult
from kinegraph.stages.training.train import seeded, train

CPU = torch.device("cpu")
MakeClips = Callable[..., Any]


def _options(**values: Any) -> TrainOptions:
    return TrainOptions.model_validate({"head": "lstm", "epochs": 4, "batch_size": 8, "learning_rate": 0.02} | values)


def _run(clips: Any, val: Any, options: TrainOptions, **keywords: Any) -> tuple[Head, TrainResult]:
    with seeded(options.seed, CPU):
        head = build_head(options.head, clips.spec, clips.num_classes, **{"hidden": 16} | options.options)
    return head, train(head, clips, val, options, device=CPU, **keywords)


def _weights(head: Head) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in head.parameters()])


def _scripted_validation(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[Tensor]:
    """Validation gives `values` in turn; the list returned collects the weights that it saw."""
    seen: list[Tensor] = []

    def scripted(head: Head, *_: Any, **__: Any) -> EvaluationResult:
        seen.append(_weights(head))
        none = VideoScores(video_ids=(), scores=torch.zeros(0), labels=torch.zeros(0))
        metrics = {"top1": values[len(seen) - 1]}
        return EvaluationResult(
            metrics=metrics, loss=0.0, num_videos=1, num_failed=0, per_class=(), videos=none, seconds=1
        )

    monkeypatch.setattr(engine, "evaluate", scripted)
    return seen


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_head_learns_what_generalises(optimizer: str, multi_label: bool, make_clips: MakeClips) -> None:
    clips = make_clips(200, multi_label=multi_label)
    val = make_clips(100, multi_label=multi_label)
    rate = 0.02 if optimizer == "adamw" else 0.5
    options = _options(head="avg_pool", epochs=15, optimizer=optimizer, learning_rate=rate)
    head = build_head("avg_pool", clips.spec, 3, dropout=0.0)
    before = evaluate(head, val, options, device=CPU).metrics
    result = train(head, clips, val, options, device=CPU)
    assert result.metric == ("mAP" if multi_label else "top1")
    after = evaluate(head, val, options, device=CPU).metrics
    assert after[result.metric] == result.best_metric
    assert after[result.metric] > max(0.8, before[result.metric] + 0.2)
    assert result.history[-1].loss < 0.9 * result.history[0].loss
    assert result.num_parameters == 3 * 8 + 3
    assert not head.training


def test_the_same_seed_gives_the_same_weights_bit_for_bit(make_clips: MakeClips) -> None:
    clips, val = make_clips(), make_clips(10)
    first, first_result = _run(clips, val, _options())
    torch.rand(5)
    second, second_result = _run(clips, val, _options())
    assert torch.equal(_weights(first), _weights(second))
    assert [(r.loss, r.metrics) for r in first_result.history] == [(r.loss, r.metrics) for r in second_result.history]


def test_the_seed_decides_first_weights_order_and_dropout(make_clips: MakeClips) -> None:
    clips = make_clips(30)
    heads = [_run(clips, None, _options(seed=seed, epochs=1))[0] for seed in (0, 1)]
    assert not torch.equal(*map(_weights, heads))
    assert clips.batches[:4] != clips.batches[4:]

    same_order = make_clips(1)
    finals = []
    for seed in (0, 1):
        head = build_head("avg_pool", same_order.spec, 3, dropout=0.5)
        torch.nn.init.ones_(head.get_parameter("classifier.fc.weight"))
        train(head.eval(), same_order, None, _options(seed=seed), device=CPU)  # trains whatever its mode was
        finals.append(_weights(head))
    assert not torch.equal(*finals)


def test_global_generators_and_threads_are_left_as_they_were(make_clips: MakeClips) -> None:
    clips, threads = make_clips(5), torch.get_num_threads()
    before = torch.get_rng_state()
    seen: list[int] = []
    _run(clips, None, _options(threads=threads + 1), on_epoch=lambda _: seen.append(torch.get_num_threads()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert set(seen) == {threads + 1}


def test_every_epoch_reads_every_clip_once_in_a_new_order(make_clips: MakeClips) -> None:
    clips = make_clips(17)
    records: list[EpochRecord] = []
    _, result = _run(clips, None, _options(epochs=2), on_epoch=records.append)
    assert [len(batch) for batch in clips.batches] == [8, 8, 1, 8, 8, 1]
    read = [index for batch in clips.batches for index in batch]
    first, second = read[:17], read[17:]
    assert sorted(first) == sorted(second) == list(range(17))
    assert first != second
    assert first != sorted(first)
    assert tuple(records) == result.history
    assert [record.epoch for record in records] == [1, 2]


def test_the_loss_of_an_epoch_is_a_mean_over_clips(make_clips: MakeClips) -> None:
    clips = make_clips(9)
    head = build_head("avg_pool", clips.spec, 3, dropout=0.0)
    torch.nn.init.normal_(head.get_parameter("classifier.fc.weight"))
    logits = head({"features/tiny/res5_pooled": clips.pooled})
    expected = torch.nn.functional.cross_entropy(logits, clips.labels).item()
    result = train(head, clips, None, _options(epochs=1, learning_rate=1e-12), device=CPU)
    assert result.history[0].loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("name", ["lstm", "avg_pool"])
def test_one_clip_is_enough(name: str, multi_label: bool, make_clips: MakeClips) -> None:
    clips = make_clips(1, multi_label=multi_label, labels=torch.ones(1, 3) if multi_label else None)
    head = build_head(name, clips.spec, 3)
    assert math.isfinite(train(head, clips, clips, _options(epochs=1), device=CPU).history[0].loss)


def test_a_batch_norm_that_would_see_one_value_is_refused_in_words(make_clips: MakeClips) -> None:
    clips = make_clips(3)
    clips.pooled = torch.randn(3, 1, 8, 1, 1)  # maps: one frame with one position
    head = build_head("atr", clips.spec, 3)
    with pytest.raises(UsageError, match="Head atr has a BatchNorm, which cannot train on one clip of one frame"):
        train(head, clips, None, _options(head="atr", batch_size=2), device=CPU)
    train(head, clips, None, _options(head="atr", batch_size=3), device=CPU)


def test_the_first_of_the_best_epochs_is_kept(make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _scripted_validation(monkeypatch, [0.2, 0.6, 0.5, 0.6])
    head, result = _run(make_clips(), make_clips(), _options())
    assert (result.best_epoch, result.best_metric, len(result.history)) == (2, 0.6, 4)
    assert torch.equal(_weights(head), seen[1])
    assert not torch.equal(_weights(head), seen[3])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (None, 7)])
def test_patience_ends_training(
    patience: int | None, epochs: int, make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted_validation(monkeypatch, [0.2, 0.3, 0.1, 0.4, 0.4, 0.4, 0.5])
    _, result = _run(make_clips(), make_clips(), _options(epochs=7, patience=patience))
    assert len(result.history) == epochs


def test_without_validation_the_last_epoch_is_kept(make_clips: MakeClips) -> None:
    head, result = _run(make_clips(), None, _options(epochs=3, patience=1))
    assert (result.best_epoch, result.best_metric, result.metric) == (3, None, None)
    assert all(record.metrics == {} for record in result.history)
    shorter, _ = _run(make_clips(), None, _options(epochs=1))
    assert not torch.equal(_weights(head), _weights(shorter))


@pytest.mark.parametrize(("schedule", "expected"), [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.8536, 0.5, 0.1464])])
def test_the_learning_rate_follows_the_schedule(
    schedule: str, expected: list[float], make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(optimizer: torch.optim.AdamW) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    _run(make_clips(16), None, _options(epochs=2, schedule=schedule, learning_rate=0.5))
    assert rates == pytest.approx([0.5 * factor for factor in expected], rel=1e-3)


def test_on_a_plateau_of_the_validation_the_rate_falls(make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    _scripted_validation(monkeypatch, [0.2, 0.3, 0.3, 0.1, 0.4, 0.4])
    _, result = _run(make_clips(), make_clips(), _options(epochs=6, schedule="plateau", plateau_epochs=2))
    rates = [record.learning_rate for record in result.history]
    assert rates == pytest.approx([0.02] * 4 + [0.002] * 2)


TOO_FAST = {"learning_rate": 1e36}  # which a config may not have


def test_a_loss_that_is_not_finite_ends_training(make_clips: MakeClips) -> None:
    with pytest.raises(TrainingDiverged, match=r"epoch 1 is nan: lower this run's learning_rate \(now 1e\+36\), of"):
        _run(make_clips(), None, _options().model_copy(update=TOO_FAST))


def test_scores_that_are_not_finite_end_training(make_clips: MakeClips) -> None:
    """The last step of an epoch may spoil weights whose loss nobody sees any more."""
    with pytest.raises(TrainingDiverged, match=r"Scores after epoch 2 are not finite: lower .* \(now 1e\+36\), of"):
        _run(make_clips(4), make_clips(4), _options(batch_size=4).model_copy(update=TOO_FAST))


def test_features_that_are_not_finite_are_named(make_clips: MakeClips) -> None:
    clips, sound = make_clips(), make_clips()
    clips.pooled[13, 2, 1] = math.nan
    with pytest.raises(FeaturesNotFinite, match=r"features/tiny/res5_pooled of a clip of 013\.mp4 is not finite"):
        _run(clips, None, _options())
    with pytest.raises(FeaturesNotFinite, match=r"of 013\.mp4 is not finite"):
        _run(sound, clips, _options())


def test_what_cannot_be_learnt_from_is_refused(make_clips: MakeClips) -> None:
    with pytest.raises(ValueError, match="no ok clip to train on in split 'train'"):
        _run(make_clips(0, labels=torch.zeros(0, dtype=torch.int64)), None, _options())
    with pytest.raises(ValueError, match="2 of 3 clips to train on in split 'train' have no label"):
        _run(make_clips(3, labels=torch.tensor([-1, 0, -1])), None, _options())


def test_an_error_while_reading_ahead_is_not_lost(make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = make_clips(20)
    read = type(clips).batch

    def failing(self: Any, indices: list[int]) -> Any:
        if 13 in indices:
            raise IndexError("row 13")
        return read(self, indices)

    monkeypatch.setattr(type(clips), "batch", failing)
    with pytest.raises(IndexError, match="row 13"):
        _run(clips, None, _options())


def test_labels_that_do_not_match_the_clips_are_refused(make_clips: MakeClips) -> None:
    clips = make_clips(20)
    clips.labels = clips.labels[:15]
    with pytest.raises(UnusableClips, match=r"20 clips of 3 classes to train on in split 'train' have labels \[15\]"):
        _run(clips, None, _options())
    with pytest.raises(UnusableClips, match="has label 3; the data set has 3 classes"):
        _run(make_clips(2, labels=torch.tensor([0, 3])), None, _options())
    with pytest.raises(UnusableClips, match=r"2 clips of 3 classes .* have labels \[2, 4\]"):
        _run(make_clips(2, labels=torch.ones(2, 4)), None, _options())


def test_an_empty_validation_split_is_refused_before_training(make_clips: MakeClips) -> None:
    clips = make_clips()
    empty = make_clips(0, labels=torch.zeros(0, dtype=torch.int64), failed_labels=torch.tensor([1, 2]))
    with pytest.raises(UnusableClips, match="no ok clip to validate on in split 'val': 2 videos, all failed"):
        _run(clips, empty, _options())
    assert clips.batches == []


def test_iterations_end_within_an_epoch(make_clips: MakeClips) -> None:
    clips = make_clips(20)  # three steps an epoch
    _, result = _run(clips, None, _options(iterations=5))
    assert [len(batch) for batch in clips.batches] == [8, 8, 4, 8, 8]
    assert [record.epoch for record in result.history] == [1, 2]


@pytest.mark.parametrize(("metric", "best"), [("loss", 3), ("top5", 1)])
def test_the_named_metric_chooses_the_epoch(
    metric: str, best: int, make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([(0.5, 0.9, 2.0), (0.9, 0.2, 1.5), (0.1, 0.3, 1.0), (0.2, 0.4, 3.0)])
    none = VideoScores(video_ids=(), scores=torch.zeros(0), labels=torch.zeros(0))

    def scripted(*_: Any, **__: Any) -> EvaluationResult:
        top1, top5, loss = next(scores)
        metrics = {"top1": top1, "top5": top5}
        return EvaluationResult(
            metrics=metrics, loss=loss, num_videos=1, num_failed=0, per_class=(), videos=none, seconds=1
        )

    monkeypatch.setattr(engine, "evaluate", scripted)
    _, result = _run(make_clips(), make_clips(), _options(metric=metric, patience=3))
    assert (result.best_epoch, result.metric) == (best, metric)
    assert result.best_metric == {"loss": 1.0, "top5": 0.9}[metric]


def test_gradients_are_clipped(make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.SGD.step

    def measured(self: torch.optim.SGD) -> None:
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", measured)
    for limit in (None, 1e-3):
        _run(make_clips(16), None, _options(epochs=1, optimizer="sgd", clip_grad_norm=limit))
    assert norms[:2] > [1e-2, 1e-2]
    assert norms[2:] == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_ema_keeps_a_moving_mean_of_the_weights(make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW) -> None:
        step(self)
        seen.append(torch.cat([p.detach().flatten() for p in self.param_groups[0]["params"]]))

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    head, _ = _run(make_clips(24), None, _options(epochs=1, ema=0.75))
    expected = seen[0]  # the mean begins with the first step's weights
    for weights in seen[1:]:
        expected = 0.75 * expected + 0.25 * weights
    torch.testing.assert_close(_weights(head), expected)
    assert not torch.allclose(_weights(head), seen[-1])


def test_with_ema_a_run_keeps_the_network_that_it_has_scored(make_clips: MakeClips, tmp_path: Path) -> None:
    """Also one that was cut off. TRN's tables of indices are in no file: a head is built with them."""

    def cut_off(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    clips, val, state = make_clips(), make_clips(), tmp_path / "state.pt"
    clips.pooled, val.pooled = torch.randn(2, 40, 16, 8)
    options = _options(head="trn", ema=0.9, epochs=2, metric="loss", checkpoint_steps=3)
    head, whole = _run(clips, val, options)
    rebuilt = build_head("trn", clips.spec, 3, hidden=16)
    rebuilt.load_state_dict(head.state_dict())
    scored = whole.history[whole.best_epoch - 1].metrics
    assert evaluate(rebuilt, val, options, device=CPU).loss == scored["loss"]
    with pytest.raises(KeyboardInterrupt):
        _run(clips, val, options, on_epoch=cut_off, state_file=state)
    assert state.exists()
    resumed, result = _run(clips, val, options, state_file=state)
    assert torch.equal(_weights(resumed), _weights(head))
    assert [record.metrics for record in result.history] == [record.metrics for record in whole.history]


def test_half_precision_learns_nearly_the_same_and_is_asked_of_a_device(make_clips: MakeClips) -> None:
    clips = make_clips()
    full, half = (_run(clips, None, _options(epochs=1, precision=name))[0] for name in ("fp32", "bf16"))
    assert not torch.equal(_weights(full), _weights(half))
    torch.testing.assert_close(_weights(full), _weights(half), atol=0.05, rtol=0)
    with pytest.raises(UsageError, match="given 'fp16', allowed on cpu: fp32, bf16"):
        _run(clips, None, _options(precision="fp16"))


def test_steps_are_told_of(make_clips: MakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STEP_RECORD_SECONDS", 0.0)
    heard: list[StepRecord] = []
    _, result = _run(make_clips(17), make_clips(), _options(epochs=2), on_step=heard.append)
    assert [(record.epoch, record.step) for record in heard] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert heard[0].metric is None
    assert heard[-1].metric == ("top1", result.history[0].metrics["top1"])
    assert heard[2].loss == pytest.approx(result.history[0].loss)
    assert all(record.clips_per_second > 0 and record.num_steps == 6 for record in heard)


def test_a_metric_of_the_other_kind_of_labels_is_refused(make_clips: MakeClips) -> None:
    with pytest.raises(UsageError, match="given 'mAP', allowed where videos have one label: top1, top5, loss"):
        _run(make_clips(), make_clips(), _options(metric="mAP"))
    many = make_clips(multi_label=True)
    with pytest.raises(UsageError, match="given 'top1', allowed where videos have many labels: mAP, wAP, loss"):
        _run(many, many, _options(metric="top1"))
    assert many.batches == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parameters_may_have_a_factor_on_the_learning_rate(make_clips: MakeClips, optimizer: str) -> None:
    """The first step with a factor of 0.1 is a tenth as long."""
    clips = make_clips(4)
    options = _options(head="avg_pool", epochs=1, optimizer=optimizer, weight_decay=0.0)

    def step(factor: float) -> dict[str, Tensor]:
        factors = {"classifier.fc.weight": factor, "classifier.fc.bias": 1.0}
        with seeded(0, CPU):
            head = build_head("avg_pool", clips.spec, 3, dropout=0.0)
        before = copy.deepcopy(head.state_dict())
        head.learning_rate_factor_of = factors.__getitem__  # type: ignore[method-assign,assignment]
        train(head, clips, None, options, device=CPU)
        return {name: tensor - before[name] for name, tensor in head.state_dict().items()}

    whole, slow = step(1.0), step(0.1)
    assert whole["classifier.fc.weight"].abs().max() > 1e-3
    torch.testing.assert_close(slow["classifier.fc.weight"], 0.1 * whole["classifier.fc.weight"], rtol=1e-4, atol=1e-7)
    assert torch.equal(slow["classifier.fc.bias"], whole["classifier.fc.bias"])

"""Candidates that are trained side by side are those that are trained alone, and validation chooses one of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.candidates import CandidateHead
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import STATE_FILE, EpochRecord, TrainResult
from kinegraph.stages.training.state import load_state
from kinegraph.stages.training.train import seeded, train
from tests.stages.training.clips_in_memory import POOLED, ClipsInMemory

CPU = torch.device("cpu")
RATES, DECAYS = (0.05, 1e-3), (0.0, 0.3)
PAIRS = [(rate, decay) for decay in DECAYS for rate in RATES]


def clips(seed: int, count: int, *, multi_label: bool = False) -> ClipsInMemory:
    pooled = torch.randn(count, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    score = pooled.mean(1)[:, :3]
    labels = (score > 0).float() if multi_label else score.argmax(1)
    ids = [str(index) for index in range(count)]
    return ClipsInMemory(pooled=pooled, labels=labels, num_classes=3, video_ids=ids, failed_labels=labels[:0])


def probe(
    rates: Sequence[float],
    decays: Sequence[float],
    options: TrainOptions,
    folder: Path | None = None,
    *,
    multi_label: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    val: ClipsInMemory | None = None,
    num_train: int = 37,
) -> tuple[CandidateHead, TrainResult, dict[str, Any]]:
    """The trained head, its result, and the last state of all its candidates."""
    with seeded(options.seed, CPU):
        head = build_head(options.head, {POOLED: (4, 8)}, 3, learning_rates=rates, weight_decays=decays,
                          **options.options).double()  # fmt: skip
    assert isinstance(head, CandidateHead)
    file = folder / STATE_FILE if folder else None
    split, val = clips(0, num_train, multi_label=multi_label), val or clips(1, 20, multi_label=multi_label)
    result = train(head, split, val, options, device=CPU, on_epoch=on_epoch, state_file=file)
    return head, result, torch.load(file)["state"] if file else {}


def options(**values: Any) -> TrainOptions:
    return TrainOptions.model_validate({"head": "linear_probe", "epochs": 3, "batch_size": 8, "threads": 1} | values)


def weights_of(state: dict[str, Tensor], number: int) -> Tensor:
    prefix = f"probes.{number}."
    return torch.cat([tensor.flatten() for name, tensor in state.items() if name.startswith(prefix)])


@pytest.mark.parametrize(
    ("values", "multi_label"),
    [
        ({"clip_grad_norm": 0.05, "ema": 0.9, "warmup": 1}, False),
        ({"optimizer": "sgd", "decay_all": False, "metric": "loss"}, True),
        ({"head": "attentive_probe", "options": {"read": "pooled", "num_blocks": 1}, "epochs": 2}, False),
    ],
    ids=["clipped", "many labels", "attentive"],
)
def test_each_candidate_is_the_probe_that_is_trained_alone(
    values: dict[str, Any], multi_label: bool, tmp_path: Path
) -> None:
    chosen, result, state = probe(RATES, DECAYS, options(**values), tmp_path / "all", multi_label=multi_label)
    worth = []
    for number, (rate, decay) in enumerate(PAIRS):
        alone, single, its_state = probe(
            [rate], [decay], options(**values), tmp_path / str(number), multi_label=multi_label
        )
        torch.testing.assert_close(
            weights_of(state["head"], number), weights_of(its_state["head"], 0), rtol=0, atol=1e-12
        )
        name = f"learning rate {rate:g}, weight decay {decay:g}"
        assert result.of_candidates[name] == pytest.approx(single.best_metric, abs=1e-12)
        assert single.best_metric is not None
        worth.append(-single.best_metric if single.metric == "loss" else single.best_metric)
        if name == result.candidate:
            assert result.best_metric == pytest.approx(single.best_metric, abs=1e-12)
            assert result.num_parameters == single.num_parameters
            torch.testing.assert_close(chosen.state_dict(), alone.state_dict(), rtol=0, atol=1e-12)
            assert chosen.options == alone.options
            assert worth[-1] == max([*worth])
    assert max(worth) == pytest.approx(-result.best_metric if result.metric == "loss" else result.best_metric)
    assert len({*worth}) > 1, "the candidates differ"


def test_validation_chooses_and_not_training() -> None:
    """The labels of the validation are learnable, and then moved by one class: now the slowest candidate is best."""
    rates = (1e-7, 0.1, 1e-6)
    _, learnt, _ = probe(rates, [0.0], options(epochs=8), num_train=120)
    assert learnt.candidate == "learning rate 0.1, weight decay 0"
    assert learnt.best_metric is not None
    assert learnt.best_metric > 0.8
    moved = clips(1, 20)
    moved.labels = (moved.labels + 1) % 3
    head, result, _ = probe(rates, [0.0], options(epochs=8, metric="loss"), val=moved, num_train=120)
    assert result.candidate == "learning rate 1e-07, weight decay 0"
    assert head.options["learning_rates"] == (1e-7,)
    record = result.history[result.best_epoch - 1]
    assert record.learning_rate < 1e-7 * 1.01
    assert record.loss == max(record.loss, *(other.loss for other in result.history[result.best_epoch :]))


def test_a_run_that_was_cut_off_continues_exactly(tmp_path: Path) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    every_step = options(checkpoint_steps=1, ema=0.8)
    whole, expected, _ = probe(RATES, DECAYS, every_step)
    with pytest.raises(KeyboardInterrupt):
        probe(RATES, DECAYS, every_step, tmp_path, on_epoch=stop)
    head, result, _ = probe(RATES, DECAYS, every_step, tmp_path)
    assert all(torch.equal(head.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())
    assert (result.candidate, result.of_candidates) == (expected.candidate, expected.of_candidates)
    assert load_state(tmp_path / STATE_FILE, torch.load(tmp_path / STATE_FILE)["of"]) is not None


def test_a_candidate_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    wild = options(optimizer="sgd", clip_grad_norm=1.0, batch_size=4)
    _, result, state = probe([1e6, 0.05], [0.5], wild, tmp_path / "both")
    assert result.of_candidates["learning rate 1e+06, weight decay 0.5"] is None
    assert result.candidate == "learning rate 0.05, weight decay 0.5"
    _, _, alone = probe([0.05], [0.5], wild, tmp_path / "alone")
    assert torch.equal(weights_of(state["head"], 1), weights_of(alone["head"], 0))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"val_split": None}, "train.val_split: given null. linear_probe has 4 candidates, and validation chooses one"),
        ({"val_split": "test"}, "train.val_split: given 'test', which is also test_split. linear_probe has 4"),
        ({"schedule": "plateau"}, "train.schedule: given 'plateau', allowed for a head with 4 candidates: cosine"),
        ({"precision": "fp16"}, "train.precision: given 'fp16', allowed for a head with 4 candidates: bf16, fp32"),
    ],
)
def test_a_choice_that_nothing_can_make_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        probe(RATES, DECAYS, options(**values))


def test_one_candidate_needs_no_validation() -> None:
    with seeded(0, CPU):
        head = build_head("linear_probe", {POOLED: (4, 8)}, 3, learning_rates=[0.05], weight_decays=[0]).double()
    result = train(head, clips(0, 37), None, options(val_split=None), device=CPU)
    assert (result.candidate, result.of_candidates, result.best_epoch) == (None, {}, 3)

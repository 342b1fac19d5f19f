from collections.abc import Callable
from typing import Any

import pytest
import torch

from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.losses import class_weights, clip_loss
from kinegraph.stages.training.options import TrainOptions

MakeClips = Callable[..., Any]
BALANCED = TrainOptions(class_weights="balanced")


def test_balanced_classes_have_equal_weight_in_all(make_clips: MakeClips) -> None:
    labels = torch.tensor([0, 0, 0, 2])
    weights = class_weights(make_clips(4, labels=labels), BALANCED)
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 1.0, 4 / (2 * 1)])
    logits = torch.randn(4, 3)
    each = -logits.log_softmax(1)[torch.arange(4), labels]
    expected = (each[:3].mean() + each[3]) / 2
    assert clip_loss(logits, labels, weights).item() == pytest.approx(expected.item())


def test_balanced_positives_weigh_as_much_as_negatives(make_clips: MakeClips) -> None:
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    weights = class_weights(make_clips(4, labels=labels), BALANCED)
    assert weights is not None
    assert weights.tolist() == [3.0, 1.0, 1.0]


def test_given_weights_are_one_per_class(make_clips: MakeClips) -> None:
    assert class_weights(make_clips(), TrainOptions()) is None
    given = class_weights(make_clips(), TrainOptions(class_weights=(1, 2, 3)))
    assert given is not None
    assert given.tolist() == [1, 2, 3]
    with pytest.raises(UsageError, match=r"given 2 numbers, allowed: one for each class of the cache, 3"):
        class_weights(make_clips(), TrainOptions(class_weights=(1, 2)))

"""What reports say of kept predictions, against predictions made by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from kinegraph.pipeline.reports.predicted import Predicted
from kinegraph.pipeline.training.kept_predictions import KeptPredictions, PredictionsDocument


def kept(probabilities: Sequence[Sequence[float]], labels: Sequence[Sequence[int]], multi_label: bool) -> Predicted:
    scores = np.array(probabilities, np.float32)
    about = PredictionsDocument(
        split="test", class_names=("a", "b", "c"), multi_label=multi_label, scores_are="probabilities", clips="",
        recipe="", weights_sha256=None, kinegraph_version="",
    )  # fmt: skip
    names = [f"v{number}" for number in range(len(scores))]
    return Predicted(
        KeptPredictions(
            about=about,
            video_ids=names,
            clip_ids=[None] * len(names),
            num_clips=np.ones(len(names), np.int32),
            labels=labels,
            scores=scores,
        )
    )


NAN = float("nan")
ONE = kept(
    [
        [0.92, 0.08, 0],
        [0.2, 0.8, 0],
        [0.05, 0.95, 0],
        [0.6, 0.4, 0],
        [NAN, NAN, NAN],
        [1, 0, 0],
        [0.72, 0.28, 0],
        [0.65, 0.35, 0],
    ],
    [[0], [1], [0], [1], [0], [], [1], [1]],
    False,
)


def test_scores_and_confusions_of_one_label() -> None:
    assert ONE.num_left_out == 2  # one failed, one without a label
    assert ONE.per_class()[:2] == pytest.approx([1 / 2, 1 / 4])
    assert np.isnan(ONE.per_class()[2])
    assert ONE.confusion().tolist() == [[1, 1, 0], [3, 1, 0], [0, 0, 0]]
    assert ONE.confused(15) == [(1, 0, 3), (0, 1, 1)]


def test_mistakes_are_the_surest_ones_and_two_of_a_class() -> None:
    wrong = ONE.mistakes(12)
    assert [(it.video_id, it.true, it.predicted) for it in wrong] == [("v2", (0,), 1), ("v6", (1,), 0), ("v7", (1,), 0)]
    assert wrong[0].confidence == pytest.approx(0.95)
    assert len(ONE.mistakes(1)) == 1


def test_calibration_counts_and_error() -> None:
    found = ONE.reliability()
    assert found.counts.tolist() == [2, 1, 1, 2]  # 0.6 and 0.65, 0.72, 0.8, 0.92 and 0.95
    assert found.accuracy.tolist() == [0, 0, 1, 0.5]
    assert found.error == pytest.approx((2 * 0.625 + 0.72 + 0.2 + 2 * 0.435) / 6)


def test_several_labels() -> None:
    """Average precision of class a: its videos have ranks 1 and 3, so (1 + 2/3) / 2."""
    several = kept([[0.9, 0.1, 0.3], [0.8, 0.7, 0.2], [0.7, 0.9, 0.1]], [[0, 2], [1], [0, 1]], True)
    assert several.per_class() == pytest.approx([(1 + 2 / 3) / 2, 1, 1])
    assert several.confusion().tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]  # a is first for the video of b alone
    assert several.reliability().counts.sum() == 9
    assert [it.video_id for it in several.mistakes(5)] == ["v1"]

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.evaluation import ScoresNotFinite, evaluate
from kinegraph.stages.training.options import TrainOptions

CPU = torch.device("cpu")
POOLED = "features/tiny/res5_pooled"


class GivenLogits(Head):
    """A head whose logits are the first channels of the first frame."""

    reads = (POOLED,)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.dropout = nn.Dropout(0.9)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.dropout(batch[POOLED][:, 0, : self.num_classes])
        return logits


def _options(**values: Any) -> TrainOptions:
    return TrainOptions(batch_size=2, **values)


@pytest.fixture
def two_videos(make_clips: Callable[..., Any]) -> Any:
    """Clips of video a (rows 0, 2, 4) and b (rows 1, 3), both of class 1."""
    clips = make_clips(5, 2, labels=torch.ones(5, dtype=torch.int64), video_ids=["a", "b", "a", "b", "a"])
    clips.pooled[:, 0, :2] = torch.tensor([[3.0, 0], [0, 1], [0, 2], [0, 0], [0, 2]])
    return clips


@pytest.mark.parametrize(
    ("aggregate", "of", "of_a", "of_b"),
    [
        ("mean", "logits", [1.0, 4 / 3], [0, 0.5]),
        ("max", "logits", [3.0, 2.0], [0, 1.0]),
        ("mean", "probabilities", [0.3970, 0.6030], [0.3845, 0.6155]),
        ("max", "probabilities", [0.9526, 0.8808], [0.5, 0.7311]),
    ],
)
def test_clips_of_a_video_are_aggregated(
    aggregate: str, of: str, of_a: list[float], of_b: list[float], two_videos: Any
) -> None:
    options = _options(aggregate=aggregate, aggregate_of=of)
    result = evaluate(GivenLogits(2), two_videos, options, device=CPU)
    found = result.videos
    assert found.video_ids == ("a", "b")
    torch.testing.assert_close(found.scores, torch.tensor([of_a, of_b]).double(), atol=1e-4, rtol=0)
    assert found.labels.tolist() == [1, 1]
    expected = {"top1": ((of_a[1] > of_a[0]) + (of_b[1] > of_b[0])) / 2, "top5": 1.0}
    assert result.metrics == expected


def test_failed_videos_count_as_wrong(two_videos: Any) -> None:
    two_videos.failed_labels = torch.tensor([0, 1])
    result = evaluate(GivenLogits(2), two_videos, _options(), device=CPU)
    assert result.metrics == {"top1": 0.5, "top5": 0.5}
    assert (result.num_videos, result.num_failed) == (4, 2)
    assert result.videos.video_ids == ("a", "b", "failed0.mp4", "failed1.mp4")
    assert result.videos.scores[2:].isinf().all()
    assert result.per_class == pytest.approx((0.0, 2 / 3))


def test_charades_metrics_rank_failed_videos_last(make_clips: Callable[..., Any]) -> None:
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    clips = make_clips(3, 3, labels=labels, failed_labels=torch.tensor([[1.0, 0, 0]]))
    clips.pooled[:, 0, :3] = torch.tensor([[5.0, 2, 0], [4, 1, 0], [3, 3, 0]])
    result = evaluate(GivenLogits(3), clips, _options(aggregate_of="probabilities"), device=CPU)
    first, second = (1 + 2 / 3 + 3 / 4) / 3, (1 + 2 / 3) / 2
    assert result.metrics == pytest.approx({"mAP": (first + second) / 2, "wAP": (3 * first + 2 * second) / 5})
    assert (result.num_videos, result.num_failed, result.classes_without_positives) == (4, 1, (2,))


@pytest.mark.parametrize(("order", "second"), [(["f", "u", "a"], 2 / 2), (["u", "f", "a"], 2 / 3)])
def test_failed_videos_keep_their_place_among_the_last(
    order: list[str], second: float, make_clips: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranked a first, then the failed f and the unlabelled u, both -inf, in the order of the table."""
    labels = torch.tensor([[1.0], [0.0]])
    clips = make_clips(2, 1, labels=labels, video_ids=["a", "u"], failed_labels=torch.tensor([[1.0]]))
    monkeypatch.setattr(type(clips), "failed_videos", ["f"])
    monkeypatch.setattr(type(clips), "videos", order)
    result = evaluate(GivenLogits(1), clips, _options(), device=CPU)
    assert result.metrics["mAP"] == pytest.approx((1 + second) / 2)
    assert result.videos.video_ids == tuple(order)


def test_the_loss_is_a_mean_over_clips(two_videos: Any) -> None:
    logits = two_videos.pooled[:, 0, :2]
    expected = torch.nn.functional.cross_entropy(logits, two_videos.labels).item()
    assert evaluate(GivenLogits(2), two_videos, _options(), device=CPU).loss == pytest.approx(expected)


def test_scores_that_are_not_finite_are_no_result(two_videos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GivenLogits, "forward", lambda self, batch: batch[POOLED][:, 0, :2] * torch.nan)
    with pytest.raises(ScoresNotFinite, match="although its inputs are"):
        evaluate(GivenLogits(2), two_videos, _options(), device=CPU)


def test_large_logits_do_not_tie_as_probabilities(make_clips: Callable[..., Any]) -> None:
    clips = make_clips(2, 1, labels=torch.tensor([[0.0], [1.0]]))
    clips.pooled[:, 0, 0] = torch.tensor([20.0, 25.0])
    options = _options(aggregate_of="probabilities")
    scores = evaluate(GivenLogits(1), clips, options, device=CPU).videos.scores
    assert scores[1] > scores[0]


def test_the_head_keeps_its_mode_and_batches_stay_in_order(two_videos: Any) -> None:
    head = GivenLogits(2).train()
    evaluate(head, two_videos, _options(), device=CPU)
    assert head.training
    assert two_videos.batches == [[0, 1], [2, 3], [4]]


def test_without_a_clip_there_is_nothing_to_evaluate(make_clips: Callable[..., Any]) -> None:
    clips = make_clips(0, labels=torch.zeros(0, dtype=torch.int64), failed_labels=torch.tensor([1]))
    with pytest.raises(ValueError, match="no ok clip"):
        evaluate(GivenLogits(3), clips, _options(), device=CPU)

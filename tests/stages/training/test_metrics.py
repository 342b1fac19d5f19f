"""Cases computed by hand."""

import math

import pytest
import torch

from kinegraph.stages.training.metrics import charades_map, class_accuracy, confusion, topk

INF = math.inf


def test_topk_counts_labels_among_the_largest_scores() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    labels = torch.tensor([1, 2, 0, 0])
    assert topk(scores, labels, ks=(1, 2, 3)) == {"top1": 0.5, "top2": 0.75, "top3": 1.0}


def test_of_equal_scores_the_lower_class_is_first() -> None:
    scores = torch.zeros(4, 4)
    assert topk(scores, torch.arange(4), ks=(1, 2)) == {"top1": 0.25, "top2": 0.5}


def test_a_video_without_scores_is_wrong_even_where_k_covers_all_classes() -> None:
    scores = torch.tensor([[-INF, -INF], [1.0, -INF]])
    assert topk(scores, torch.tensor([0, 0]), ks=(1, 5)) == {"top1": 0.5, "top5": 0.5}


def test_accuracy_of_a_class_and_confusions() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [-INF, -INF, -INF], [3.0, 0.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    accuracy = class_accuracy(scores, labels)
    assert accuracy[:2].tolist() == [0.5, 0.0]
    assert accuracy[2].isnan()
    assert confusion(scores, labels).tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]


def test_average_precision_of_a_ranking() -> None:
    scores = torch.tensor([[0.9, 0.3, 0.1], [0.8, 0.9, 0.4], [0.7, 0.5, 0.3], [0.6, 0.7, 0.2]])
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 0]])
    first = (1 + 2 / 3 + 3 / 4) / 3  # positives at ranks 1, 3, 4
    second = (1 / 2 + 2 / 3) / 2  # at ranks 2, 3
    result = charades_map(scores, labels)
    assert result.per_class.tolist() == pytest.approx([first, second, 1.0])
    assert result.mean == pytest.approx((first + second + 1) / 3)
    assert result.weighted == pytest.approx((3 * first + 2 * second + 1) / 6)


def test_videos_without_a_label_are_ranked_last() -> None:
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.9], [0.7, 0.5]])
    labels = torch.tensor([[1.0, 1], [0, 0], [1, 0]])
    assert charades_map(scores, labels).per_class.tolist() == pytest.approx([1.0, 0.5])


def test_ties_keep_the_order_of_the_file() -> None:
    scores = torch.full((4, 1), 0.5)
    # file order is the ranking: positives at ranks 2 and 4 (the others have a label of another class)
    labels = torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 0]])
    result = charades_map(torch.cat([scores, scores], 1), labels)
    assert result.per_class.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, (1 / 1 + 2 / 3) / 2])


def test_missing_and_unlabelled_videos_tie_at_the_end_in_file_order() -> None:
    labels = torch.tensor([[1.0], [0], [1]])
    unlabelled_second = charades_map(torch.tensor([[2.0], [9.0], [-INF]]), labels)
    assert unlabelled_second.mean == pytest.approx((1 + 2 / 3) / 2)
    unlabelled_last = charades_map(torch.tensor([[2.0], [-INF], [9.0]]), labels[[0, 2, 1]])
    assert unlabelled_last.mean == pytest.approx((1 + 2 / 2) / 2)


def test_classes_without_positives_are_left_out() -> None:
    result = charades_map(torch.tensor([[0.2, 0.5, 0.1], [0.4, 0.5, 0.1]]), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert result.per_class[:2].tolist() == pytest.approx([0.5, 0.5])
    assert result.per_class[2].isnan()
    assert result.mean == pytest.approx(0.5)
    assert result.weighted == pytest.approx(0.5)


def test_long_rankings_agree_with_a_direct_count() -> None:
    scores = torch.randint(0, 20, (200, 5)).float()  # many ties
    labels = (torch.rand(200, 5) < 0.2).float()
    labels[:, 0] = 1
    for k in range(5):
        order = sorted(range(200), key=lambda video: (-scores[video, k].item(), video))
        seen, total = 0, 0.0
        for rank, video in enumerate(order, start=1):
            if labels[video, k]:
                seen += 1
                total += seen / rank
        assert charades_map(scores, labels).per_class[k].item() == pytest.approx(total / seen)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no video"):
        topk(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        topk(torch.zeros(2, 3), torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="NaN"):
        topk(torch.tensor([[math.nan, 1.0]]), torch.tensor([1]))
    with pytest.raises(ValueError, match="None of 2 videos has a label"):
        charades_map(torch.zeros(2, 3), torch.zeros(2, 3))

"""Sums up the predictions that `evaluate` kept for a run. Torch-free.

Shapes: V videos, K classes.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from kinegraph.pipeline.training.kept_predictions import KeptPredictions

BINS, MOST_OF_CLASS = 10, 2


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A video that a head got wrong. `confidence` is the probability of the class `predicted`, and `true` has the
    classes of the video.
    """

    video_id: str
    true: tuple[int, ...]
    predicted: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Compares confidence and truth in bins of equal width. `confidence` and `accuracy` are means of each bin with a
    count above 0, and `counts` are the numbers of predictions. `error` is the mean difference of the two, weighted by
    the counts (the expected calibration error).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float


class Predicted:
    """The predictions of a run on a split, without the videos whose clips all failed or that have no label.

    `truth` [V, K] is true for the labels of a video, and `probabilities` [V, K] are those of the head.
    """

    def __init__(self, kept: KeptPredictions) -> None:
        self.class_names = kept.about.class_names
        self.is_multi_label = kept.about.multi_label
        probabilities = kept.probabilities
        chosen = [at for at, labels in enumerate(kept.labels) if len(labels) and np.isfinite(probabilities[at]).all()]
        self.num_left_out = len(kept.video_ids) - len(chosen)
        self.video_ids = [kept.video_ids[at] for at in chosen]
        self.probabilities = probabilities[chosen]
        self.truth: np.ndarray = np.zeros(self.probabilities.shape, bool)
        for row, at in enumerate(chosen):
            self.truth[row, [*kept.labels[at]]] = True

    @property
    def predicted(self) -> np.ndarray:
        """Returns the class with the largest probability of each video, int64 [V]."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def is_right(self) -> np.ndarray:
        """Returns whether the class with the largest probability is one of the video, bool [V]."""
        return np.asarray(self.truth[np.arange(len(self.truth)), self.predicted])

    def names_of(self, video: int) -> str:
        """Returns the names of the classes of a video, with commas between them."""
        return ", ".join(self.class_names[at] for at in np.flatnonzero(self.truth[video]))

    def per_class(self) -> np.ndarray:
        """Returns a score of each class, [K], and NaN for a class without a video.

        The score is the fraction of the videos of the class that are right. If videos may have several labels, it is
        the average precision: the mean, over the videos of the class, of the precision at the rank of the video.
        """
        counts = self.truth.sum(0)
        if not self.is_multi_label:
            right = self.truth & (self.predicted[:, None] == np.arange(self.truth.shape[1]))
            return np.where(counts > 0, right.sum(0) / np.maximum(counts, 1), np.nan)
        order = np.argsort(-self.probabilities, axis=0, kind="stable")
        hits = np.take_along_axis(self.truth, order, 0)
        precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
        return np.where(counts > 0, (precision * hits).sum(0) / np.maximum(counts, 1), np.nan)

    def confusion(self) -> np.ndarray:
        """Returns a matrix of counts, int64 [K, K]. Entry (i, j) counts the videos of class i for which j is predicted.

        If videos may have several labels, as many classes are predicted for a video as it has labels. Entry (i, j)
        then counts the videos with label i for which j is predicted wrongly.
        """
        truth = self.truth.astype(np.int64)
        if not self.is_multi_label:
            guessed = (self.predicted[:, None] == np.arange(truth.shape[1])).astype(np.int64)
            return np.asarray(truth.T @ guessed)
        ranks = np.argsort(np.argsort(-self.probabilities, axis=1, kind="stable"), axis=1)
        wrong = (ranks < truth.sum(1)[:, None]) & ~self.truth
        return np.asarray(truth.T @ wrong.astype(np.int64))

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Returns the `most` most frequent confusions as (true class, predicted class, count)."""
        counts = self.confusion().copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [(int(at // len(counts)), int(at % len(counts))) for at in order]
        return [(true, guess, int(counts[true, guess])) for true, guess in pairs if counts[true, guess]]

    def mistakes(self, most: int) -> list[Mistake]:
        """Returns the `most` wrong predictions with the largest confidence, at most two of each true class."""
        confidence, guesses = self.probabilities.max(1), self.predicted
        wrong = np.flatnonzero(~self.is_right)
        of_class: Counter[int] = Counter()
        mistakes: list[Mistake] = []
        for row in wrong[np.argsort(-confidence[wrong], kind="stable")]:
            true = tuple(np.flatnonzero(self.truth[row]).tolist())
            if len(mistakes) == most:
                break
            if of_class[true[0]] < MOST_OF_CLASS:
                of_class[true[0]] += 1
                mistakes.append(
                    Mistake(
                        video_id=self.video_ids[row], true=true, predicted=int(guesses[row]),
                        confidence=float(confidence[row]),
                    )
                )  # fmt: skip
        return mistakes

    def right(self, most: int) -> list[str]:
        """Returns the ids of the `most` right predictions with the largest confidence, at most one of each predicted
        class.
        """
        confidence, guesses = self.probabilities.max(1), self.predicted
        order = [at for at in np.argsort(-confidence, kind="stable") if self.is_right[at]]
        first = {int(guesses[at]): at for at in reversed(order)}  # class -> its most confident right video
        return [self.video_ids[at] for at in order if first[int(guesses[at])] == at][:most]

    def reliability(self) -> Reliability:
        """Returns the Reliability of the largest probability of each video. If videos may have several labels, that of
        the probabilities of all classes.
        """
        if self.is_multi_label:
            confidence, is_true = self.probabilities.ravel(), self.truth.ravel()
        else:
            confidence, is_true = self.probabilities.max(1), self.is_right
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        there = counts > 0
        of_bin = [np.bincount(bins, weights=values, minlength=BINS)[there] for values in (confidence, is_true)]
        means = [values / counts[there] for values in of_bin]
        error = float((counts[there] * np.abs(means[0] - means[1])).sum() / max(1, counts.sum()))
        return Reliability(confidence=means[0], accuracy=means[1], counts=counts[there], error=error)

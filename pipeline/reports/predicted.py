"""Computes scores, confusions and mistakes from predictions that `kinegraph evaluate` wrote for a run. Torch-free.

Shapes: V videos, K classes.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from kinegraph.pipeline.training.kept_predictions import KeptPredictions

BINS, MOST_OF_CLASS = 10, 2


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A video for which a head predicted a wrong class. `predicted` is the number of the predicted class, and
    `confidence` its probability. `true` has the numbers of the true classes.
    """

    video_id: str
    true: tuple[int, ...]
    predicted: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Compares the confidence of predictions with how often they are right. The predictions are sorted by confidence
    into bins of equal width. Bins without predictions are left out.
    """

    confidence: np.ndarray  # the mean confidence in each bin, from 0 to 1
    accuracy: np.ndarray  # the share of right predictions in each bin
    counts: np.ndarray  # the number of predictions in each bin
    error: float  # the expected calibration error, which is the mean of |accuracy - confidence| over all predictions


class Predicted:
    """The predictions of one run for V videos and K classes. Videos without a label, and videos whose clips all failed,
    are left out.

    - `video_ids`, `class_names`: the V ids and the K names.
    - `truth`: bool [V, K], true for the labels of each video.
    - `probabilities`: [V, K], the scores of the head.
    - `is_multi_label`: whether videos may have several labels.
    - `num_left_out`: the number of videos that are left out.
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
        """Returns the number of the class with the largest probability for each video, int64 [videos]."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def is_right(self) -> np.ndarray:
        """Returns, for each video, whether the predicted class is a label of the video: bool [videos]."""
        return np.asarray(self.truth[np.arange(len(self.truth)), self.predicted])

    def names_of(self, video: int) -> str:
        """Returns the names of the true classes of the video number `video`, joined with commas."""
        return ", ".join(self.class_names[at] for at in np.flatnonzero(self.truth[video]))

    def per_class(self) -> np.ndarray:
        """Returns the score of each class, float64 [classes]. A class without videos has NaN.

        The score is the share of the videos of the class whose prediction is right. If videos may have several labels,
        it is the average precision: the mean of the precisions at the ranks of the videos of the class.
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
        """Returns the confusion matrix of K classes, int64 [K, K]. Entry (i, j) is the number of videos of class i for
        which class j is predicted.

        If videos may have several labels, only wrong predictions are counted, so the diagonal is 0. A video with n
        labels then has n predicted classes, those with the largest probabilities. Each wrong class j adds 1 to the
        entries (i, j) of all labels i of the video.
        """
        truth = self.truth.astype(np.int64)
        if not self.is_multi_label:
            guessed = (self.predicted[:, None] == np.arange(truth.shape[1])).astype(np.int64)
            return np.asarray(truth.T @ guessed)
        ranks = np.argsort(np.argsort(-self.probabilities, axis=1, kind="stable"), axis=1)
        wrong = (ranks < truth.sum(1)[:, None]) & ~self.truth
        return np.asarray(truth.T @ wrong.astype(np.int64))

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Returns the `most` most frequent confusions as (true class, predicted class, number of videos). Classes are
        numbers. A right prediction is no confusion.
        """
        counts = self.confusion().copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [(int(at // len(counts)), int(at % len(counts))) for at in order]
        return [(true, guess, int(counts[true, guess])) for true, guess in pairs if counts[true, guess]]

    def mistakes(self, most: int) -> list[Mistake]:
        """Returns the `most` wrong predictions with the largest confidence. At most two of them have the same true
        class.
        """
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
        """Returns the ids of the `most` videos whose right prediction has the largest confidence. No two of them have
        the same predicted class.
        """
        confidence, guesses = self.probabilities.max(1), self.predicted
        order = [at for at in np.argsort(-confidence, kind="stable") if self.is_right[at]]
        first = {int(guesses[at]): at for at in reversed(order)}  # class -> its most confident right video
        return [self.video_ids[at] for at in order if first[int(guesses[at])] == at][:most]

    def reliability(self) -> Reliability:
        """Compares the probability of the predicted class of each video with how often the prediction is right. Returns
        a Reliability. If videos may have several labels, every class of every video counts as a prediction. Such a
        prediction is right if the class is a label of the video.
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

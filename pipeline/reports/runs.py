"""Draws the figures of trained runs. Each figure of the report about runs comes from a method in this file. Imports
matplotlib. Torch-free.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from kinegraph.cache_schemas.fingerprint import canonical
from kinegraph.cache_schemas.words import counted, few_of
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.predicted import Predicted
from kinegraph.pipeline.reports.published import published
from kinegraph.pipeline.reports.varied import varied
from kinegraph.pipeline.training.breakdown import Attributes, by_attribute
from kinegraph.pipeline.training.kept_predictions import read_predictions
from kinegraph.pipeline.training.results import ResultsError, RunResults
from kinegraph.stages.pictures.bars import dots
from kinegraph.stages.pictures.lines import Line, lines
from kinegraph.stages.pictures.matrices import matrix
from kinegraph.stages.pictures.picture import WIDE, Picture
from kinegraph.stages.pictures.seeds import seed_scores

MOST_HEADS, MOST_NAMED, MOST_CLASSES = 30, 4, 40
CONTROLS = {"avg_pool", "proposal_pool", "mlp", "lstm", "trn", "conv_lstm", "conv3d", "non_local", "relation_matrix"}
BETTER_IF_SMALLER = "loss"
Group = list[tuple[Path, RunResults]]


class Runs:
    """Draws figures of trained runs. Runs that differ only in their seed count as one head. A method returns a Picture,
    a matplotlib Figure with `data` and `description`.

    - `runs`: (folder, results) of each run.
    - `num_classes`: the number of classes, for the score by chance, or None.
    - `unfinished`: the folders of runs that are not finished. No figure draws them.
    """

    def __init__(
        self,
        runs: Sequence[tuple[Path, RunResults]],
        num_classes: int | None = None,
        unfinished: Sequence[Path] = (),
    ) -> None:
        self.runs, self.unfinished = list(runs), unfinished
        self.num_classes = num_classes
        self._kept: dict[str, Predicted] = {}
        groups: dict[tuple[str, Path, str], Group] = {}
        for folder, run in self.runs:
            parent = folder.parent if folder.name == f"seed{run.seed}" else folder
            groups.setdefault((run.name, parent, canonical(run.row())), []).append((folder, run))
        names = Counter(name for name, _, _ in groups)
        places = Counter((name, parent) for name, parent, _ in groups)
        root = Path(os.path.commonpath([parent for _, parent, _ in groups]))
        self.groups: dict[str, Group] = {}
        for number, ((name, parent, _), group) in enumerate(groups.items(), 1):
            where = f" ({parent.relative_to(root)})" if names[name] > 1 and parent != root else ""
            self.groups[f"{name}{where}" + (f", recipe {number}" if places[name, parent] > 1 else "")] = group

    @property
    def split_and_metric(self) -> tuple[str, str]:
        """Returns (split, metric) by which heads are compared, for example ("test", "top1"). The split is the test
        split, if any run has scores on it.

        Raises NothingToShowError if no run has a score.
        """
        first = self.runs[0][1]
        splits = [*dict.fromkeys(split for _, run in self.runs for split in run.scores)]
        if not splits:
            raise NothingToShowError("No run has scores. `kinegraph evaluate RUN` scores one.")
        wanted = first.recipe.test_split
        split = wanted if wanted in splits else splits[-1]
        metrics = [name for _, run in self.runs for name in run.scores.get(split, {})]
        metric = (
            first.metric if first.metric in metrics else next((name for name in metrics if name != "loss"), metrics[0])
        )
        return split, metric

    def heads(self) -> Picture:
        """Draws one row for each head: a circle for the score of each seed, the mean of these scores, and their sample
        standard deviation.
        """
        split, metric = self.split_and_metric
        scored = {name: self._scores(group, split, metric) for name, group in self.groups.items()}
        scored = {name: values for name, values in scored.items() if len(values)}
        order = sorted(scored, key=lambda name: float(scored[name].mean()))[-MOST_HEADS:]
        marks = {}
        if metric == "top1" and self.num_classes:
            marks["chance"] = [1 / self.num_classes] * len(order)
        return seed_scores(
            "heads", f"Heads, {split} {metric}", order, [scored[name] for name in order], f"{split} {metric}", marks
        )

    def curves(self, metric: str) -> Picture:
        """Draws a metric of each head over the epochs. A line is the mean of the seeds, and a band shows their smallest
        and largest value.

        `metric` is "train loss", "learning rate", or a metric of the validation split, such as "top1".
        """
        series = []
        for name, group in [*self.groups.items()][:MOST_HEADS]:
            values = [_history(run, metric) for _, run in group]
            length = max(map(len, values))
            if length and any(np.isfinite(each).any() for each in values):
                padded = [np.pad(each, (0, length - len(each)), constant_values=np.nan) for each in values]
                series.append(Line(name=name, x=np.arange(1, length + 1), y=np.stack(padded)))
        if not series:
            raise NothingToShowError(f"No run has {metric} by epoch.")
        name = "".join(c if c.isalnum() else "_" for c in metric)
        axis = metric if metric in ("train loss", "learning rate") else f"validation {metric}"
        return lines(f"curves_{name}", f"{axis[:1].upper()}{axis[1:]} by epoch", series, "epoch", axis)

    def classes(self) -> Picture:
        """Draws the score of each class for two heads: the best head, and the best control (a head without a graph).
        Classes are sorted by the difference of the two scores.

        The score is the accuracy, or the average precision if videos may have several labels. If there are more than 40
        classes, the 20 with the largest and the 20 with the smallest difference are drawn. Raises ResultsError if the
        predictions of the best head are missing.
        """
        name, best = self.best()
        values = best.per_class()
        series, order = {name: values}, np.argsort(-values, kind="stable")
        control = self.control()
        if control is not None and control[0] != name:
            series[control[0]] = control[1].per_class()
            order = np.argsort(-np.nan_to_num(values - series[control[0]], nan=-2.0), kind="stable")
        return _by_class("class_scores", best, series, order)

    def classes_against(self, other: "Runs") -> Picture:
        """Draws the score of each class for two heads: one of these runs and one of the runs `other`. The two heads are
        those that the method `pair` returns. Classes are sorted by the difference of the two scores.

        Raises ResultsError if predictions are missing. Raises NothingToShowError if the two heads have different
        classes.
        """
        (name, best), (other_name, compared) = self.pair(other)
        if best.class_names != compared.class_names:
            raise NothingToShowError("The classes here and there differ, so their scores are not compared.")
        series = {f"{name} here": best.per_class(), f"{other_name} there": compared.per_class()}
        here, there = series.values()
        return _by_class("classes_against", best, series, np.argsort(-np.nan_to_num(here - there), kind="stable"))

    def pair(self, other: "Runs") -> tuple[tuple[str, Predicted], tuple[str, Predicted]]:
        """Returns two heads to compare, each as (name, predictions). The first is the best head of these runs. The
        second is the head with the same name among the runs `other`, or the best head of `other` if there is no head
        with this name.

        Raises ResultsError if predictions are missing.
        """
        name, best = self.best()
        return (name, best), other.predicted(name if name in other.ranked() else other.ranked()[0])

    def attributes(self, attributes: Attributes) -> Picture:
        """Draws the mean score of the classes that have the same value of an attribute, such as `object: ball`. Two
        heads are drawn: the best head, and the best control (a head without a graph). Values are sorted by the
        difference of the two scores.

        `attributes` is {class: {attribute: value}}. If there are more than 40 values, the 20 with the largest and the
        20 with the smallest difference are drawn.
        """
        heads = [self.best(), *([control] if (control := self.control()) is not None else [])]
        scores = {
            name: {
                f"{it.attribute}: {it.value} ({it.num_classes})": it.score
                for it in by_attribute(_scored(predicted), attributes)
            }
            for name, predicted in heads
        }
        first, *others = scores.values()
        if not first:
            raise NothingToShowError("No class with a score has an attribute.")
        gains = {value: score - (others[0][value] if others else 0.0) for value, score in first.items()}
        order = sorted(gains, key=lambda value: -gains[value])
        if len(order) > MOST_CLASSES:
            order = order[: MOST_CLASSES // 2] + order[-MOST_CLASSES // 2 :]
        drawn = {name: [of_head[value] for value in order] for name, of_head in scores.items()}
        title = "Mean score by attribute (number of classes)"
        return dots("attributes", title, order, drawn, "mean score", width=WIDE)

    def by_key(self) -> Picture:
        """Draws the score over the values of the only config key in which the heads differ, for example `options.dim`.
        Raises NothingToShowError if the heads differ in no key or in several.
        """
        split, metric = self.split_and_metric
        found = varied({name: group for name, group in self.groups.items() if len(self._scores(group, split, metric))})
        if found is None:
            raise NothingToShowError("The heads differ in no key or in several, so no score is drawn by a key.")
        seeds = {name: self._scores(self.groups[name], split, metric) for name in found.values}
        title, axis = f"{split} {metric} by {found.key}", f"{split} {metric}"
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in found.values.values()):
            labels = [str(value) for value in found.values.values()]
            return seed_scores("by_key", title, labels, [*seeds.values()], axis)
        names = sorted(found.values, key=lambda name: float(found.values[name]))
        most = max(map(len, seeds.values()))
        padded = [np.pad(seeds[name], (0, most - len(seeds[name])), constant_values=np.nan) for name in names]
        line = Line(name=found.key, x=np.array([found.values[name] for name in names]), y=np.stack(padded, 1))
        return lines("by_key", title, [line], found.key, axis, marks=True)

    def confusion(self) -> Picture:
        """Draws the confusion matrix of the best head: how many videos of each true class have each predicted class.
        Raises ResultsError if the predictions of the best head are missing.
        """
        name, best = self.best()
        counts = best.confusion()
        words = "False positives by true class" if best.is_multi_label else "Confusion"
        text = (
            f"{words} of {name} on {counted(len(best.video_ids), 'video')}: {np.trace(counts):,} are on the diagonal."
        )
        names = best.class_names
        return matrix("confusion", f"{words}, {name}", counts, names, names, "true class", "predicted class", text)

    def calibration(self) -> Picture:
        """Draws the share of right predictions of the best head against the confidence of the predictions. Raises
        ResultsError if the predictions of the best head are missing.
        """
        name, best = self.best()
        found = best.reliability()
        diagonal = Line(name="right as often as said", x=np.array([0.0, 1.0]), y=np.array([[0.0, 1.0]]))
        own = Line(name=name, x=found.confidence, y=found.accuracy[None])
        picture = lines(
            "calibration", f"Calibration, {name}", [own, diagonal], "confidence", "share right", bounds=(0, 1)
        )
        picture.description += (
            f" The expected calibration error is {found.error:.3f} over {found.counts.sum():,} predictions."
        )
        return picture

    def best(self) -> tuple[str, Predicted]:
        """Returns (name, predictions) of the head with the best mean score. The predictions are those of its first
        seed.

        Raises ResultsError if the predictions are missing. Raises NothingToShowError if no run has a score.
        """
        return self.predicted(self.ranked()[0])

    def control(self) -> tuple[str, Predicted] | None:
        """Returns (name, predictions) of the best control, which is a head without a graph. Returns None if there is no
        control with predictions, or if its classes differ from those of the best head.
        """
        means = {
            name: value for name, value in self._means().items() if self.groups[name][0][1].recipe.head in CONTROLS
        }
        try:
            control = self.predicted(max(means, key=lambda name: means[name])) if means else None
        except ResultsError:
            return None
        return control if control and control[1].class_names == self.best()[1].class_names else None

    def _means(self) -> dict[str, float]:
        split, metric = self.split_and_metric
        scores = {name: self._scores(group, split, metric) for name, group in self.groups.items()}
        sign = -1 if metric == BETTER_IF_SMALLER else 1
        return {name: sign * float(values.mean()) for name, values in scores.items() if len(values)}

    def ranked(self) -> list[str]:
        """Returns the names of all heads that have a score, best head first. Raises NothingToShowError if no run has a
        score.
        """
        means = self._means()
        return sorted(means, key=lambda name: -means[name])

    def predicted(self, name: str) -> tuple[str, Predicted]:
        """Returns (`name`, predictions) of the head called `name`. The predictions are those of its first seed. Raises
        ResultsError if the predictions are missing.
        """
        if name not in self._kept:
            self._kept[name] = Predicted(read_predictions(self.groups[name][0][0], self.split_and_metric[0]))
        return name, self._kept[name]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Returns (header, rows) of the table of heads as texts. The head with the best score comes first."""
        try:
            split, metric = self.split_and_metric
        except NothingToShowError:
            split, metric = "", ""
        rows = []
        for name, group in self.groups.items():
            results = [run for _, run in group]
            values = self._scores(group, split, metric)
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            text = f"{values.mean():.3f}{spread}" if len(values) else "-"
            epochs = ", ".join(f"{run.best_epoch} of {len(run.history)}" for run in results[:5])
            counts = results[0].counts.get(split)
            recipe = results[0].recipe
            rows.append([
                name, str(len(group)), text, f"{counts.num_videos:,}" if counts else "-",
                f"{results[0].num_parameters:,}", f"{mean(run.seconds for run in results):.1f}", epochs,
                published(recipe.head, recipe.options),
            ])  # fmt: skip
        rows.sort(key=lambda row: (row[2] == "-", -float(row[2].partition(" ")[0]) if row[2] != "-" else 0.0))
        score = f"{split} {metric}" if split else "score"
        header = [
            "head",
            "seeds",
            score,
            "videos",
            "parameters",
            "seconds",
            "best epoch",
            "published",
        ]
        return header, rows

    def attention(self) -> Iterator[tuple[str, str]]:
        """Yields the warnings about the runs that the report shows at its top, for example that a run is not finished.
        Each warning is (sentence, section). The section is the key of the report's section with the details, such as
        "heads" or "learning".
        """
        if self.unfinished:
            yield unfinished_sentence(self.unfinished), "heads"
        if late := [name for name, group in self.groups.items() if any(_is_unfinished(run) for _, run in group)]:
            text = f"{few_of(late, MOST_NAMED)}: the best epoch is among the last, so training may not have converged."
            yield f"{text} Train longer (train.epochs).", "learning"
        failed = [
            name
            for name, group in self.groups.items()
            if any(c.num_failed for _, r in group for c in r.counts.values())
        ]
        if failed:
            yield f"Scores of {few_of(failed, MOST_NAMED)} count videos without an ok clip as wrong.", "heads"
        caches = sorted({run.cache for _, run in self.runs})  # heads of one cache read different arrays of it
        if len(caches) > 1 and len({run.cache_fingerprint for _, run in self.runs}) > 1:
            text = f"The runs were trained on {len(caches)} caches ({few_of(caches, MOST_NAMED)})."
            yield f"{text} Scores on different features are no comparison of heads.", "heads"
        if random := sorted({key for _, run in self.runs for key in run.random_weights or ()}):
            yield f"Runs read stages of random weights ({few_of(random, MOST_NAMED)}).", "heads"

    def _scores(self, group: Group, split: str, metric: str) -> np.ndarray:
        scores = [run.scores[split][metric] for _, run in group if metric in run.scores.get(split, {})]
        return np.array(scores)


def unfinished_sentence(folders: Sequence[Path]) -> str:
    """Returns a sentence that names the `folders` of runs that are left out because they are not finished."""
    text = few_of([str(folder) for folder in folders], MOST_NAMED)
    runs = counted(len(folders), "run is not finished", "runs are not finished")
    return f"{runs}, so no score or figure has them ({text}). `kinegraph train CONFIG` goes on."


def _by_class(name: str, predicted: Predicted, series: Mapping[str, np.ndarray], order: np.ndarray) -> Picture:
    """Draws the scores of classes, one row per class. `series` is {name of a head: score of each class}. `order` has
    the numbers of the classes from top to bottom. A class without a score is left out. If there are more than 40
    classes, the first 20 and the last 20 are drawn.
    """
    scored = np.isfinite(np.stack([*series.values()])).all(0)
    order = np.array([at for at in order if scored[at]], int)
    if len(order) > MOST_CLASSES:
        order = np.concatenate([order[: MOST_CLASSES // 2], order[-MOST_CLASSES // 2 :]])
    score = "average precision" if predicted.is_multi_label else "accuracy"
    drawn = {key: scores[order] for key, scores in series.items()}
    labels = [predicted.class_names[at] for at in order]
    return dots(name, f"{score.capitalize()} by class", labels, drawn, score, width=WIDE)


def _scored(predicted: Predicted) -> dict[str, float]:
    """Returns {class: score} of the classes that have a score."""
    scores = zip(predicted.class_names, predicted.per_class().tolist(), strict=True)
    return {name: score for name, score in scores if score == score}


def _history(run: RunResults, metric: str) -> np.ndarray:
    """Returns the values of `metric` in the epochs of a run, float [epochs]. An epoch without a value has NaN."""
    keys = {"train loss": "loss", "learning rate": "learning_rate"}
    if metric in keys:
        return np.array([record.get(keys[metric], np.nan) for record in run.history], float)
    return np.array([record.get("metrics", {}).get(metric, np.nan) for record in run.history], float)


def _is_unfinished(run: RunResults) -> bool:
    """Returns whether the best epoch is among the last 5 % of the epochs, so that longer training may help. Returns
    False for a run without validation.
    """
    return run.metric is not None and len(run.history) > 1 and run.best_epoch > 0.95 * len(run.history)

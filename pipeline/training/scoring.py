"""Scores a trained run on a split, for `kinegraph evaluate`, and writes the scores to files for other tools."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_fingerprint, features_options
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.errors import CacheNotFound
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.fingerprint import differences
from kinegraph.pipeline.caches.advice import random_in_cache
from kinegraph.pipeline.config import Config, apply_override, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.training.kept_predictions import (
    KeptPredictions,
    PredictionsDocument,
    recipe_digest,
    write_predictions,
)
from kinegraph.pipeline.training.results import OLDER, RESULTS_FILE, RunResults, SplitCounts, add_scores, read_results
from kinegraph.pipeline.training.samples import opened_samples
from kinegraph.pipeline.training.tails import require_whole_maps
from kinegraph.pipeline.training.trainable import spec_of
from kinegraph.stages.datasets.folders import VIDEO_SUFFIXES
from kinegraph.stages.device import pick_device
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.checkpoint import (
    SIDE_KEYS,
    Features,
    RunError,
    RunRecord,
    for_views,
    is_trained,
    load_record,
    load_run,
    require_fit,
    require_same_features,
    require_same_kind_of_labels,
)
from kinegraph.stages.training.clips import clips_identity, is_labelled
from kinegraph.stages.training.evaluation import EvaluationResult, evaluate
from kinegraph.stages.training.metrics import confusion
from kinegraph.stages.training.records import RECORD_FILE
from kinegraph.stages.training.videos import CachedVideos, Samples

log = logging.getLogger("kinegraph")
SUBMISSION_FORMS = ("charades", "something_v1", "something_v2")
OVERRIDABLE = ("train.aggregate", "train.aggregate_of", "train.batch_size", "run.device")


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """The scores of a trained run on one split."""

    result: EvaluationResult  # the metrics, and the scores and labels of all videos
    class_names: tuple[str, ...]  # the names of all classes
    split: str  # the name of the split
    counts: SplitCounts  # the numbers of videos and clips
    num_parameters: int  # the number of parameters of the head
    random_weights: tuple[str, ...] = ()  # the keys of the stages with random weights that the run reads
    predictions: Path | None = None  # the path of predictions-<split>.parquet, or None if this file was not written

    @property
    def is_labelled(self) -> bool:
        """Returns whether the split has labels. Without labels there are no metrics."""
        return bool(self.result.metrics)

    @property
    def absent_classes(self) -> list[str]:
        """Returns the names of the classes that no video of the split has. These classes have no score, and mean scores
        leave them out.
        """
        return [self.class_names[class_index] for class_index in self.result.classes_without_positives]

    def per_class(self) -> dict[str, float]:
        """Returns a dict {name of a class: score} of the classes that a video of the split has.

        The score is the average precision if a video may have several labels. Otherwise it is the fraction of the
        videos of the class that are classified correctly.
        """
        values = zip(self.class_names, self.result.per_class, strict=True)
        return {name: value for name, value in values if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        """Returns the scores as a dict for `evaluate --json`."""
        return {
            "split": self.split,
            "metrics": self.result.metrics,
            "loss": self.result.loss if self.is_labelled else None,
            **self.counts.model_dump(),
            "seconds": round(self.result.seconds, 3),
            "random_weights": [*self.random_weights],
            "per_class": self.per_class(),
            "classes_without_positives": self.absent_classes,
        }


def evaluate_run(
    folder: Path | str,
    cache: Path | str | None = None,
    split: str | None = None,
    overrides: Sequence[str] = (),
    *,
    needs_labels: bool = False,
    allow_code: bool = False,
) -> RunScores:
    """Scores the trained run in `folder` on one split of a cache and returns the scores.

    - `cache`: the path or URL of the cache. Default: the cache on which the run was trained.
    - `split`: the name of the split. Default: the test split of the run.
    - `overrides`: texts "section.key=value", for the keys in OVERRIDABLE.
    - `needs_labels`: whether a split without labels is an error. Otherwise it has scores and no metrics.
    - `allow_code`: whether the source code of a user's own head may run.

    If `cache` is None and no override changes scores, results.json and predictions-<split>.parquet in `folder` are
    written.

    Raises RunError if `folder` has no complete run or the run does not fit the cache. Raises CacheError for a cache
    that cannot be used. Raises UsageError for a split without clips, or for an override that is not allowed.
    """
    folder = Path(folder)
    head, record = load_run(folder, allow_code=allow_code)
    settings = _settings(record, overrides)
    options, device = settings.train.recipe, pick_device(settings.run.device)
    opened, split = _cache_of(record, folder, cache), split or record.train.test_split
    is_other, spec = cache is not None, spec_of(opened)
    require_fit(record, spec, tuple(opened.classes), any_side=is_other)
    head = for_views(head, folder, record, spec, allow_code=allow_code)
    require_whole_maps(opened, head)
    clips = opened_samples(opened, head, split, options)
    before = features_fingerprint(opened, head.reads, before_upgrade=True)
    features = features_options(opened, head.reads)
    require_same_features(record, features, clips.cache_fingerprint, before, any_side=is_other)
    _tell_of_sides(record, features)
    require_same_kind_of_labels(record, clips)
    if needs_labels and not is_labelled(clips):
        raise UsageError(f"--confusion, --attributes: no video of split {split!r} has a label")
    counts = SplitCounts.of(clips, clips_identity(clips)["digest"])
    result = evaluate(head.to(device), clips, options, device=device, purpose=f"evaluate in split {split!r}")
    scores = RunScores(
        result=result,
        class_names=tuple(opened.classes),
        split=split,
        counts=counts,
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        random_weights=tuple(random_in_cache(opened, head.reads)),
    )
    as_trained = options.model_copy(update={"batch_size": record.train.batch_size}) == record.train
    if cache is None and as_trained:
        scores = replace(scores, predictions=write_predictions(folder, _predictions(record, scores, clips)))
        if scores.is_labelled and (folder / RESULTS_FILE).exists():
            as_validated = {"loss": result.loss} if split == options.val_split else {}
            add_scores(folder, split, result.metrics | as_validated, counts)
        elif scores.is_labelled:
            log.warning("%s %s Its metrics are not kept.", folder, OLDER)
    return scores


def _tell_of_sides(record: RunRecord, features: Features) -> None:
    """Logs each backbone whose input had another size in the training of the run than in this cache, for example 224 px
    and 256 px.

    `record` is the record of the run. `features` maps the keys of the stages of this cache to their options.
    """
    for key, options in features.items():
        before = (record.features or {}).get(key, options)
        trained, cached = ({name: each.get(name) for name in SIDE_KEYS} for each in (before, options))
        if changed := differences(trained, cached):
            log.info("%s: squares of another side than in the training: %s", key, ", ".join(changed))


def _predictions(record: RunRecord, scores: RunScores, clips: Samples) -> KeptPredictions:
    """Returns the content of predictions-<split>.parquet for the scores `scores` of the samples `clips`."""
    videos, clips_of = scores.result.videos, _clips_of(clips)
    num_clips = [len(clips_of.get(video, ())) for video in videos.video_ids]
    in_classes = (row.nonzero().flatten() if row.ndim else row[row >= 0] for row in videos.labels)
    return KeptPredictions(
        about=PredictionsDocument(
            split=scores.split,
            class_names=scores.class_names,
            multi_label=record.multi_label,
            scores_are=record.train.aggregate_of,
            clips=scores.counts.digest,
            recipe=recipe_digest(record.train, record.cache_fingerprint, record.trained_on),
            weights_sha256=record.weights_sha256,
            kinegraph_version=version("kinegraph"),
        ),
        video_ids=videos.video_ids,
        clip_ids=[
            clips_of[video][0] if count == 1 else None for video, count in zip(videos.video_ids, num_clips, strict=True)
        ],
        num_clips=np.array(num_clips, np.int32),
        labels=[row.tolist() for row in in_classes],
        scores=videos.scores.masked_fill(videos.scores == -torch.inf, torch.nan).numpy().astype(np.float32),
    )


def _clips_of(samples: Samples) -> dict[str, list[str]]:
    """Returns a dict {video id: ids of its clips} for all videos in `samples`. If a sample is a whole video, its clips
    are its windows.
    """
    clips = samples.clips if isinstance(samples, CachedVideos) else samples
    clip_ids, clips_of = clips.cache.clips.column("clip_id"), dict[str, list[str]]()
    for video, row in zip(clips.video_ids, clips.rows.tolist(), strict=True):
        clips_of.setdefault(video, []).append(str(clip_ids[row]))
    return {video: clips_of[video] for video in samples.video_ids}


def runs_below(root: Path) -> list[Path]:
    """Returns the sorted folders of all runs below `root`. Returns [root] if `root` is a run or has no run below it."""
    if is_trained(root):
        return [root]
    return sorted(path.parent for path in root.rglob(RECORD_FILE)) or [root]


def in_table(folder: Path, scored: RunScores) -> RunResults:
    """Returns the results of the run in `folder` for a table of runs, with the scores `scored` in place of all earlier
    scores.

    All other values come from results.json, or from run.json if an earlier version wrote no results.json.
    """
    scores = {scored.split: scored.result.metrics} if scored.is_labelled else {}
    alone: dict[str, Any] = {"scores": scores, "counts": {scored.split: scored.counts} if scores else {}}
    if (folder / RESULTS_FILE).exists():
        return read_results(folder).model_copy(update=alone)
    record = load_record(folder)
    recorded: dict[str, Any] = {
        "name": folder.parent.name if folder.name == f"seed{record.train.seed}" else record.head,
        "seed": record.train.seed,
        "recipe": record.train,
        "num_parameters": scored.num_parameters,
        "metric": next(iter(scored.result.metrics), None),
        "seconds": math.nan,
    }
    copied = record.model_dump(include={"cache", "cache_fingerprint", "trained_on"})
    return RunResults.model_construct(**copied, **recorded, **alone)


def _settings(record: RunRecord, overrides: Sequence[str]) -> Config:
    """Returns a config with the cache and the training options of a trained run. `overrides` are texts
    "section.key=value" that change it.

    Raises ConfigError for a key that may not be changed and for a value that is not allowed.
    """
    document: dict[str, Any] = {"cache": record.cache, "train": record.train.model_dump(mode="json")}
    for override in overrides:
        if override.partition("=")[0] not in OVERRIDABLE:
            raise ConfigError(f"--set {override}: of a trained run only {', '.join(OVERRIDABLE)} may be set")
        apply_override(document, override)
    return check_config(document, "--set")


def _cache_of(record: RunRecord, folder: Path, cache: Path | str | None) -> Cache:
    """Returns the cache at `cache`. If `cache` is None, returns the cache on which the run in `folder` was trained, as
    its record `record` says.

    Raises RunError if the cache of the run is not at its recorded path. Raises CacheNotFound if there is no cache at
    `cache`.
    """
    if cache is not None:
        return Cache(cache)
    try:
        return Cache(record.cache)
    except CacheNotFound as error:
        raise RunError(
            f"{folder} was trained on the cache {record.cache}, where there is none (looked from {Path.cwd()}). If it "
            "lies elsewhere now, name it by --cache."
        ) from error


def require_one_label(record: RunRecord) -> None:
    """Raises UsageError if a video of the run of `record` may have several labels, because a confusion matrix needs one
    label per video.
    """
    if record.multi_label:
        raise UsageError("--confusion: the run was trained on many labels a video; a matrix takes one label a video")


def write_submission(scored_run: RunScores, path: Path, form: str = "charades") -> int:
    """Writes the scores in `scored_run` to the file `path`, in the format of the official scorer of a data set. Returns
    the number of lines.

    Each line has the id of a video, followed by a text that depends on `form`:

    - "charades": the score of each class, separated by spaces.
    - "something_v1": a semicolon and the name of the best class.
    - "something_v2": the numbers of the five best classes, best first, separated by semicolons.

    The id is the name of the video file without folder and suffix, or `<file>@<start>-<end>` for an interval. A video
    whose clips all failed has no line. Raises UsageError if two ids are equal, if an id contains a separator, or if
    videos may have several labels and `form` has one class per video.
    """
    videos = scored_run.result.videos
    if form != "charades" and videos.labels.ndim == 2:
        raise UsageError(f"--submission-format {form}: has one class a video, and videos here may have several labels")
    scored = (videos.scores > -torch.inf).any(1).tolist()
    lines: dict[str, str] = {}
    for video, row, has_scores in zip(videos.video_ids, videos.scores, scored, strict=True):
        file = PurePosixPath(video)
        name = file.stem if file.suffix.lower() in VIDEO_SUFFIXES else file.name
        if any(map(str.isspace, name)):
            raise UsageError(f"--submission: {video} has a space in its id, but spaces end ids: rename the video")
        if form != "charades" and ";" in name:
            raise UsageError(f"--submission: {video} has a semicolon in its id, but semicolons end ids: rename it")
        if name in lines:
            raise UsageError(f"--submission: two videos have the id {name!r}, one of them is {video}; ids must differ")
        if has_scores:
            lines[name] = f"{name}{_submitted(row, scored_run.class_names, form)}\n"
    write_whole(path, ["".join(lines.values()).encode()])
    return len(lines)


def _submitted(scores: Tensor, class_names: Sequence[str], form: str) -> str:
    """Returns the text after the id in a video's line of a submission, in the format `form`. `scores` [K] has the
    scores of the video for K classes.
    """
    if form == "charades":
        return "".join(f" {value!r}" for value in scores.tolist())
    best = scores.argsort(descending=True, stable=True)[: 1 if form == "something_v1" else 5].tolist()
    return "".join(f";{class_names[index] if form == 'something_v1' else index}" for index in best)


def write_confusion(scored_run: RunScores, path: Path) -> None:
    """Writes the confusion matrix of `scored_run` to the csv file `path`, with a line per true class and a column per
    predicted class.

    The last column, "failed", counts the videos whose clips all failed.
    """
    videos = scored_run.result.videos
    counts = confusion(videos.scores, videos.labels).tolist()
    header = ["class", *scored_run.class_names, "failed"]
    lines = ([name, *row] for name, row in zip(scored_run.class_names, counts, strict=True))
    write_whole(path, [csv_text([header, *lines]).encode()])

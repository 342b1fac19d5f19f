"""`kinegraph predict` scores videos that are in no cache with a trained run."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, Interval
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.fingerprint import are_imported
from kinegraph.cache_schemas.reader import CROP, CachedClips
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import Plan, make_plan
from kinegraph.pipeline.config import Config, apply_override, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.networks import Loaded
from kinegraph.pipeline.extraction.progress import Progress, clips_of
from kinegraph.pipeline.extraction.run import failures
from kinegraph.pipeline.extraction.worker import Worker
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folders import below_folder
from kinegraph.stages.datasets.options import FolderOptions
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.device import pick_device
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.remote.staging import Staging
from kinegraph.stages.remote.urls import is_url, located
from kinegraph.stages.training.checkpoint import RunError, RunRecord, load_head, load_record, require_same_features
from kinegraph.stages.training.evaluation import clip_logits, joined, probabilities
from kinegraph.stages.training.records import RECORD_FILE

VIDEOS_AT_ONCE = 64  # whose features lie in the temporary folder at a time
SPLIT = "predict"
OnProgress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The probabilities [num_classes] of one clip. The clip lasts from `start` to `end`, in seconds of the video, and
    does not include `end`.
    """

    start: float
    end: float
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The scores of one video, or the reason why it has none.

    `scores` [num_classes] float64 are the mean or the maximum over the clips of the video, as in `evaluate`.
    `probabilities` [num_classes] are computed from `scores`. `clips` are in the order of time. If some clips failed,
    `scores` are computed from the other clips. If all clips failed, `scores` and `probabilities` are None, and `clips`
    is empty. `failure` is the reason of the first failed clip, or "" if no clip failed. `num_failed` is the number of
    failed clips.
    """

    video: str
    clips: tuple[ClipScores, ...]
    scores: Tensor | None = None
    probabilities: Tensor | None = None
    failure: str = ""
    num_failed: int = 0

    def to_json(self, class_names: Sequence[str], top: int) -> dict[str, Any]:
        """Returns the document that `predict --json` prints: the `top` best classes of the video and of each clip."""
        clips = [
            {"start": clip.start, "end": clip.end, "classes": best(clip.probabilities, class_names, top)}
            for clip in self.clips
        ]
        classes = [] if self.probabilities is None else best(self.probabilities, class_names, top)
        failed = {"failure": self.failure or None, "failed_clips": self.num_failed}
        return {"video": self.video, "classes": classes, "clips": clips, **failed}


def best(probabilities: Tensor, class_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Returns a dict with the keys `name` and `score` for each of the `top` best classes, best first. `score` is the
    probability. Classes with equal probabilities keep their order.
    """
    order = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return [{"name": class_names[index], "score": round(float(probabilities[index]), 6)} for index in order]


class Predictor:
    """A trained run that scores videos. The first call of `predict` loads the networks. Later calls use them again.

    `folder` is the folder of the run. The run records how its features are made. `recipe` is a config that replaces
    this record. `overrides` are keys of the section `run` (`run.device=cpu`). If the head is a user's own, its source
    code lies in `folder` and runs only with `allow_code`. Without `allow_code`, the constructor raises RunError for
    such a head. The constructor also raises RunError if the run does not record how its features are made, or if its
    features were imported. It raises ConfigError for an override that is not allowed.
    """

    def __init__(
        self,
        folder: Path | str,
        recipe: Recipe | None = None,
        overrides: Sequence[str] = (),
        *,
        allow_code: bool = False,
    ) -> None:
        self.folder, self.record = Path(folder), load_record(Path(folder))
        self.config = _config(self.folder, self.record, recipe, overrides)
        self.head = load_head(self.folder, self.record, allow_code=allow_code)
        self.class_names = self.record.class_names
        self._loaded: Loaded | None = None

    def predict(
        self,
        videos: Sequence[str | Path],
        *,
        window_seconds: float | None = None,
        on_progress: OnProgress = lambda what, done, total: None,
    ) -> Iterator[Prediction]:
        """Yields one prediction for each video, in order. `videos` are files, URLs, and folders of videos. A path that
        occurs several times is scored once.

        With `window_seconds`, each video is cut into windows of that length, and its prediction has one clip or more
        for each window. The last window ends with the video and has 0.5 to 1.5 times that length. A video shorter than
        1.5 times that length is not cut. Frames are sampled from each window as from a whole video. Features are made
        in a temporary folder, for 64 videos at a time.

        Raises DatasetError for a folder without a video, WeightsError if weights cannot be read, and RunError if the
        weights, or the rules for decoding, are not those that the run was trained with.
        """
        files = [*dict.fromkeys(_files(videos))]
        for first in range(0, len(files), VIDEOS_AT_ONCE):
            group = files[first : first + VIDEOS_AT_ONCE]
            with tempfile.TemporaryDirectory(prefix="kinegraph-") as folder:
                yield from self._predicted(group, Path(folder), window_seconds, on_progress)

    def _predicted(
        self, videos: Sequence[str], folder: Path, window_seconds: float | None, on_progress: OnProgress
    ) -> Iterator[Prediction]:
        cache, plan = self._extracted(videos, folder, window_seconds, on_progress)
        rows, clips = [*cache.clips.rows()], CachedClips(cache, self.head.reads)
        reasons: dict[str, list[str]] = {}  # video -> reason of each failed clip
        video_of = {row.clip_id: row.video_name for row in rows}
        for failure in failures(cache, plan):
            reasons.setdefault(video_of[failure.clip_id], []).append(f"{failure.reason}: {failure.detail}")
        ok = [rows[index] for index in clips.rows]
        device, batch_size = pick_device(self.config.run.device), self.record.train.batch_size
        logits = clip_logits(self.head.to(device), clips, batch_size, device) if ok else torch.empty(0)
        for video in videos:
            name = _listed_as(video)
            chosen = [index for index, row in enumerate(ok) if row.video_name == name]
            yield self._prediction(video, [ok[index] for index in chosen], logits[chosen], reasons.get(name, []))

    def _prediction(self, video: str, rows: Sequence[ClipRow], logits: Tensor, reasons: Sequence[str]) -> Prediction:
        failure = next(iter(reasons), "")
        if not rows:
            return Prediction(video=video, clips=(), failure=failure, num_failed=len(reasons))
        options, many = self.record.train, self.record.multi_label
        (scores,) = joined(logits, torch.zeros(len(rows), dtype=torch.int64), 1, options, multi_label=many)
        of_clips = probabilities(logits, multi_label=many)
        clips = [
            ClipScores(start=row.start_seconds, end=row.end_seconds, probabilities=one)
            for row, one in zip(rows, of_clips, strict=True)
        ]
        are_logits = options.aggregate_of == "logits"
        return Prediction(
            video=video,
            clips=tuple(sorted(clips, key=lambda clip: (clip.start, clip.end))),
            scores=scores,
            probabilities=probabilities(scores, multi_label=many) if are_logits else scores,
            failure=failure,
            num_failed=len(reasons),
        )

    def _extracted(
        self, videos: Sequence[str], folder: Path, window_seconds: float | None, on_progress: OnProgress
    ) -> tuple[Cache, Plan]:
        """Extracts from the videos the arrays that the head reads. Returns the new cache in `folder`, and its plan."""
        listed = folder / "videos.csv"
        with Staging(self.config.run.staging) as staging:
            lines = ([video, "", *window] for video in videos for window in _windows(video, window_seconds, staging))
            listed.write_text(csv_text([["path", "label", "start", "end"], *lines]), encoding="utf-8")
        dataset = FolderOptions(
            kind="folder", root=".", annotations=str(listed), classes=self.class_names, splits={SPLIT: 1.0},
            multi_label=self.record.multi_label,
        )  # fmt: skip
        config = self.config.model_copy(update={"cache": str(folder / "cache"), "dataset": dataset})
        cache = index(config, on_progress).cache
        keys = self._keys()
        plan = make_plan(config, cache, stages=keys)
        with closing(Progress(clips_of(cache, plan.units), "predict")) as progress:
            worker = Worker(config, cache, plan.keys, progress, loaded=self._loaded and self._loaded.moved_to(cache))
            if self._loaded is None:
                require_same_features(self.record, *worker.loaded.declared.made(keys))
            self._loaded = worker.loaded
            worker.run(plan.units, decode_threads=worker.threads)
        return Cache(cache.root), plan

    def _keys(self) -> tuple[str, ...]:
        """Returns the keys of the stages that make the arrays that the head reads.

        Raises RunError if the head reads an array that no stage of the config makes.
        """
        made = {spec.name: spec.stage for spec in declare(self.config, {}).arrays}
        stages = {name: made.get(name, CLIPS if name.startswith(CROP) else None) for name in self.head.reads}
        if lacking := [name for name, stage in stages.items() if stage is None]:
            raise RunError(
                f"{self.folder} reads {lacking[0]}, which its recipe does not make. It makes {', '.join(made)}."
            )
        return tuple(sorted({stage for stage in stages.values() if stage is not None}))


def _config(folder: Path, record: RunRecord, recipe: Recipe | None, overrides: Sequence[str]) -> Config:
    if any(map(are_imported, (record.features or {}).values())):
        raise RunError(f"{folder} was trained on imported features, which kinegraph cannot make from a video.")
    if recipe is None and record.recipe is None:
        raise RunError(
            f"{folder} was trained before runs recorded how their features are made. Name the config of its cache: "
            "--config CONFIG."
        )
    document = {"cache": "", **(recipe.document() if recipe is not None else record.recipe or {})}
    for options in document.get("backbones", {}).values():  # weights of a tuned run lie beside its record
        if (folder / options["weights"]).is_file():
            options["weights"] = str(folder / options["weights"])
    for override in overrides:
        if not override.startswith("run."):
            raise ConfigError(f"--set {override}: allowed: keys of `run`; the rest is as the run was trained")
        apply_override(document, override)
    return check_config(document, str(folder / RECORD_FILE))


def _files(videos: Sequence[str | Path]) -> Iterator[str]:
    """Yields the given files and URLs, and all videos below the given folders.

    Raises DatasetError for a folder without a video.
    """
    for video in map(str, videos):
        if is_url(video) or not Path(video).is_dir():
            yield video
            continue
        found = below_folder(video)
        if not found.videos:
            raise DatasetError(f"{video}: no video in this folder or below.")
        yield from (str(Path(path)) for _, path in found.videos)


def _listed_as(video: str) -> str:
    """Returns the id that the video with the path `video` has in the temporary cache for prediction."""
    return located(".", video)[0]


def _windows(video: str, seconds: float | None, staging: Staging) -> Iterator[Interval | tuple[str, str]]:
    """Yields the windows of a video in order, as (start, end) in seconds. A window includes its start and excludes its
    end.

    Each window but the last is `seconds` long. The last window ends with the video and has 0.5 to 1.5 times that
    length. Yields only a pair of empty texts, which stands for the whole video, if `seconds` is None, if the video is
    shorter than 1.5 times `seconds`, or if the video cannot be read.
    """
    try:
        duration = staging.probe(video).duration if seconds is not None else 0.0
    except DecodeError:  # extraction says why
        duration = 0.0
    count = math.floor(duration / seconds + 0.5) if seconds is not None else 0
    if seconds is None or count <= 1:
        yield "", ""
        return
    yield from ((number * seconds, (number + 1) * seconds) for number in range(count - 1))
    yield (count - 1) * seconds, duration

"""Scores videos with a trained run, for `kinegraph predict`. The videos need not be in a cache."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kinegraph.cache_schemas.arrays import CLIPS, FRAME_TIMES
from kinegraph.cache_schemas.box_classes import BOX_LABELS, box_class_names, named
from kinegraph.cache_schemas.box_frames import BOX_FRAMES
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, Interval
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.fingerprint import are_imported
from kinegraph.cache_schemas.reader import CROP, CachedClips
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import Plan, make_plan
from kinegraph.pipeline.config import Config, apply_override, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.networks import Loaded
from kinegraph.pipeline.extraction.progress import Progress, clips_of
from kinegraph.pipeline.extraction.run import failures
from kinegraph.pipeline.extraction.worker import Worker
from kinegraph.pipeline.predicting.predictions import ClipScores, FrameBoxes, Prediction, ScoredSpan, joined_boxes
from kinegraph.pipeline.predicting.videos import id_of, listed_videos, windows
from kinegraph.stages.datasets.options import FolderOptions
from kinegraph.stages.device import pick_device
from kinegraph.stages.errors import UsageError
from kinegraph.stages.proposals.stage import BOXES, COUNT, Proposals
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.remote.staging import Staging
from kinegraph.stages.training.checkpoint import RunError, RunRecord, load_head, load_record, require_same_features
from kinegraph.stages.training.evaluation import clip_logits, joined, probabilities
from kinegraph.stages.training.records import RECORD_FILE
from kinegraph.stages.training.videos import CachedVideos, samples_of

WITHOUT_WINDOW = "too_short: the video is shorter than a window of the run"  # it has no row
VIDEOS_AT_ONCE = 64  # whose features lie in the temporary folder at a time
SPLIT = "predict"
FILES = ("graphs.files", "proposals.files")  # where a user's own graphs and boxes lie; no fingerprint covers it
WITH_EDGES = "strg with `graphs: joint`, `similarity` or `fused`"  # the heads that link boxes of one frame
log = logging.getLogger("kinegraph")
OnProgress = Callable[[str, int, int], None]  # what, done, total


class Predictor:
    """A trained run that scores new videos. The first call of `predict` loads the networks.

    - `folder`: the folder of the run.
    - `recipe`: says how features are made. By default the recipe is read from the run.
    - `overrides`: changes of the config, such as "run.device=cpu". Allowed are keys of the section `run`,
      `graphs.files` and `proposals.files`.
    - `allow_code`: whether the source code of a user's own head, which lies in `folder`, may run.

    Raises RunError if `folder` is not a complete run, if its features cannot be made, or if the head is a user's own
    and `allow_code` is false. Raises ConfigError if an override is not allowed.
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
        keep_boxes: bool = False,
        keep_edges: bool = False,
        on_progress: OnProgress = lambda what, done, total: None,
    ) -> Iterator[Prediction]:
        """Yields one Prediction for each video, in order. Features are made in a temporary folder, for 64 videos at a
        time.

        - `videos`: files, URLs, and folders of videos. A path that occurs several times is scored once.
        - `window_seconds`: cuts each video into windows of this length, each with its own clips and scores. The last
          window has 0.5 to 1.5 times this length. A run with `clips.sampling: windows` ignores `window_seconds` and
          logs a warning.
        - `keep_boxes`: whether a prediction has the boxes that the head read.
        - `keep_edges`: whether a prediction has the weights of the head's graph between these boxes.
        - `on_progress`: is called with (name of the step, number done, number of all or 0 if unknown).

        Raises UsageError if the head has no edges and `keep_edges` is set, or if the run scores whole videos
        (`train.over: videos`) and `window_seconds` is given. Raises DatasetError for a folder without a video, and
        WeightsError if weights cannot be read. Raises RunError if the weights or the rules for decoding are not those
        of the training.
        """
        graph = self.edge_graph() if keep_edges else None
        files = listed_videos(videos)
        if window_seconds is not None and self.record.train.over == "videos":
            raise UsageError(
                "--intervals: this run has one score for a whole video (train.over: videos). Leave it out."
            )
        if window_seconds is not None and self.config.clips.has_windows:
            log.warning("--intervals %g: ignored, because the run has windows of its own (`clips`)", window_seconds)
        for first in range(0, len(files), VIDEOS_AT_ONCE):
            group = files[first : first + VIDEOS_AT_ONCE]
            with tempfile.TemporaryDirectory(prefix="kinegraph-") as folder:
                cache, plan = self._extracted(group, Path(folder), window_seconds, on_progress)
                yield from self._predicted(group, cache, plan, keep_boxes=keep_boxes or keep_edges, graph=graph)

    def edge_graph(self) -> str:
        """Returns the name of the head's graph whose edges `predict` returns: the first graph in the head's
        `graph_links` that links boxes of the same frame.

        Raises UsageError if the head has no such graph.
        """
        links = self.head.graph_links
        for name, kind in links.items():
            if kind == "boxes":
                return name
        its_graph = f", only between {' and '.join(dict.fromkeys(links.values()))}" if links else ""
        raise UsageError(
            f"Head {self.head.name} of {self.folder} has no edges between boxes of one frame{its_graph}. Heads that "
            f"have them: {WITH_EDGES}, and heads of your own that name such a graph in `graph_links`."
        )

    @property
    def files(self) -> dict[str, str]:
        """Returns patterns of the files that the user must have for each video, as a dict {config key: pattern}. For
        example, {"proposals.files": "boxes/{stem}.json"}.
        """
        sections = {"graphs": self.config.graphs, "proposals": self.config.proposals}
        patterns = {f"{name}.files": getattr(section, "files", None) for name, section in sections.items()}
        return {key: pattern for key, pattern in patterns.items() if pattern is not None}

    def _predicted(
        self, videos: Sequence[str], cache: Cache, plan: Plan, *, keep_boxes: bool, graph: str | None
    ) -> Iterator[Prediction]:
        of_boxes = (BOXES, COUNT, FRAME_TIMES, *((BOX_LABELS,) if BOX_LABELS in cache.arrays() else ()))
        with_boxes = of_boxes if keep_boxes and self.head.reads_boxes else ()
        clips = CachedClips(cache, [*dict.fromkeys([*self.head.reads, *with_boxes])])
        samples = samples_of(clips, self.record.train.over, self.record.train.max_windows)
        if isinstance(samples, CachedVideos) and samples.num_shortened:
            most, videos_have = samples.max_windows, counted(samples.num_shortened, "video has", "videos have")
            log.warning("%s more than %s windows. %s of them are taken evenly, as in training", videos_have, most, most)
        device, batch_size = pick_device(self.config.run.device), self.record.train.batch_size
        logits = clip_logits(self.head.to(device), samples, batch_size, device) if len(samples) else torch.empty(0)
        reasons = {failure.clip_id: f"{failure.reason}: {failure.detail}" for failure in failures(cache, plan)}
        place_of = {row: place for place, row in enumerate(clips.rows.tolist())}  # among the clips that did not fail
        of_video: dict[str, list[tuple[ClipRow, int | None]]] = {}
        for number, row in enumerate(cache.clips.rows()):
            of_video.setdefault(row.video_name, []).append((row, place_of.get(number)))
        logits_of = dict(zip(samples.video_ids, logits, strict=True)) if isinstance(samples, CachedVideos) else None
        for video in videos:
            clips_of_video = of_video.get(id_of(video), [])
            if logits_of is not None:
                rows = [row for row, _ in clips_of_video]
                yield self._whole(video, rows, reasons, logits_of.get(id_of(video)))
                continue
            scored = [
                _Scored(row=row, failure=reasons.get(row.clip_id, ""))
                if place is None
                else _Scored(
                    row=row, logits=logits[place], boxes=self._boxes(clips, place, graph) if with_boxes else ()
                )
                for row, place in clips_of_video
            ]
            yield self._prediction(video, scored)

    def _whole(
        self, video: str, rows: Sequence[ClipRow], reasons: Mapping[str, str], logits: Tensor | None
    ) -> Prediction:
        """Returns the Prediction of a run that scores whole videos. `logits` [num_classes] are the logits of the video,
        or None if all its windows failed.

        `rows` are the windows of the video. `reasons` maps the clip id of each failed window to the reason.
        """
        failed = [reasons[row.clip_id] for row in rows if row.clip_id in reasons]
        if logits is None:
            return self._prediction(video, [_Scored(row=row, failure=reasons.get(row.clip_id, "")) for row in rows])
        spanning = replace(rows[0], end_seconds=max(row.end_seconds for row in rows))
        prediction = self._prediction(video, [_Scored(row=spanning, logits=logits)])
        return replace(prediction, failure=next(iter(failed), ""), num_failed=len(failed), num_clips=len(rows))

    def _boxes(self, clips: CachedClips, clip_index: int, graph: str | None) -> list[FrameBoxes]:
        """Returns the boxes that the head reads in each frame of one clip. `clip_index` is the position of the clip in
        `clips`.

        `graph` is the name of the head's graph whose edges are returned too, or None for boxes without edges.
        """
        needed = [name for name in clips.specs if graph or not name.startswith(("features/", "regions/"))]
        batch = clips.batch([clip_index], needed)
        (is_read,) = self.head.boxes_read(batch)  # [T, N]
        times = batch[FRAME_TIMES][0, :: clips.specs[BOXES].frame_step].tolist()
        edges = {} if graph is None else self._edges(batch, graph)
        names, labels = box_class_names(clips.cache), batch[BOX_LABELS][0] if BOX_LABELS in batch else None
        frames = []
        for number, (seconds, boxes, chosen) in enumerate(zip(times, batch[BOXES][0], is_read, strict=True)):
            of_frame = None
            if number in edges:
                kept = chosen[: len(edges[number])]
                of_frame = edges[number][kept][:, kept].numpy()
            classes = () if labels is None else tuple(named(labels[number][chosen].tolist(), names))
            kept_boxes = boxes[chosen].float().numpy()
            frames.append(FrameBoxes(seconds=seconds, boxes=kept_boxes, edges=of_frame, classes=classes))
        return frames

    def _edges(self, batch: Mapping[str, Tensor], graph: str) -> dict[int, Tensor]:
        """Returns the edges of one clip, as a dict {frame number: weights [N, N] between the N best boxes of the
        frame}. Frames without boxes are left out.

        `batch` has the arrays of the clip. `graph` is the name of the head's graph.
        """
        device = next(self.head.parameters()).device
        with torch.inference_mode():
            clip_graph = self.head.clip_graphs({name: x.to(device) for name, x in batch.items()})[graph]
        return {clip_graph.frame(step): weights for step, weights in enumerate(clip_graph.within_frames[0].cpu())}

    def _prediction(self, video: str, scored: Sequence["_Scored"]) -> Prediction:
        reasons = [clip.failure for clip in scored if clip.logits is None]
        failure = next(iter(reasons), "" if scored else WITHOUT_WINDOW)
        spans: dict[Interval, list[_Scored]] = {}
        for clip in sorted(scored, key=lambda clip: clip.span):
            if clip.row.is_probed:
                spans.setdefault(clip.span, []).append(clip)
        scored_spans = tuple(self._span(*span, clips) for span, clips in spans.items())
        ok = [(clip, clip.logits) for clips in spans.values() for clip in clips if clip.logits is not None]
        if not ok:
            count = len(scored)
            return Prediction(
                video=video, clips=(), spans=scored_spans, failure=failure, num_failed=len(reasons), num_clips=count
            )
        scores = self._joined([clip.logits for clip in scored if clip.logits is not None])  # in evaluate's order
        clips = [
            ClipScores(
                start=clip.row.start_seconds,
                end=clip.row.end_seconds,
                probabilities=probabilities(logits, multi_label=self.record.multi_label),
            )
            for clip, logits in ok
        ]
        return Prediction(
            video=video, clips=tuple(clips), spans=scored_spans, scores=scores, probabilities=self._shares(scores),
            failure=failure, num_failed=len(reasons), num_clips=len(scored),
        )  # fmt: skip

    def _span(self, start: float, end: float, clips: Sequence["_Scored"]) -> ScoredSpan:
        ok = [clip.logits for clip in clips if clip.logits is not None]
        return ScoredSpan(
            start=start,
            end=end,
            probabilities=self._shares(self._joined(ok)) if ok else None,
            failure=next((clip.failure for clip in clips if clip.logits is None), ""),
            boxes=joined_boxes([boxes for clip in clips for boxes in clip.boxes]),
        )

    def _joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Returns the scores of several clips as one score per class, [num_classes]. It is the mean or the maximum over
        the clips, as in `kinegraph evaluate`.

        `logits` has the logits [num_classes] of each clip.
        """
        videos, options = torch.zeros(len(logits), dtype=torch.int64), self.record.train
        return joined(torch.stack([*logits]), videos, 1, options, multi_label=self.record.multi_label)[0]

    def _shares(self, scores: Tensor) -> Tensor:
        """Returns the class probabilities [num_classes] of a video or span, from `scores` [num_classes] that `_joined`
        returned.

        If the run combines logits (`train.aggregate_of: logits`), `scores` are logits and are converted. Otherwise
        `scores` are probabilities and are returned unchanged.
        """
        are_logits = self.record.train.aggregate_of == "logits"
        return probabilities(scores, multi_label=self.record.multi_label) if are_logits else scores

    def _extracted(
        self, videos: Sequence[str], folder: Path, window_seconds: float | None, on_progress: OnProgress
    ) -> tuple[Cache, Plan]:
        """Extracts the arrays that the head reads from `videos`, which are paths or URLs, into a new cache in `folder`.
        Returns the cache and its plan.

        If `window_seconds` is set, each video is cut into windows of this length. `on_progress` is called with (name of
        the step, number done, number of all or 0 if unknown).
        """
        listed = folder / "videos.csv"
        with Staging(self.config.run.staging) as staging:
            lines = ([video, "", *window] for video in videos for window in windows(video, window_seconds, staging))
            listed.write_text(csv_text([["path", "label", "start", "end"], *lines]), encoding="utf-8")
        dataset = FolderOptions(
            kind="folder", root=".", annotations=str(listed), classes=self.class_names, splits={SPLIT: 1.0},
            multi_label=self.record.multi_label,
        )  # fmt: skip
        config = self.config.model_copy(update={"cache": str(folder / "cache"), "dataset": dataset})
        cache = index(config, on_progress, may_be_empty=True).cache  # each video is answered, also a short one
        keys = self._keys()
        boxes = {Proposals.kind} if self.head.reads_boxes else set()  # an overlay shows them
        plan = make_plan(config, cache, stages=sorted({*keys, *boxes}))
        with closing(Progress(clips_of(cache, plan.units), "predict")) as progress:
            worker = Worker(config, cache, plan.keys, progress, loaded=self._loaded and self._loaded.moved_to(cache))
            if self._loaded is None:
                require_same_features(self.record, *worker.loaded.declared.made(keys))
            self._loaded = worker.loaded
            worker.run(plan.units, decode_threads=worker.decoders)
        return Cache(cache.root), plan

    def _keys(self) -> tuple[str, ...]:
        """Returns the keys of the stages that make the arrays that the head reads.

        Raises RunError if the head reads an array that no stage of the config makes.
        """
        made = {spec.name: spec.stage for spec in declare(self.config, {}).arrays}
        stages = {
            name: made.get(name, CLIPS if name.startswith((CROP, BOX_FRAMES)) else None) for name in self.head.reads
        }
        if lacking := [name for name, stage in stages.items() if stage is None]:
            raise RunError(
                f"{self.folder} reads {lacking[0]}, which its recipe does not make. It makes {', '.join(made)}."
            )
        return tuple(sorted({stage for stage in stages.values() if stage is not None}))


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One clip with its logits [num_classes], or with the reason why it failed.

    `row` is the row of the clip in the cache. If the clip failed, `logits` is None and `failure` is the reason. `boxes`
    has the boxes that the head read in each frame, if the caller asked for boxes.
    """

    row: ClipRow
    logits: Tensor | None = None
    failure: str = ""
    boxes: Sequence[FrameBoxes] = ()

    @property
    def span(self) -> Interval:
        return self.row.start_seconds, self.row.end_seconds


def _config(folder: Path, record: RunRecord, recipe: Recipe | None, overrides: Sequence[str]) -> Config:
    if any(map(are_imported, (record.features or {}).values())):
        raise RunError(f"{folder} was trained on imported features, which kinegraph cannot make from a video.")
    if recipe is None and record.recipe is None:
        raise RunError(
            f"{folder} was trained before runs recorded how their features are made. Name the config of its cache: "
            "--config CONFIG."
        )
    document = {"cache": "", **(recipe.document() if recipe is not None else record.recipe or {})}
    if (document.get("graphs") or {}).get("source") == "interactions":
        raise RunError(
            f"{folder} reads scene graphs of the generated data set, where the positions of all things are known. "
            "kinegraph cannot make them from a video."
        )
    for options in document.get("backbones", {}).values():  # weights of a tuned run lie beside its record
        if (folder / options["weights"]).is_file():
            options["weights"] = str(folder / options["weights"])
    for override in overrides:
        if not override.startswith(("run.", *FILES)):
            raise ConfigError(
                f"--set {override}: allowed: keys of `run`, {' and '.join(FILES)}; the rest is as the run was trained"
            )
        apply_override(document, override)
    return check_config(document, str(folder / RECORD_FILE))

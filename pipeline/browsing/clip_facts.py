"""Reads what a cache holds about one clip: boxes, tracks, scene graphs and the times of frames. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kinegraph.cache_schemas.arrays import FRAME_TIMES
from kinegraph.cache_schemas.box_classes import BOX_LABELS, box_class_names, named
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.scene_graphs import GRAPHS, SceneGraph, scene_graphs
from kinegraph.pipeline.browsing.catalogue import OK, WARNED, ShownClips

PROPOSALS, TRACKS = "proposals", "tracks"


@dataclass(frozen=True, kw_only=True)
class BoxesOfFrame:
    """The boxes of one frame of a clip, best score first. N is the number of boxes."""

    place: int  # the number of the frame in the clip
    index: int  # the number of the frame among the frames that have boxes
    boxes: np.ndarray  # [N, 4], (x1, y1, x2, y2) in px of the upright video
    scores: np.ndarray  # [N]
    tracks: np.ndarray | None  # [N], the number of each box's track, or None if the cache has no tracks
    classes: list[str] | None = None  # [N], the name of each box's class, or None if the cache has no classes of boxes


@dataclass(kw_only=True)
class ClipFacts:
    """Everything that the cache holds about one clip."""

    frame_times: tuple[float, ...] = ()  # [T], the times of the T frames in seconds from the first frame of the video
    every: int = 1  # 2 if every second frame of the clip has boxes, and so on
    # The boxes of each frame with boxes. It is empty if the cache has no boxes.
    frame_boxes: list[BoxesOfFrame] = field(default_factory=list)
    graphs: list[SceneGraph] = field(default_factory=list)  # the scene graphs of the clip
    source: Source | None = None  # the identity of the video file at the extraction, or None if it is not known
    problems: list[str] = field(default_factory=list)  # a sentence for each stage whose shard cannot be read

    @property
    def num_tracks(self) -> int:
        tracks = (frame.tracks for frame in self.frame_boxes if frame.tracks is not None)
        return len({int(track) for of_frame in tracks for track in of_frame})


def row_of(cache: Cache, number: int) -> ClipRow:
    """Returns the row number `number` of the cache. Reads only a part of clips.parquet."""
    shard, place = divmod(number, cache.shard_clips)
    return cache.rows(shard)[place]


def facts_of(clips: ShownClips, number: int, row: ClipRow) -> ClipFacts:
    """Returns the ClipFacts of the clip `row`: everything that the cache holds about the clip. `number` is its row
    number. If a shard is damaged, adds a sentence to `ClipFacts.problems` and reads the other stages.
    """
    facts = ClipFacts(frame_times=row.target_times)
    reading = _Reading(clips, number, facts.problems)
    times = reading.rows("clips").get(FRAME_TIMES)
    if times is not None:
        facts.frame_times = tuple(times.tolist())
    if (proposals := reading.rows(PROPOSALS)) and {f"{PROPOSALS}/{name}" for name in ("boxes", "scores", "count")} <= (
        proposals.keys()
    ):
        facts.every = clips.cache.array(f"{PROPOSALS}/boxes").frame_step or 1
        tracks = reading.rows(TRACKS).get(f"{TRACKS}/id")
        facts.frame_boxes = _boxes(proposals, tracks, facts.every, box_class_names(clips.cache))
    if graphs := reading.rows(GRAPHS):
        options = clips.cache.stage(GRAPHS).options
        facts.graphs = scene_graphs(graphs, options.get("vocabulary") or {})
    facts.source = source_of(clips, number, row)
    return facts


def source_of(clips: ShownClips, number: int, row: ClipRow) -> Source | None:
    """Returns the Source of a video file: the size, the time of change and the digest that the file had at the
    extraction. The video is that of `row`, and `number` is the row number. Returns None if the ledger does not have the
    Source.
    """
    for key in clips.stages:
        record = clips.cache.ledger.read(key, number // clips.cache.shard_clips)
        if record is not None and row.video_id in record.sources:
            return record.sources[row.video_id]
    return None


@dataclass(frozen=True)
class _Reading:
    clips: ShownClips
    number: int
    problems: list[str]

    def rows(self, key: str) -> dict[str, np.ndarray]:
        """Returns {array name: values of the clip} for the arrays of the stage `key`. Returns an empty dictionary if
        the stage has not run, if the clip failed, or if the shard cannot be read.
        """
        stage = self.clips.stages.get(key)
        if stage is None or stage.status[self.number] not in (OK, WARNED):
            return {}
        cache = self.clips.cache
        shard, place = divmod(self.number, cache.shard_clips)
        try:
            return {spec.name: cache.store.open_shard(spec, shard).row(place) for spec in cache.stage(key).arrays}
        except (CacheError, ValueError, OSError) as error:
            self.problems.append(f"The stage {key} cannot be read: {error}")
            return {}


def _boxes(
    proposals: Mapping[str, np.ndarray], tracks: np.ndarray | None, every: int, names: Sequence[str] = ()
) -> list[BoxesOfFrame]:
    """Returns a BoxesOfFrame for each frame with boxes. `proposals` is {array name: values of the clip}, `tracks` is
    the array of track numbers or None, and `names` has the class names of boxes. Every `every`-th frame has boxes.
    """
    labels = proposals.get(BOX_LABELS)
    boxes, scores, count = (proposals[f"{PROPOSALS}/{name}"] for name in ("boxes", "scores", "count"))
    return [
        BoxesOfFrame(
            place=index * every,
            index=index,
            boxes=boxes[index, :num_boxes],
            scores=scores[index, :num_boxes],
            tracks=None if tracks is None else tracks[index, :num_boxes],
            classes=None if labels is None else named(labels[index, :num_boxes].tolist(), names),
        )
        for index, num_boxes in enumerate(count.tolist())
    ]

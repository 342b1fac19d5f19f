"""Exports frames as JPEG files, and boxes, scores and labels as one COCO json: `kinegraph export --to coco`.
Torch-free.
"""

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.box_classes import BOX_LABELS, box_class_names
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.errors import UnknownSplit
from kinegraph.cache_schemas.sealed_rows import require_rows
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.caches.clip_rules import rules_of
from kinegraph.pipeline.caches.videos_at_hand import VideosAtHand, change_of
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.sealed_clips import SealedClips
from kinegraph.pipeline.exchange.to_npy import claim, manifest_of, put_manifest
from kinegraph.pipeline.exchange.to_webdataset import key_of
from kinegraph.pipeline.machine.hardware import usable_cores
from kinegraph.pipeline.shards.taking_over import OnProgress, unheard
from kinegraph.stages.decode.clips import decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.remote.staging import Staging

ANNOTATIONS, IMAGES = "annotations.json", "images"
QUALITY, DECODE_SECONDS = 90, 600.0
BOXES, SCORES, COUNT, TRACKS = "proposals/boxes", "proposals/scores", "proposals/count", "tracks/id"
FIRST_CATEGORY = 1  # tools take 0 for the background
IMAGE = re.compile(rf"{IMAGES}/.+/[0-9]{{4,}}\.jpg")
CocoEntry = dict[str, Any]


class CocoSize(NamedTuple):
    """The expected size of an export to COCO, before it is written."""

    # `num_clips`, `num_images`: the numbers of clips and images
    num_clips: int
    num_images: int
    num_bytes: int  # about how many bytes all images will have
    free_bytes: int | None  # how many bytes are free in the folder of the export, or None if it is not known


@dataclass(kw_only=True)
class ExportedFrames:
    """The result of an export to COCO."""

    # `num_clips`, `num_images`, `num_boxes`: the numbers of clips, images and boxes that were written
    num_clips: int = 0
    num_images: int = 0
    num_boxes: int = 0
    # The number of images of an earlier export that were removed, because they are not part of this one
    num_removed: int = 0
    left_out: dict[str, str] = field(default_factory=dict)  # {clip id: reason} of the clips that were left out
    damaged: list[str] = field(default_factory=list)  # a sentence for each damaged shard of the cache


def export_coco(
    source: Cache,
    out: str,
    *,
    split: str | None = None,
    rows: range | None = None,
    videos: Path | None = None,
    on_size: Callable[[CocoSize], None] = lambda size: None,
    on_progress: OnProgress = unheard,
) -> ExportedFrames:
    """Writes the frames that have boxes as <out>/images/<clip>/<frame>.jpg, and their boxes as <out>/annotations.json.
    Returns an ExportedFrames.

    - `split`: exports only clips of this split.
    - `rows`: exports only clips with these row numbers.
    - `videos`: the folder that holds the videos, if they have moved.
    - `on_size`: is called with the CocoSize before the frames are written.

    A category is a class of boxes. Its id is the number in `proposals/labels` plus 1. If the boxes have no classes, the
    only category is `proposal`. If a clip has several rows (crops), only its first row is exported, because all have
    the same boxes. A clip is left out if it failed, is not sealed, or its video is missing, has changed or cannot be
    decoded. Every call writes all files again.

    Raises ExchangeError for a cache without boxes, if no clip is chosen, if there is no room, and if `out` holds
    anything other than an earlier export to COCO. Raises UnknownSplit for a split that does not exist.
    """
    at_hand, specs = VideosAtHand(videos), _specs(source)
    require_rows(source)
    source.require_labels_of_classes()
    chosen, storage = _chosen(source, split, rows), open_storage(out)
    storage.sweep()
    limits = {"split": split, "rows": None if rows is None else [rows.start, rows.stop]}
    manifest = manifest_of(source, specs) | {"format": "coco"} | limits
    claim(storage, manifest)
    clips = SealedClips(source, specs)
    exported = ExportedFrames(damaged=clips.damaged)
    with Staging(StagingOptions()) as staging:
        frames = _Frames(clips, specs[0].frame_step or 1, at_hand, staging)
        kept = [(number, row) for number, row in chosen if not _is_left_out(clips, number, row, exported)]
        _tell_size(frames, storage, kept, on_size)
        written = _write_frames(frames, storage, kept, exported, on_progress)
    exported.num_clips = len(written)
    exported.num_removed = _remove_others(
        storage, {image_name(row.clip_id, at) for _, row in written for at in frames.places(row)}
    )
    storage.put(ANNOTATIONS, _document(clips, frames, written, exported))
    put_manifest(storage, manifest | {"complete": True, "left_out": exported.left_out, "damaged": exported.damaged})
    return exported


def _specs(source: Cache) -> list[ArraySpec]:
    """Returns the specs of the arrays to export, boxes first. Raises ExchangeError if the cache has no boxes."""
    arrays = source.arrays()
    if BOXES not in arrays:
        raise ExchangeError(f"{source.root} has no boxes: extract with the section `proposals` in the config first.")
    return [arrays[name] for name in (BOXES, SCORES, COUNT, BOX_LABELS, TRACKS) if name in arrays]


def _chosen(source: Cache, split: str | None, rows: range | None) -> list[tuple[int, ClipRow]]:
    """Returns (row number, row) for the first row of each clip in `split` and `rows`, in the order of the rows."""
    all_rows = list(source.clips.rows())
    if split is not None and split not in (splits := sorted({row.split for row in all_rows})):
        raise UnknownSplit(f"--split {split}: the splits of {source.root} are {', '.join(splits) or 'none'}.")
    first: dict[str, tuple[int, ClipRow]] = {}
    for number, row in enumerate(all_rows):
        if (split is None or row.split == split) and (rows is None or number in rows):
            first.setdefault(row.clip_id.rpartition(":")[0], (number, row))
    if not first:
        raise ExchangeError(
            f"--rows: {source.root} has the rows 0 to {len(all_rows) - 1:,}, and none of them is chosen"
        )
    return [*first.values()]


def _is_left_out(clips: SealedClips, number: int, row: ClipRow, exported: ExportedFrames) -> bool:
    reason = clips.missing(number, row.clip_id)
    if not reason and not row.is_probed:
        reason = "without times of frames"
    if reason:
        exported.left_out[row.clip_id] = reason
    return bool(reason)


@dataclass(frozen=True)
class _Frames:
    """Decodes those frames of clips that have boxes, and encodes them as JPEG files. Every `every`-th frame of a clip
    has boxes. `videos` finds the video files, and `staging` copies videos from URLs.
    """

    clips: SealedClips
    every: int
    videos: VideosAtHand
    staging: Staging

    def places(self, row: ClipRow) -> range:
        """Returns the numbers, from 0, of the frames of the clip `row` that have boxes."""
        return range(0, len(row.target_times), self.every)

    def decoded(self, number: int, row: ClipRow) -> list[bytes]:
        """Returns a JPEG file, as bytes, for each frame of the clip `row` that has boxes. `number` is the row number.
        Raises DecodeError if the video is missing, has changed since the extraction, or cannot be decoded.
        """
        path = self.videos.path(row)
        record = self.clips.records[BOXES.partition("/")[0]][number // self.clips.source.shard_clips]
        if changed := change_of(path, record.sources.get(row.video_id)):
            raise DecodeError("unreadable", changed)
        places = self.places(row)
        whole = WholeFrame(network_size=lambda height, width: (height, width), every=1)
        wanted = Wanted(num_frames=len(places), whole=whole, may_repeat=True)
        rules = rules_of(self.clips.source)
        with self.staging.begin(path) as video:
            (clip,) = decode_clips(video.file, [row.at(places)], wanted, DECODE_SECONDS, rules, OpenVideos())
            if isinstance(clip, DecodeError):
                raise DecodeError(clip.reason, video.with_url(clip.detail))
        assert clip.whole is not None
        return [_jpeg(pixels) for pixels in clip.whole]


def _jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def image_name(clip_id: str, place: int) -> str:
    """Returns the path of the image of one frame, relative to the folder of the export. `place` is the number of the
    frame in the clip, from 0.
    """
    return f"{IMAGES}/{key_of(clip_id)}/{place:04}.jpg"


def _tell_size(
    frames: _Frames,
    storage: Storage,
    kept: list[tuple[int, ClipRow]],
    on_size: Callable[[CocoSize], None],
) -> None:
    """Estimates the size of all images from the images of one clip, and calls `on_size` with it. `kept` has (row
    number, row) of each clip. Raises ExchangeError if there is no room.
    """
    for number, row in stopping.checked(kept):
        try:
            images = frames.decoded(number, row)
            break
        except DecodeError:
            continue  # `_write_frames` says why
    else:
        return
    num_images = sum(len(frames.places(row)) for _, row in kept)
    folder = storage.local_path("")
    free = None if folder is None else shutil.disk_usage(folder).free
    size = CocoSize(len(kept), num_images, sum(map(len, images)) * num_images // max(1, len(images)), free)
    on_size(size)
    if free is not None and size.num_bytes > free:
        raise ExchangeError(
            f"{storage.root}: the images need about {size.num_bytes:,} bytes, and {free:,} are free. Choose fewer "
            "clips with --rows or --split, or another folder."
        )


def _write_frames(
    frames: _Frames,
    storage: Storage,
    kept: list[tuple[int, ClipRow]],
    exported: ExportedFrames,
    on_progress: OnProgress,
) -> list[tuple[int, ClipRow]]:
    """Writes the images of the clips `kept`, each (row number, row). Returns the clips whose images were written. Adds
    the other clips to `exported.left_out`.
    """

    def write(clip: tuple[int, ClipRow]) -> str:
        number, row = clip
        try:
            images = frames.decoded(number, row)
        except DecodeError as error:
            return str(error)
        for place, image in zip(frames.places(row), images, strict=True):
            storage.put(image_name(row.clip_id, place), [image])
        return ""

    written = []
    with stopping.threads(usable_cores(), "decode") as pool:
        for done, (clip, problem) in enumerate(zip(kept, stopping.mapped(pool, write, kept), strict=True), 1):
            if problem:
                exported.left_out[clip[1].clip_id] = problem
            else:
                written.append(clip)
            on_progress("writing frames of clips", done, len(kept))
    return written


def _remove_others(storage: Storage, kept: set[str]) -> int:
    """Deletes the images of an earlier export, except those with names in `kept`. Returns the number of deleted images.
    Files that no export wrote are not deleted.
    """
    others = [name for name in storage.names(IMAGES) if IMAGE.fullmatch(name) and name not in kept]
    for name in others:
        storage.delete(name)
    return len(others)


def _document(
    clips: SealedClips, frames: _Frames, written: list[tuple[int, ClipRow]], exported: ExportedFrames
) -> Iterator[bytes]:
    """Yields the parts of annotations.json, as bytes. Reads the boxes clip by clip, so they are never all in memory.
    Counts images and boxes in `exported`.
    """
    video_ids = {name: index for index, name in enumerate(dict.fromkeys(row.video_id for _, row in written), 1)}
    head = {
        "info": {"description": f"kinegraph export of {clips.source.root}"},
        "categories": _categories(clips.source),
        "classes": clips.source.classes,
        "videos": [{"id": index, "name": name} for name, index in video_ids.items()],
    }
    yield _encoded(head)[:-1] + b',"images":['
    for _, row in written:
        for place in frames.places(row):
            exported.num_images += 1
            yield _separated(exported.num_images, _image(clips, row, place, exported.num_images, video_ids))
    yield b'],"annotations":['
    num_images = num_tracks = 0
    for number, row in stopping.checked(written):
        values = clips.values(number)
        for index in range(len(frames.places(row))):
            num_images += 1
            for box in range(int(values[COUNT][index])):
                exported.num_boxes += 1
                entry = {"id": exported.num_boxes, "image_id": num_images} | _box(values, index, box)
                if TRACKS in values:
                    entry["track_id"] = num_tracks + int(values[TRACKS][index, box]) + 1
                yield _separated(exported.num_boxes, entry)
        if TRACKS in values:
            num_tracks += int(values[TRACKS].max(initial=-1)) + 1
    yield b"]}\n"


def _categories(source: Cache) -> list[CocoEntry]:
    names = box_class_names(source) or ("proposal",)
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, FIRST_CATEGORY)]


def _image(clips: SealedClips, row: ClipRow, place: int, image_id: int, video_ids: dict[str, int]) -> CocoEntry:
    return {
        "id": image_id,
        "file_name": image_name(row.clip_id, place),
        "width": row.frame_width,
        "height": row.frame_height,
        "video_id": video_ids[row.video_id],
        "frame_index": place,
        "seconds": row.target_times[place],
        "clip_id": row.clip_id,
        "split": row.split,
        "labels": [clips.source.classes[label] for label in row.labels],
        "label_ids": [*row.labels],
    }


def _box(values: dict[str, np.ndarray], index: int, box: int) -> CocoEntry:
    x1, y1, x2, y2 = (float(edge) for edge in values[BOXES][index, box])
    width, height = x2 - x1, y2 - y1
    score = float(values[SCORES][index, box])
    category = FIRST_CATEGORY + (int(values[BOX_LABELS][index, box]) if BOX_LABELS in values else 0)
    return {"category_id": category, "bbox": [x1, y1, width, height], "area": width * height, "iscrowd": 0,
            "score": score, "rank": box}  # fmt: skip


def _separated(number: int, entry: CocoEntry) -> bytes:
    return (b"," if number > 1 else b"") + _encoded(entry)


def _encoded(entry: CocoEntry) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass")

"""Data set adapters: each lists its classes and videos. Torch-free.

To add one: an options model in options.py, a function here, a line in `list_videos`.
"""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from kinegraph.cache_schemas.clips_table import Interval, interval_id
from kinegraph.cache_schemas.regular import TABLE_BYTES, read_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.clips.csv_list import csv_lines, decoded
from kinegraph.stages.clips.errors import DatasetError
from kinegraph.stages.clips.folders import VIDEO_SUFFIXES, below_folder, below_url, split_and_label
from kinegraph.stages.clips.options import DatasetOptions, FolderOptions, InteractionsOptions, SyncMnistOptions
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import NumberedImages
from kinegraph.stages.decode.opening import on_disk, printable
from kinegraph.stages.remote.urls import FILE, UrlError, is_url, located

if TYPE_CHECKING:
    from kinegraph.stages.remote.remote import Remote

SET_RATE = "For folders of images set dataset.frame_rate: how many images a second they are."
log = logging.getLogger("kinegraph")
SPLITS = ("train", "val", "test")
CHARADES_CLASS = re.compile(r"(c\d{3}) .")  # a line of Charades_v1_classes.txt begins with what its labels are


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video, or interval of one, at place `list_index` of its data set's list.

    `video_id` is unique; labels index `Listing.classes`. A folder of images has a `frame_rate`, and `images` where
    it was looked into already.
    """

    video_id: str
    path: str
    split: str
    labels: tuple[int, ...]
    list_index: int
    interval: Interval | None = None
    frame_rate: float | None = None
    images: NumberedImages | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a data set holds: class names in order, every listed video by id, and whether videos may have many labels.

    `multi_label` is None where only the labels tell. `left_out`: how many files below the root are no videos, by
    ending. `dealt`: some video was listed without a split, and got one by the shares of `splits`.
    """

    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    multi_label: bool | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    dealt: bool = False


@dataclass(frozen=True)
class _Entry:
    name: str
    path: str
    label_names: tuple[str, ...]
    split: str
    interval: Interval | None = None
    frame_rate: float | None = None
    images: NumberedImages | None = None

    @property
    def video_id(self) -> str:
        return self.name if self.interval is None else interval_id(self.name, self.interval)


def list_videos(options: DatasetOptions, progress: Callable[[int], None] | None = None, *, tries: int = 1) -> Listing:
    """List a data set; the generated one is made first where it is missing.

    `progress` gets the number of videos made since its last call. A URL is asked `tries` times while the network fails.

    Raises DatasetError for a missing folder or csv, a csv without the columns, labels that the options do not allow, or
    no video at all; for a URL also what `Remote` does.
    """
    if isinstance(options, InteractionsOptions):
        return _list_interactions(options, progress)
    if isinstance(options, SyncMnistOptions):
        return _list_sync_mnist(options, progress)
    return _list_folder(options, tries)


def _list_folder(options: FolderOptions, tries: int = 1) -> Listing:
    root = options.root.removeprefix(FILE)
    if not is_url(root) and not Path(root).is_dir():
        raise DatasetError(f"dataset.root: no folder {root} (looked from {Path.cwd()}).")
    left_out: Mapping[str, int] = {}
    if options.annotations:
        entries = _from_csv(root, options.annotations.removeprefix(FILE), tries)
        entries = _with_rates(entries, options.frame_rate)
    else:
        entries, left_out = _in_folders(root, options.frame_rate, tries)
    if not entries:
        others = f" ({', '.join(f'{count} {ending}' for ending, count in left_out.items())})" if left_out else ""
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        at_url = " Folders of images at URLs are not supported: copy them to a disk." if is_url(root) else ""
        raise DatasetError(f"dataset.root: no video below {root}{others}. Known endings: {known}.{at_url}")
    listing = _listing(entries, options.splits, _classes(options, tries), options.multi_label)
    return replace(listing, left_out=left_out)


def _classes(options: FolderOptions, tries: int) -> tuple[str, ...]:
    """The classes that the options name; none where those found are meant."""
    if not isinstance(options.classes, str):
        names = options.classes or ()
    else:
        path = options.classes.removeprefix(FILE)
        names = tuple(filter(None, map(str.strip, _text("dataset.classes", path, tries).splitlines())))
        if not names:
            raise DatasetError(f"dataset.classes: {path} is empty; expected one class a line.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"dataset.classes: {twice[0]!r} stands there twice.")
    return names


def dealt_split(video_id: str, splits: Mapping[str, float]) -> str:
    """The split a video falls into: its digest as a number in [0, 1), held against the running shares."""
    point = xxhash.xxh3_64_intdigest(video_id.encode()) / 2**64 * sum(splits.values())
    for name, share in splits.items():
        point -= share
        if point < 0:
            return name
    return name


def _listing(
    entries: list[_Entry],
    splits: Mapping[str, float],
    classes: tuple[str, ...] = (),
    multi_label: bool | None = None,
) -> Listing:
    classes = classes or tuple(sorted({name for entry in entries for name in entry.label_names}))
    index = {name: number for number, name in enumerate(classes)}
    index |= {found[1]: number for name, number in index.items() if (found := CHARADES_CLASS.match(name))}
    videos: dict[str, Video] = {}
    for place, entry in enumerate(entries):
        video_id = entry.video_id
        if unknown := [name for name in entry.label_names if name not in index]:
            raise DatasetError(
                f"{video_id} has the label {unknown[0]!r}, which is none of the {len(classes)} in dataset.classes."
            )
        labels = tuple(sorted({index[name] for name in entry.label_names}))
        if multi_label is False and len(labels) > 1:
            raise DatasetError(f"{video_id} has {len(labels)} labels, and dataset.multi_label is false.")
        if video_id in videos:
            apart = " To score each by itself let one end a millisecond later." if entry.interval else ""
            raise DatasetError(
                f"{video_id} is listed twice. Several labels go into one field, separated by `;`.{apart}"
            )
        split = entry.split or dealt_split(entry.name, splits)  # all intervals of a video go one way
        videos[video_id] = Video(
            video_id=video_id, path=entry.path, split=split, labels=labels, list_index=place, interval=entry.interval,
            frame_rate=entry.frame_rate, images=entry.images,
        )  # fmt: skip
    return Listing(
        classes=classes,
        videos=tuple(videos[key] for key in sorted(videos)),
        multi_label=multi_label,
        dealt=not all(entry.split for entry in entries),
    )


def _remote(tries: int) -> "Remote":
    from kinegraph.stages.remote.remote import Remote  # takes time to import, which folders need not wait for

    return Remote(tries)


def _in_folders(root: str, frame_rate: float | None, tries: int) -> tuple[list[_Entry], Mapping[str, int]]:
    """The videos below `root`, and how many other files are there, by ending; of a server, as its pages list them."""
    try:
        found = below_url(_remote(tries).listed(root)) if is_url(root) else below_folder(root)
    except DecodeError as error:
        raise DatasetError(f"dataset.root: {error.detail}. A server that lists no files needs a csv.") from error
    if frame_rate is not None:
        found.take_folders()
    elif found.folders:
        words = f"{counted(len(found.folders), 'folder')} of numbered images below {root}, as {found.folders[0][1]}"
        if not found.videos:
            raise DatasetError(f"dataset.root: {words}, and no video. {SET_RATE}")
        log.warning("left out, as dataset.frame_rate is not set: %s", words)
    images = {path: images for _, path, images in found.folders}
    places = split_and_label(video_id for video_id, _ in found.videos)
    entries = [
        _Entry(name, path, labels, split, None, frame_rate if path in images else None, images.get(path))
        for (name, path), (split, labels) in zip(found.videos, places, strict=True)
    ]
    return entries, dict(found.left_out.most_common())


def _with_rates(entries: list[_Entry], frame_rate: float | None) -> list[_Entry]:
    """The entries of a list, with the rate of those that are folders of images.

    Raises DatasetError where the first one is a folder and there is no rate.
    """
    if frame_rate is None:
        if entries and _is_folder(entries[0].path):
            raise DatasetError(f"{entries[0].name} is a folder. {SET_RATE}")
        return entries
    return [replace(entry, frame_rate=frame_rate) if _is_folder(entry.path) else entry for entry in entries]


def _is_folder(path: str) -> bool:
    return not is_url(path) and os.path.isdir(on_disk(path))  # noqa: PTH112 -- Path raises for names that are too long


def _from_csv(root: str, annotations: str, tries: int) -> list[_Entry]:
    return list(_csv_entries(root, annotations, _text("dataset.annotations", annotations, tries)))


def _text(key: str, path: str, tries: int) -> str:
    """The content of the file or URL that the option `key` names."""
    try:
        read = _remote(tries).read if is_url(path) else read_regular
        return decoded(path, read(path, TABLE_BYTES))
    except FileNotFoundError:
        raise DatasetError(f"{key}: no file {path} (looked from {Path.cwd()}).") from None
    except OSError as error:
        raise DatasetError(f"{key}: {error}.") from error
    except DecodeError as error:
        raise DatasetError(f"{key}: {error.detail}.") from error


def _csv_entries(root: str, annotations: str, text: str) -> Iterator[_Entry]:
    for where, row in csv_lines(annotations, text):
        if not row["path"].strip():
            raise DatasetError(f"{where}: no path")
        labels = filter(None, map(str.strip, row["label"].split(";")))
        interval = _interval(where, row.get("start", ""), row.get("end", ""))
        try:
            video_id, path = map(printable, located(root, row["path"]))
        except UrlError as error:
            raise DatasetError(f"{where}: {error}") from error
        yield _Entry(video_id, path, tuple(labels), row.get("split", ""), interval)


def _interval(where: str, start: str, end: str) -> Interval | None:
    """The interval that two fields of a csv name; None where both are empty."""
    if not start.strip() and not end.strip():
        return None
    try:
        interval = float(start) + 0.0, float(end)  # -0 becomes 0
    except ValueError:
        interval = math.nan, math.nan
    if not 0 <= interval[0] < interval[1] < math.inf:
        raise DatasetError(
            f"{where}: start {start!r}, end {end!r}; expected seconds, 0 <= start < end, or both empty: the whole video"
        )
    return interval


def _list_interactions(options: InteractionsOptions, progress: Callable[[int], None] | None) -> Listing:
    from kinegraph.stages.clips.interactions import generate

    root = Path(options.root)
    counts = {split: getattr(options, split) for split in SPLITS}
    generate(root, videos=counts, seed=options.seed, workers=os.cpu_count() or 1, progress=progress)
    return _list_folder(FolderOptions(kind="folder", root=str(root), annotations=str(root / "annotations.csv")))


def _list_sync_mnist(options: SyncMnistOptions, progress: Callable[[int], None] | None) -> Listing:
    from kinegraph.stages.clips.sync_mnist import classes, generate

    generate(options, workers=os.cpu_count() or 1, progress=progress)
    entries = _from_csv(options.root, str(Path(options.root, "annotations.csv")), tries=1)
    return _listing(entries, {}, classes(options.digit_values))

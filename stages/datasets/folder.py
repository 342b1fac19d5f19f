"""Lists your own videos, which lie in class folders or below a URL, or which a csv lists. Torch-free."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.stages.datasets.csv_list import csv_lines, text_of
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folders import SET_RATE, VIDEO_SUFFIXES, find_videos, require_folder, split_and_label
from kinegraph.stages.datasets.listing import Entry, Listing, OnVideosMade, listing_of
from kinegraph.stages.datasets.options import FolderOptions
from kinegraph.stages.decode.opening import on_disk, printable
from kinegraph.stages.remote.urls import FILE, UrlError, is_url, locate_video


def list_folder(options: FolderOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos below the folder or URL `options.root`. If `options.annotations` is set,
    returns the videos in this csv.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a folder or file is missing, if there is no video, or if the csv is wrong.
    """
    root = options.root.removeprefix(FILE)
    require_folder(root)
    left_out: Mapping[str, int] = {}
    if options.annotations:
        entries = entries_of_csv(root, options.annotations.removeprefix(FILE), tries)
        entries = _with_rates(entries, options.frame_rate)
    else:
        entries, left_out = _in_folders(root, options.frame_rate, tries)
    if not entries:
        others = f" ({', '.join(f'{count} {ending}' for ending, count in left_out.items())})" if left_out else ""
        endings = ", ".join(sorted(VIDEO_SUFFIXES))
        at_url = " Folders of images at URLs are not supported: copy them to a disk." if is_url(root) else ""
        raise DatasetError(f"dataset.root: no video below {root}{others}. Known endings: {endings}.{at_url}")
    listing = listing_of(entries, options.splits, class_names(options.classes, tries), options.multi_label)
    return replace(listing, left_out=left_out)


def class_names(given: Sequence[str] | None, tries: int) -> tuple[str, ...]:
    """Returns the class names of the option `classes`. `given` is its value: a list of names, or the path of a file
    with one name per line. Returns an empty tuple if the option is not set.

    A file at a URL is requested at most `tries` times. Raises DatasetError for an empty file and for a name that is
    listed twice.
    """
    if not isinstance(given, str):
        names = tuple(given or ())
    else:
        path = given.removeprefix(FILE)
        names = tuple(filter(None, map(str.strip, text_of("dataset.classes", path, tries).splitlines())))
        if not names:
            raise DatasetError(f"dataset.classes: {path} is empty; expected one class a line.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"dataset.classes: {twice[0]!r} is listed twice.")
    return names


def _in_folders(root: str, frame_rate: float | None, tries: int) -> tuple[list[Entry], Mapping[str, int]]:
    """Returns (one entry for each video below `root`, the number of other files by their ending, such as {".txt": 3}).
    `root` is a folder, or the URL of a server that lists its files.

    With `frame_rate`, folders of numbered images are videos, too. A URL is requested at most `tries` times, if the
    network fails. Raises DatasetError if the server lists no files, and if there are only folders of images and
    `frame_rate` is None.
    """
    below = find_videos(root, frame_rate, tries)
    images = {path: images for _, path, images in below.folders}
    places = split_and_label(video_id for video_id, _ in below.videos)
    entries = [
        Entry(name, path, labels, split, None, frame_rate if path in images else None, images.get(path))
        for (name, path), (split, labels) in zip(below.videos, places, strict=True)
    ]
    return entries, dict(below.left_out.most_common())


def _with_rates(entries: list[Entry], frame_rate: float | None) -> list[Entry]:
    """Returns `entries` with the field `frame_rate` set in each entry that is a folder of images.

    Without a `frame_rate`, folders of images cannot be read. Then raises DatasetError if the first entry is such a
    folder, and otherwise returns `entries` unchanged.
    """
    if frame_rate is None:
        if entries and _is_folder(entries[0].path):
            raise DatasetError(f"{entries[0].name} is a folder. {SET_RATE}")
        return entries
    return [replace(entry, frame_rate=frame_rate) if _is_folder(entry.path) else entry for entry in entries]


def _is_folder(path: str) -> bool:
    return not is_url(path) and os.path.isdir(on_disk(path))  # noqa: PTH112 -- Path raises for long names


def entries_of_csv(root: str, annotations: str, tries: int = 1) -> list[Entry]:
    """Returns one Entry for each line of the csv `annotations`, which is a file or a URL. Paths in the csv may be
    relative to `root`. A URL is requested at most `tries` times.

    Raises DatasetError if a line is wrong. The message names the line.
    """
    return list(_csv_entries(root, annotations, text_of("dataset.annotations", annotations, tries)))


def _csv_entries(root: str, annotations: str, text: str) -> Iterator[Entry]:
    for where, row in csv_lines(annotations, text):
        if not row["path"].strip():
            raise DatasetError(f"{where}: no path")
        labels = filter(None, map(str.strip, row["label"].split(";")))
        interval = _interval(where, row.get("start", ""), row.get("end", ""))
        try:
            video_id, path = map(printable, locate_video(root, row["path"]))
        except UrlError as error:
            raise DatasetError(f"{where}: {error}") from error
        yield Entry(video_id, path, tuple(labels), row.get("split", ""), interval)


def _interval(where: str, start: str, end: str) -> Interval | None:
    """Returns (start, end) in seconds as numbers, from two fields of a csv. Returns None if both fields are empty.

    Raises DatasetError unless 0 <= start < end. The message begins with `where`.
    """
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

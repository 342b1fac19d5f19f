"""Finds the video files of a data set by the label files that its owners publish. Torch-free.

Each such data set has a file of its own in this folder, with a lister. The lister reads the label files into a
`Release` and calls `listing_of_release`. The options of the data sets are in owners_options.py.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.cache_schemas.words import counted, first_of
from kinegraph.stages.datasets.csv_list import text_of
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folders import FolderContents, find_videos, require_folder
from kinegraph.stages.datasets.json_text import parse_json
from kinegraph.stages.datasets.listing import Entry, Listing, MissingVideo, listing_of
from kinegraph.stages.datasets.owners_options import OwnersOptions
from kinegraph.stages.remote.urls import FILE, is_url

Files = defaultdict[str, list[tuple[str, str]]]  # name -> (path below the root, full path) of each video
NO_NAME = re.compile("[/\\\\\0\ud800-\udfff]|^\\.*$")  # what no owner's name of a video contains or is


def label_text(options: OwnersOptions, name: str, tries: int = 1) -> str:
    """Returns the text of the label file `name` in the folder or below the URL `options.annotations`. A URL is
    requested at most `tries` times.

    Raises DatasetError if there is no such file, or if the file is not UTF-8.
    """
    if is_url(options.annotations.removeprefix(FILE)):
        return text_of("dataset.annotations", f"{options.annotations.rstrip('/')}/{name}", tries)
    folder = Path(options.annotations.removeprefix(FILE))
    if folder.is_dir() and not (folder / name).exists():
        there = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise DatasetError(
            f"dataset.annotations: no file {name} in {folder}. Files there: {first_of(there) or 'none'}."
        )
    return text_of("dataset.annotations", str(folder / name))


def has_label_file(options: OwnersOptions, name: str) -> bool:
    """Returns whether the folder `options.annotations` has the file `name`. Returns False if `options.annotations` is a
    URL.
    """
    return (Path(options.annotations.removeprefix(FILE)) / name).is_file()


def label_json(options: OwnersOptions, name: str, tries: int = 1) -> Any:
    """Returns the content of the JSON label file `name` in the folder or below the URL `options.annotations`. A URL is
    requested at most `tries` times.

    Raises DatasetError if there is no such file, if the file is not UTF-8 or not JSON, and if an object has a key
    twice.
    """
    return parse_json(name, label_text(options, name, tries))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One video, or one interval of a video, as a label file lists it."""

    name: str  # the owners' name of the video, without folder and ending
    label_names: tuple[str, ...]  # the names of its classes
    split: str  # the name of its split
    where: str  # the file and line, for messages
    interval: Interval | None = None  # (start, end) in seconds, or None for the whole video
    # The names that the file of the video may have, without ending, the best first. If empty, `name` is used.
    stems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Release:
    """The content of the label files of a data set, in one form for all data sets."""

    title: str  # the name of the data set, for messages
    classes: tuple[str, ...]  # the class names in order
    classes_from: str  # the file or rule from which the order of the classes comes, in words
    samples: Sequence[Sample]  # the listed videos and intervals
    published: Mapping[str, int]  # {split: number of videos that the owners published}
    num_classes: int = 0  # the number of classes that the owners published, or 0
    multi_label: bool = False  # whether a video may have several labels or none
    notes: tuple[str, ...] = ()  # sentences about lines that were dropped or changed
    # A function: path of a file below the root -> name of the damaged video that the file replaces, or None for an
    # ordinary file
    replaces: Callable[[PurePosixPath], str | None] = lambda _: None
    # Listed videos that get no row in the cache, for example because they have no label
    without_rows: Sequence[Sample] = ()
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # {class: {attribute: value}}


def listing_of_release(release: Release, root: str, *, frame_rate: float | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos of `release` that are below the folder or URL `root`. The id of a video is its
    path below `root`. A listed video without a file goes into `missing` of the Listing.

    If `frame_rate` is given, a folder of numbered images is a video, too. A URL is requested at most `tries` times.
    Raises DatasetError if no listed video is below `root`, if a video is in two splits, if two files have the name of
    one video, or if a name or label is wrong.
    """
    root = root.removeprefix(FILE)
    require_folder(root)
    found = find_videos(root, frame_rate, tries)
    files = _files_by_name(release, found)
    samples = _merged(release)
    listed: defaultdict[str, set[str]] = defaultdict(set)
    for sample in (*samples, *release.without_rows):
        listed[sample.split].add(sample.name)
    num_listed = {split: len(names) for split, names in listed.items()}
    _check_not_swapped(release, num_listed)
    images = {path: numbered for _, path, numbered in found.folders}
    entries, missing = list[Entry](), dict[str, MissingVideo]()
    for sample in samples:
        if (file := _file_of(sample, files, root)) is None:
            missing[sample.name] = _missing(sample)
            continue
        below, path = file
        rate = frame_rate if path in images else None
        entries.append(
            Entry(below, path, sample.label_names, sample.split, sample.interval, rate, images.get(path))
        )  # fmt: skip
    if not entries:
        examples = f" Videos there: {first_of([name for name, _ in found.videos])}." if found.videos else ""
        raise DatasetError(
            f"dataset.root: none of the {counted(len(missing), 'video')} of {release.title} is below {root}. "
            f"Looked for a file {next(iter(missing), '')!r}, with the ending of a video, in all folders.{examples}"
        )
    known = set()
    for sample in release.without_rows:
        if (file := _file_of(sample, files, root)) is None:
            missing[sample.name] = _missing(sample)
        else:
            known.add(file[0])
    notes = [*release.notes, *_about_classes(release)]
    if unlisted := len(found.videos) - len(known | {entry.name for entry in entries}):
        notes.append(f"{counted(unlisted, 'video')} below {root} that {release.title} does not use: left out.")
    return replace(
        listing_of(entries, {"train": 1.0}, release.classes, release.multi_label),
        left_out=dict(found.left_out.most_common()),
        missing=missing,
        listed=num_listed,
        published=release.published,
        classes_from=release.classes_from,
        num_published_classes=release.num_classes,
        attributes=release.attributes,
        notes=tuple(notes),
        absent=_absent(sample for sample in samples if sample.name in missing),
    )


def _absent(samples: Iterable[Sample]) -> Mapping[str, Sequence[Entry]]:
    """Returns {file name without ending: entries of a video}, for each name that the file of a missing video may have.
    `samples` are the missing videos.
    """
    absent: defaultdict[str, list[Entry]] = defaultdict(list)
    for sample in samples:
        for stem in _stems(sample):
            absent[stem].append(Entry("", "", sample.label_names, sample.split, sample.interval))
    return absent


def _missing(sample: Sample) -> MissingVideo:
    words = f"no file {' or '.join(_stems(sample))} with the ending of a video"
    return MissingVideo(split=sample.split, words=words)


def _stems(sample: Sample) -> tuple[str, ...]:
    """Returns the names that the file of the video `sample` may have, without the ending. The best name comes first."""
    return sample.stems or (sample.name,)


def _files_by_name(release: Release, found: FolderContents) -> tuple[Files, Files]:
    """Returns the files in `found` in two groups: (replacements, all other files). Replacements are files that the
    owners publish in place of damaged videos, in a folder of their own.

    Each group maps a file name without ending to the files with this name, as (path below the root, full path).
    """
    folders = {path for _, path, _ in found.folders}
    files: Files = defaultdict(list)
    replacements: Files = defaultdict(list)
    for below, path in found.videos:
        place = PurePosixPath(below)
        if (replaced := release.replaces(place)) is not None:
            replacements[replaced].append((below, path))
        else:
            files[place.name if path in folders else place.stem].append((below, path))
    return replacements, files


def _file_of(sample: Sample, files: tuple[Files, Files], root: str) -> tuple[str, str] | None:
    """Returns (path below the root, full path) of the file of the video `sample`, or None if `files` has none.

    Raises DatasetError if several files below `root` have its name.
    """
    of_name = next((group[stem] for group in files for stem in _stems(sample) if stem in group), [])
    if len(of_name) > 1:
        raise DatasetError(
            f"{sample.where}: {counted(len(of_name), 'file')} below {root} could be {sample.name}: "
            f"{first_of([name for name, _ in of_name])}. Move all but one elsewhere, or let dataset.root be the folder "
            "of one of them."
        )
    return of_name[0] if of_name else None


def _about_classes(release: Release) -> Iterator[str]:
    """Yields a sentence if the number of classes is not the published number."""
    if release.num_classes not in (0, len(release.classes)):
        yield (
            f"{counted(len(release.classes), 'class')} from {release.classes_from}, and {release.title} has "
            f"{release.num_classes}. Label numbers differ from those of other people's networks."
        )


def _merged(release: Release) -> list[Sample]:
    """Returns the samples of `release`. Each video or interval is there once, with all its labels.

    Raises DatasetError for a name that is no name of a video, for a label that is no class, and for a video in two
    splits. Raises it also if a video is listed twice with different labels and `release.multi_label` is false.
    """
    classes = frozenset(release.classes)
    merged: dict[tuple[str, Interval | None], Sample] = {}
    for sample in release.samples:
        if NO_NAME.search(sample.name):
            raise DatasetError(
                f"{sample.where}: {sample.name!r} is no name of a video. Correct the line, or get the file again."
            )
        if unknown := [name for name in sample.label_names if name not in classes]:
            raise DatasetError(
                f"{sample.where}: {unknown[0]!r} is none of the {counted(len(classes), 'class')} of "
                f"{release.classes_from}. Is one of the files of another release?"
            )
        key = sample.name, sample.interval
        if (first := merged.get(key)) is None:
            merged[key] = sample
        elif sample.split != first.split:
            raise DatasetError(
                f"{sample.where}: {sample.name} is in the split {sample.split!r}, and in {first.split!r} in "
                f"{first.where}. Expected one split per video. Is one file a copy of another?"
            )
        elif set(sample.label_names) != set(first.label_names):
            if not release.multi_label:
                raise DatasetError(
                    f"{sample.where}: {sample.name} has the label {sample.label_names[0]!r}, and "
                    f"{first.label_names[0]!r} in {first.where}. Expected one label per video: remove one of the two."
                )
            merged[key] = replace(first, label_names=tuple(dict.fromkeys((*first.label_names, *sample.label_names))))
    return [*merged.values()]


def _check_not_swapped(release: Release, listed: Mapping[str, int]) -> None:
    """Raises DatasetError if the label files of two splits were probably swapped. This is so if the numbers of videos
    in `listed` are the numbers in `release.published`, but the other way round. `listed` maps a split to the number of
    its videos in the label files.
    """
    for first, second in combinations(release.published, 2):
        swapped = release.published[second], release.published[first]
        if swapped[0] != swapped[1] and (listed.get(first), listed.get(second)) == swapped:
            raise DatasetError(
                f"dataset.annotations: {release.title} has {counted(swapped[1], 'video')} of {first} and "
                f"{swapped[0]:,} of {second}. The label files have them the other way round. Are the two files swapped?"
            )

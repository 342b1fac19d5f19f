"""Lists the clips of the data set Kinetics-400, 600 or 700. Torch-free."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.csv_list import csv_lines
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folder import class_names
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import Release, Sample, label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import KineticsOptions

COLUMNS = ("youtube_id", "time_start", "time_end", "split")
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
ID_LENGTH = 11  # characters
SPELLED_AWAY = re.compile("[()\"']")
WHOLE_SECONDS = re.compile(r"(\d+)(\.0*)?")
SPLIT_WORDS = {"train": ("train",), "val": ("val", "validate"), "test": ("test",)}  # of the column `split`
REPLACEMENTS = "replacement_for_corrupted_k400"  # folder of videos that replace damaged ones
# Rows of the owners' csv files. Those of 700, and of the training set of 600, are not known here.
PUBLISHED: Mapping[int, Mapping[str, int]] = {
    400: {"train": 246534, "val": 19906, "test": 38685},
    600: {"val": 30000, "test": 72924},
    700: {},
}


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """One line of a csv of Kinetics: a clip of the video `youtube_id`."""

    youtube_id: str
    start_seconds: int  # the start of the clip in seconds
    end_seconds: int  # the end of the clip in seconds
    label: str  # the class name, or "" in a csv without labels
    split: str
    where: str  # the file and line, for messages


def list_kinetics(options: KineticsOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the clips of Kinetics, with the splits in `options.files`.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a csv is missing or damaged, is of another split, or has the classes of another version. Raises DatasetError also if
    no listed video is below `options.root`.
    """
    rows = [row for split, name in options.files.items() for row in _rows(options, split, name, tries)]
    classes, classes_from = _classes(options, rows, tries)
    spelling = {_plain(name): name for name in classes}
    clips = {(row.youtube_id, row.start_seconds, row.end_seconds) for row in rows}
    num_clips = Counter(youtube_id for youtube_id, _, _ in clips)
    published = PUBLISHED[options.version]
    release = Release(
        title=f"Kinetics-{options.version}",
        classes=classes,
        classes_from=classes_from,
        samples=[_sample(row, spelling, is_only_clip=num_clips[row.youtube_id] == 1) for row in rows],
        published={split: published[split] for split in options.files if split in published},
        num_classes=options.version,
        notes=tuple(_about_clips(num_clips)),
        replaces=_replaced if options.version == 400 else lambda _: None,
    )
    return listing_of_release(release, options.root, tries=tries)


def _rows(options: KineticsOptions, split: str, name: str, tries: int) -> Iterator[ListedClip]:
    """Yields a ListedClip for each line of the csv `name` of the split `split`."""
    required = COLUMNS if split == "test" else ("label", *COLUMNS)
    for where, fields in csv_lines(name, label_text(options, name, tries), required):
        if not YOUTUBE_ID.fullmatch(fields["youtube_id"]):
            raise DatasetError(
                f"{where}: the youtube_id is {fields['youtube_id']!r}; expected 11 letters, digits, `-` or `_`. "
                "Has a spreadsheet changed the file?"
            )
        if fields["split"] not in SPLIT_WORDS[split]:
            raise DatasetError(
                f"{where}: split {fields['split']!r}; expected {SPLIT_WORDS[split][0]!r}, because dataset.files names "
                f"{name} for {split}. Is it the csv of another split, or is its end missing?"
            )
        start, end = (WHOLE_SECONDS.fullmatch(fields[key]) for key in ("time_start", "time_end"))
        if start is None or end is None:
            times = f"{fields['time_start']!r} and {fields['time_end']!r}"
            raise DatasetError(f"{where}: the times are {times}; expected whole seconds.")
        yield ListedClip(
            youtube_id=fields["youtube_id"], start_seconds=int(start[1]), end_seconds=int(end[1]),
            label=fields.get("label", ""), split=split, where=where,
        )  # fmt: skip


def _classes(options: KineticsOptions, rows: Sequence[ListedClip], tries: int) -> tuple[tuple[str, ...], str]:
    """Returns (class names, the source of their order in words). The names are those in the file `options.classes`.
    Without this option, they are the labels of `rows`, sorted.

    Raises DatasetError if there are no names, or if their number shows that the files are of another version of
    Kinetics.
    """
    if options.classes is not None:
        classes, origin = class_names(options.classes, tries), PurePosixPath(options.classes).name
    else:
        classes = tuple(sorted({row.label for row in rows if row.label}))
        origin = f"the labels in {' and '.join(options.files.values())}, sorted"
    if not classes:
        raise DatasetError("dataset.classes: not given, and no csv has labels. Give a file with one class per line.")
    if len(classes) > options.version or len(classes) in PUBLISHED.keys() - {options.version}:
        raise DatasetError(
            f"dataset.version: given {options.version}, but there are {counted(len(classes), 'class')} from {origin}. "
            "Set the version of these files, or get the files of this version."
        )
    return classes, origin


def _plain(label: str) -> str:
    """Returns `label` in a plain spelling: spaces in place of `_`, without brackets and quotes. So names of folders,
    lists and classes can be compared.
    """
    return SPELLED_AWAY.sub("", label.replace("_", " "))


def _sample(row: ListedClip, spelling: Mapping[str, str], *, is_only_clip: bool) -> Sample:
    """Returns the Sample of the csv line `row`. `spelling` maps a label in plain spelling to the name of its class.

    A clip is named after its video and its times, because a video may have several clips. If `is_only_clip` is true,
    the video has only this clip. Its file may then also have the name of the video.
    """
    name = f"{row.youtube_id}_{row.start_seconds:06d}_{row.end_seconds:06d}"
    return Sample(
        name=name,
        label_names=(spelling.get(_plain(row.label), row.label),) if row.label else (),
        split=row.split,
        where=row.where,
        stems=(name, row.youtube_id) if is_only_clip else (name,),
    )


def _about_clips(num_clips: Mapping[str, int]) -> Iterator[str]:
    """Yields a sentence if some videos have several clips. `num_clips` maps a YouTube id to its number of clips."""
    if several := sum(count > 1 for count in num_clips.values()):
        yield (
            f"{counted(several, 'YouTube id')} with several clips. Such a clip needs a file with its times in the "
            "name, because a file with the id alone could be any of them."
        )


def _replaced(place: PurePosixPath) -> str | None:
    """Returns the YouTube id of the damaged video that the file `place` replaces. Kinetics has such files in a folder
    of their own. Returns None for any other file.
    """
    return place.name[:ID_LENGTH] if REPLACEMENTS in place.parts[:-1] else None

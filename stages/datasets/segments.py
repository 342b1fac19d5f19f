"""Turns the labelled segments of untrimmed videos into the samples of a Release. Torch-free."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kinegraph.cache_schemas.words import counted, sentence
from kinegraph.stages.datasets.csv_list import text_of
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.owners import Release, Sample
from kinegraph.stages.remote.urls import FILE

SHORT_SECONDS = 0.1
SHORT = f"Segments shorter than {SHORT_SECONDS} s: {{}}, kept as listed."


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One labelled part of a video, as a label file lists it. `start` and `end` are in seconds from the first frame.
    `where` is the place in the label file, for messages.
    """

    start: float
    end: float
    label: str
    where: str


@dataclass(frozen=True, kw_only=True)
class UntrimmedVideo:
    """One untrimmed video, as a label file lists it."""

    name: str  # the owners' name of the video, without folder and ending
    split: str  # the name of its split
    where: str  # the place in the label file, for messages
    duration: float | None = None  # its duration in seconds, or None if the label file does not state it
    segments: list[Segment] = field(default_factory=list)  # its labelled parts
    stems: tuple[str, ...] = ()  # the names that its file may have, without ending. If empty, `name` is used.


def release_of(
    videos: Sequence[UntrimmedVideo],
    leave_out: Sequence[str] | str,
    *,
    title: str,
    classes: tuple[str, ...],
    classes_from: str,
    published: Mapping[str, int],
    num_classes: int = 0,
    notes: Sequence[str] = (),
) -> Release:
    """Returns the Release of untrimmed `videos`. Each segment becomes a Sample with one label. A video without segments
    becomes one Sample without a label.

    `leave_out` has the names of videos to leave out, or is the path of a file with such names. A segment that is listed
    twice counts once. A segment that does not end after its start is dropped, and a start before 0 becomes 0. The notes
    of the Release have their numbers. The keyword arguments become fields of the Release.
    """
    names = _names(leave_out)
    kept = [video for video in videos if video.name not in names]
    removed = Counter(video.split for video in videos if video.name in names)
    notes = [*notes]
    if removed:
        notes.append(f"{counted(removed.total(), 'video')} of dataset.leave_out: left out.")
    if unlisted := len(names) - removed.total():
        notes.append(f"{counted(unlisted, 'name')} of dataset.leave_out: not in {title}.")
    faults = defaultdict[str, list[str]](list)
    samples = [sample for video in kept for sample in _samples(video, faults)]
    notes += [f"{words.format(f'{len(places):,}')} The first: {places[0]}." for words, places in faults.items()]
    return Release(
        title=title,
        classes=classes,
        classes_from=classes_from,
        samples=samples,
        published={split: number - removed[split] for split, number in published.items()},
        num_classes=num_classes,
        multi_label=True,
        notes=tuple(notes),
    )


def _samples(video: UntrimmedVideo, faults: dict[str, list[str]]) -> Iterator[Sample]:
    """Yields one Sample for each labelled segment of `video`. Yields one Sample without a label if the video has no
    segment.

    `faults` maps a sentence about a kind of fault, such as a segment that is listed twice, to the places where it
    occurs. The faults of this video are added to it.
    """
    seen = set[tuple[float, float, str]]()
    for segment in video.segments:
        start, end = max(0.0, segment.start) + 0.0, segment.end  # -0 becomes 0
        if not start < end:
            faults["Segments that do not end after their start: {}, dropped."].append(segment.where)
            continue
        if (start, end, segment.label) in seen:
            faults["Segments listed again with the same label: {}, dropped."].append(segment.where)
            continue
        seen.add((start, end, segment.label))
        if segment.start < 0:
            faults["Segments that start before 0 s: {}, start set to 0."].append(segment.where)
        if video.duration is not None and end > video.duration:
            faults["Segments that end after the duration in the label file: {}, kept as listed."].append(segment.where)
        if end - start < SHORT_SECONDS:
            faults[SHORT].append(segment.where)
        yield Sample(
            name=video.name, label_names=(segment.label,), split=video.split, where=segment.where,
            interval=(start, end), stems=video.stems,
        )  # fmt: skip
    if not seen:
        faults["Videos without a segment: {}, kept without a label."].append(video.where)
        yield Sample(name=video.name, label_names=(), split=video.split, where=video.where, stems=video.stems)


def _names(leave_out: Sequence[str] | str) -> frozenset[str]:
    """Returns the names of videos in the option `leave_out`. The option is a list of names, or the path of a file with
    a JSON list or with one name on each line. Raises DatasetError if the file cannot be read.
    """
    if not isinstance(leave_out, str):
        return frozenset(leave_out)
    text = text_of("dataset.leave_out", leave_out.removeprefix(FILE)).strip()
    if not text.startswith(("[", "{")):
        return frozenset(filter(None, map(str.strip, text.splitlines())))
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"dataset.leave_out: {leave_out}: no JSON: {sentence(str(error))} Is it cut off?") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"dataset.leave_out: {leave_out}: expected a list of names of videos.")
    return frozenset(names)

"""Counts the videos, clips, hours and classes that `kinegraph index` found, and warns about suspicious labels. Imports
no torch.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from kinegraph.cache_schemas.clips_table import name_of_video
from kinegraph.cache_schemas.crops import is_mirrored
from kinegraph.cache_schemas.words import counted, first_of
from kinegraph.stages.datasets.listing import Listing, Video
from kinegraph.stages.datasets.sides import sided_classes
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe

MANY_VIDEOS = 200  # labelled videos: a class that occurs once among so many may be a mistake
SHOWN = 5
TRIPLE = re.compile(r"c\d{3} +\d+(\.\d+)? +\d+(\.\d+)?")  # an entry of the column `actions` of Charades
Probes = Mapping[str, Probe | DecodeError]


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """The numbers of one split. If the data set lists intervals of videos, each interval counts as a video, except in
    `hours`.
    """

    # `videos`, `clips`: how many videos and clips the split has
    videos: int
    clips: int
    hours: float  # the length of the videos. A video with several intervals counts once.
    classes: int  # how many classes occur in the split
    # How many labels a class has: (least, median, most), for example (0, 12.5, 40). All classes of the data set count.
    # None if no video of the split has a label.
    labels_per_class: tuple[int, float, int] | None
    unlabelled: int  # how many videos have no label
    unreadable: int  # how many videos could not be opened

    def to_json(self) -> dict[str, Any]:
        labels = (
            None
            if self.labels_per_class is None
            else dict(zip(("min", "median", "max"), self.labels_per_class, strict=True))
        )
        return asdict(self) | {"hours": round(self.hours, 3), "labels_per_class": labels}


def summaries(
    listing: Listing, probes: Probes, rows_of_split: Mapping[str, int], absent: Collection[str] = ()
) -> dict[str, SplitSummary]:
    """Returns {name of the split: SplitSummary}, with the numbers of videos, clips, hours and classes. The splits
    train, val and test come first. A split without videos is left out.

    - `listing`: the data set, with its videos and labels.
    - `probes`: path of each video -> its facts, such as the duration, or the error of opening it.
    - `rows_of_split`: name of the split -> number of rows that `index` made for its videos.
    - `absent`: the paths of videos without a file. They do not count as unreadable.
    """
    of_split: dict[str, list[Video]] = {split: [] for split in ("train", "val", "test")}
    for video in listing.videos:
        of_split.setdefault(video.split, []).append(video)
    return {
        split: _summary(videos, len(listing.classes), probes, rows_of_split.get(split, 0), absent)
        for split, videos in of_split.items()
        if videos
    }


def _summary(
    videos: Sequence[Video], num_classes: int, probes: Probes, num_rows: int, absent: Collection[str]
) -> SplitSummary:
    labels = Counter(label for video in videos for label in video.labels)
    counts = [labels[label] for label in range(num_classes)]
    probes_of_split = [probes[path] for path in dict.fromkeys(video.path for video in videos)]
    seconds = sum(probe.duration for probe in probes_of_split if isinstance(probe, Probe))
    return SplitSummary(
        videos=len(videos),
        clips=num_rows,
        hours=seconds / 3600,
        classes=len(labels),
        labels_per_class=(min(counts), median(counts), max(counts)) if labels else None,
        unlabelled=sum(not video.labels for video in videos),
        unreadable=sum(isinstance(probes[video.path], DecodeError) and video.path not in absent for video in videos),
    )


def unreadable_videos(listing: Listing, probes: Probes, absent: Collection[str]) -> dict[str, DecodeError]:
    """Returns id of the whole video -> error, for each video of `listing` that could not be opened.

    `probes` maps the path of each video to its facts, or to the error of opening it. Videos whose path is in `absent`
    have no file. They are left out, because they count as missing.
    """
    return {
        name_of_video(video.video_id, video.interval): probe
        for video in listing.videos
        if isinstance(probe := probes[video.path], DecodeError) and video.path not in absent
    }


def complaints_about(probes: Probes) -> dict[str, str]:
    """Returns path of a video -> sentence about faults in its file, for videos that can be read in spite of the faults.
    `probes` maps the path of each video to its facts, or to the error of opening it.
    """
    return {path: probe.warning for path, probe in probes.items() if isinstance(probe, Probe) and probe.warning}


def label_warnings(listing: Listing, *, are_named: bool) -> list[str]:
    """Returns sentences about labels that look like mistakes, for example a label that only one of many videos has.
    `listing` has the videos with their labels.

    If `are_named` is true, the config lists the classes in `dataset.classes`. Then there is nothing to warn about, and
    the result is empty.
    """
    if are_named:
        return []
    warnings = []
    if triples := [name for name in listing.classes if TRIPLE.fullmatch(name)]:
        warnings.append(
            f"{counted(len(triples), 'class looks', 'classes look')} like actions of Charades with their times, as "
            f"{triples[0]!r}, and each is a class of its own. Give the class alone, or a line for each action "
            "with the columns start and end."
        )
    counts = Counter(label for video in listing.videos for label in video.labels)
    num_labelled = sum(bool(video.labels) for video in listing.videos)
    once = [listing.classes[label] for label, count in sorted(counts.items()) if count == 1]
    once = [name for name in once if not TRIPLE.fullmatch(name)]
    if once and num_labelled >= MANY_VIDEOS:
        warnings.append(
            f"found once among {counted(num_labelled, 'labelled video')}: {len(once):,} of "
            f"{counted(len(listing.classes), 'class')}, {first_of(once, SHOWN)}. "
            "Are they misspelt? dataset.classes says which are allowed."
        )
    return warnings


def mirror_warnings(classes: Sequence[str], crop_names: Sequence[str]) -> list[str]:
    """Returns a list with one warning if a crop mirrors the frames and a class depends on the side. Otherwise the list
    is empty.

    `classes` are the names of the classes, such as "Pushing something from left to right". `crop_names` are the names
    of all crops, such as "center_flip".
    """
    mirrored, sided = list(filter(is_mirrored, crop_names)), sided_classes(classes)
    if not mirrored or not sided:
        return []
    return [
        f"clips.crops: {mirrored[0]} mirrors the frames, and {counted(len(sided), 'class tells', 'classes tell')} left "
        f"from right, such as {sided[0]!r}. A mirrored video may show another class. Leave out crops that end in _flip."
    ]

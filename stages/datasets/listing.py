"""Defines the Listing of a data set: its videos, labels and splits. Torch-free."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import xxhash

from kinegraph.cache_schemas.clips_table import Interval, interval_id, name_of_video
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.decode.numbered_images import NumberedImages

CHARADES_CLASS = re.compile(r"(c\d{3}) .")  # each line of Charades_v1_classes.txt begins with a label
OnVideosMade = Callable[[int], None]  # called with the number of videos made since the last call


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One video of a data set, or one interval of a video."""

    video_id: str  # a unique name, such as `push/1.mp4`, or `push/1.mp4@2-5` for the interval from 2 to 5 s
    path: str  # a file, a folder of images, or a URL
    split: str  # the name of its split, such as "train"
    labels: tuple[int, ...]  # the class numbers, which are indices into `Listing.classes`
    list_index: int  # the place of the video in the data set's list, from 0
    interval: Interval | None = None  # (start, end) in seconds, or None for a whole video
    frame_rate: float | None = None  # images per second, if the video is a folder of images. Otherwise None.
    images: NumberedImages | None = None  # the NumberedImages of the folder, if the folder was listed already
    # The labelled parts of a whole video, as (interval, labels). Only `listing_of_whole_videos` sets them.
    segments: tuple[tuple[Interval, tuple[int, ...]], ...] = ()
    # The numbers of the frames that the owners annotated, from 0, for `sampling: annotated`
    annotated_frames: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MissingVideo:
    """A video that a label file lists and that has no file. `split` is its split. `words` say which file was looked
    for.
    """

    split: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos of a data set with their labels and splits. The fields from `missing` on are only set for data sets in
    the form in which their owners publish them.
    """

    classes: tuple[str, ...]  # the names of the classes. Labels are indices into `classes`.
    videos: tuple[Video, ...]  # the videos and intervals, sorted by id
    # Whether a video may have several labels. None means that the videos decide: it is true if some video has several
    # labels.
    multi_label: bool | None = None
    # {ending: number of files with this ending that are no videos}, such as {".txt": 3}
    left_out: Mapping[str, int] = field(default_factory=dict)
    uses_shares: bool = False  # whether some video was listed without a split, so that the option `splits` decides
    # {name: MissingVideo} of the listed videos without a file. These videos are not in `videos`.
    missing: Mapping[str, MissingVideo] = field(default_factory=dict)
    listed: Mapping[str, int] = field(default_factory=dict)  # {split: number of videos in the label files}
    published: Mapping[str, int] = field(default_factory=dict)  # {split: number of videos that the owners published}
    classes_from: str = ""  # the file or rule from which the order of the classes comes, in words
    num_published_classes: int = 0  # the number of classes that the owners published, or 0
    # {class: {attribute: value}}, such as {"c000 Holding a cup": {"object": "cup"}}
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # sentences about what was dropped or changed
    # {file name without ending: list of Entry}. The keys are all names that the file of a missing video may have.
    # `name` and `path` of each Entry are empty.
    absent: Mapping[str, Sequence["Entry"]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A video, or an interval of a video, as a csv lists it or as it lies below a folder."""

    name: str  # the id of the whole video, also for an interval
    path: str  # a file, a folder of images, or a URL
    label_names: tuple[str, ...]  # the names of its classes
    split: str  # the name of its split, or "" if the csv or the folder has no splits
    interval: Interval | None = None  # (start, end) in seconds, or None for the whole video
    frame_rate: float | None = None  # images per second, if the video is a folder of images. Otherwise None.
    images: NumberedImages | None = None  # the NumberedImages of the folder, if the folder was listed already

    @property
    def video_id(self) -> str:
        """Returns the id of the video, such as `push/1.mp4`. For an interval, returns the id of the interval, such as
        `push/1.mp4@2-5`.
        """
        return self.name if self.interval is None else interval_id(self.name, self.interval)


def split_by_share(video_id: str, splits: Mapping[str, float]) -> str:
    """Returns the split of a video that was listed without a split. `splits` maps each split to its share.

    A digest of `video_id` decides, so the split never changes if other videos are added. With {"train": 3, "val": 1},
    about three quarters of the videos are train.
    """
    point = xxhash.xxh3_64_intdigest(video_id.encode()) / 2**64 * sum(splits.values())
    for name, share in splits.items():
        point -= share
        if point < 0:
            return name
    return name


def listing_of(
    entries: list[Entry],
    splits: Mapping[str, float],
    classes: tuple[str, ...] = (),
    multi_label: bool | None = None,
) -> Listing:
    """Returns the Listing of `entries`. Class names become label numbers.

    `splits`: {split: share}, for entries without a split.
    `classes`: the class names in order. If it is empty, the classes are the names in `entries`, sorted.
    `multi_label`: the option of the data set. If it is False, a video may have only one label.

    Raises DatasetError if a video is listed twice, and for labels that the options do not allow.
    """
    classes = classes or tuple(sorted({name for entry in entries for name in entry.label_names}))
    index = {name: label for label, name in enumerate(classes)}
    index |= {match[1]: label for name, label in index.items() if (match := CHARADES_CLASS.match(name))}
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
        split = entry.split or split_by_share(entry.name, splits)  # all intervals of a video get the same split
        videos[video_id] = Video(
            video_id=video_id, path=entry.path, split=split, labels=labels, list_index=place, interval=entry.interval,
            frame_rate=entry.frame_rate, images=entry.images,
        )  # fmt: skip
    return Listing(
        classes=classes,
        videos=tuple(videos[key] for key in sorted(videos)),
        multi_label=multi_label,
        uses_shares=not all(entry.split for entry in entries),
    )


def listing_of_whole_videos(listing: Listing) -> Listing:
    """Returns a copy of `listing` with one Video for each whole video. The intervals of a video become its `segments`,
    in the order of time. The labels of a video are those of all its intervals.

    Raises DatasetError if the intervals of a video are in several splits.
    """
    of_name: dict[str, list[Video]] = {}
    for video in listing.videos:
        of_name.setdefault(name_of_video(video.video_id, video.interval), []).append(video)
    return replace(listing, videos=tuple(_whole(name, of_name[name]) for name in sorted(of_name)))


def _whole(name: str, entries: list[Video]) -> Video:
    """Returns the whole video `name`. `entries` are its intervals, or the video itself."""
    if len(splits := sorted({entry.split for entry in entries})) > 1:
        raise DatasetError(
            f"{name} is in the splits {', '.join(splits)}. Windows go over the whole video, so it needs one split."
        )
    return replace(
        entries[0],
        video_id=name,
        labels=tuple(sorted({label for entry in entries for label in entry.labels})),
        list_index=min(entry.list_index for entry in entries),
        interval=None,
        segments=tuple(sorted((entry.interval, entry.labels) for entry in entries if entry.interval is not None)),
    )

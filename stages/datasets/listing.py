"""Defines the listing of a data set: its videos, labels and splits. Torch-free."""

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
    """One video of a data set, or one interval of a video.

    `video_id` is unique, such as `push/1.mp4`, or `push/1.mp4@2-5` for the interval from 2 to 5 s. `list_index` is the
    place in the data set's list, from 0. `path` is a path or URL. `labels` are indices into `Listing.classes`.
    `interval` is (start, end) in seconds, or None for a whole video. `frame_rate` is set only for a video that is a
    folder of images. `images` describes these images, if the folder was listed already. `segments` are the labelled
    parts of a whole video, as (interval, labels). Only `listing_of_whole_videos` sets them. `annotated_frames` are the
    numbers of the frames that the owners annotated, from 0, for the sampling `annotated`.
    """

    video_id: str
    path: str
    split: str
    labels: tuple[int, ...]
    list_index: int
    interval: Interval | None = None
    frame_rate: float | None = None
    images: NumberedImages | None = None
    segments: tuple[tuple[Interval, tuple[int, ...]], ...] = ()
    annotated_frames: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MissingVideo:
    """A video that a label file lists and that has no file. `split` is its split, and `words` say what was looked
    for.
    """

    split: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Holds a data set: `videos` are its Videos, sorted by id, and `classes` are the names of the classes.

    `multi_label` says whether videos may have several labels. None means yes if some video has several labels, else no.
    `left_out` maps an ending to the number of files below the root that are no videos ({".txt": 3}). `dealt` is true if
    at least one video was listed without a split. Such videos get a split by the shares of the option `splits`.

    The other fields are set for data sets as their owners ship them. `missing` maps the name of a listed video
    without a file to its MissingVideo. Such a video is not in `videos`. `listed` maps a split to the number of videos
    in the label files, and `published` to the number that the owners publish. `classes_from` says which file or rule
    gave the order of the classes. `num_published_classes` is the number of classes that the owners publish, or 0.
    `attributes` maps a class to attribute -> value ({"c000 Holding a cup": {"object": "cup"}}). `notes` are sentences
    about what was dropped or changed. `absent` maps each name that the file of a missing video may have, without
    ending, to the entries of the video. Their `name` and `path` are "".
    """

    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    multi_label: bool | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    dealt: bool = False
    missing: Mapping[str, MissingVideo] = field(default_factory=dict)
    listed: Mapping[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    classes_from: str = ""
    num_published_classes: int = 0
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    absent: Mapping[str, Sequence["Entry"]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A video or an interval of a video, as found in a csv or below a folder.

    `name` is the id of the whole video, also for an interval. `path` is a file, a folder of images or a URL.
    `label_names` are the names of its classes. `split` is "" if the csv or the folder has no splits. `interval` is
    (start, end) in seconds, or None for the whole video. `frame_rate` and `images` are set only for a folder of
    numbered images: its images per second, and the NumberedImages in it.
    """

    name: str
    path: str
    label_names: tuple[str, ...]
    split: str
    interval: Interval | None = None
    frame_rate: float | None = None
    images: NumberedImages | None = None

    @property
    def video_id(self) -> str:
        """Returns the id of the video, such as `push/1.mp4`. For an interval, returns the id of the interval, such as
        `push/1.mp4@2-5`.
        """
        return self.name if self.interval is None else interval_id(self.name, self.interval)


def dealt_split(video_id: str, splits: Mapping[str, float]) -> str:
    """Returns the split of a video that was listed without a split. `splits` maps each split to its share.

    The digest of `video_id`, as a number from 0 to 1, decides. The range from 0 to 1 is divided among the splits in
    proportion to their shares. With {"train": 3, "val": 1}, for example, numbers below 0.75 are train.
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
    """Returns the Listing of `entries`. Class names become label numbers. Entries without a split get one by the shares
    of `splits`.

    `multi_label` is the option of the data set: if it is False, a video may have only one label. Without `classes`, the
    classes are the names found in `entries`, sorted. Raises DatasetError for a video that is listed twice, and for
    labels that the options do not allow.
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
        split = entry.split or dealt_split(entry.name, splits)  # all intervals of a video get the same split
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


def listing_of_whole_videos(listing: Listing) -> Listing:
    """Returns a copy of `listing` with one entry for each whole video. The intervals of a video become its `segments`,
    in the order of time, and its labels are those of all its entries.

    Raises DatasetError if the intervals of a video are in several splits.
    """
    of_name: dict[str, list[Video]] = {}
    for video in listing.videos:
        of_name.setdefault(name_of_video(video.video_id, video.interval), []).append(video)
    return replace(listing, videos=tuple(_whole(name, of_name[name]) for name in sorted(of_name)))


def _whole(name: str, entries: list[Video]) -> Video:
    """Returns the whole video `name`, of which `entries` are the intervals or the video itself."""
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

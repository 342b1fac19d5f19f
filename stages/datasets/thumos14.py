"""Lists the videos of the data set THUMOS14 that have labelled segments. The labels come from the owners' csv files or
from the JSON file of G-TAD. Torch-free.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.json_list import database_of, json_document, untrimmed_videos
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import Thumos14Options
from kinegraph.stages.datasets.segments import Segment, UntrimmedVideo, release_of

VALIDATION, TEST, GTAD = "val_Annotation.csv", "thumos14_test_groundtruth.csv", "thumos_gt.json"
HEADERS = {
    VALIDATION: "video,type,type_idx,start,end,startFrame,endFrame",
    TEST: "video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx",
}
COLUMNS = {VALIDATION: ("video", "start", "end"), TEST: ("video-name", "t-init", "t-end")}
DURATION = "video-duration"
PUBLISHED, PUBLISHED_BY_GTAD = {"train": 200, "test": 213}, {"train": 200, "test": 210}
SPLIT_OF = {"video_validation_": "train", "video_test_": "test"}  # first letters of the names -> split
AMBIGUOUS = "Ambiguous"
CLASSES = (
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault",
    "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
)  # fmt: skip
INDEX = {"-1": AMBIGUOUS} | {str(index): name for index, name in enumerate(CLASSES)}


def list_thumos14(options: Thumos14Options, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos and labelled segments of THUMOS14. The split train has the videos
    `video_validation_*`, and test has `video_test_*`. Segments with the label Ambiguous are left out.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a label file is missing or is not of THUMOS14, and if no listed video is below `options.root`.
    """
    if options.labels == "gtad":
        database = database_of(GTAD, json_document(GTAD, label_text(options, GTAD)))
        videos = list(untrimmed_videos(GTAD, database, {}, ()))
    else:
        videos = [video for name in (VALIDATION, TEST) for video in _videos(name, label_text(options, name))]
    num_ambiguous = 0
    for video in videos:
        if video.split != (expected := _split(video.name, video.where)):
            raise DatasetError(f"{video.where}: subset {video.split}; expected {expected} for this name.")
        before = len(video.segments)
        video.segments[:] = [segment for segment in video.segments if segment.label != AMBIGUOUS]
        num_ambiguous += before - len(video.segments)
    left_out = f"{counted(num_ambiguous, 'segment')} with the label {AMBIGUOUS}: left out."
    release = release_of(
        videos,
        options.leave_out,
        title="THUMOS14",
        classes=CLASSES,
        classes_from="the 20 names of THUMOS14, sorted as in the owners' test file",
        num_classes=20,
        published=PUBLISHED_BY_GTAD if options.labels == "gtad" else PUBLISHED,
        notes=[left_out] if num_ambiguous else (),
    )
    return listing_of_release(release, options.root, tries=tries)


def _split(name: str, where: str) -> str:
    for start, split in SPLIT_OF.items():
        if name.startswith(start):
            return split
    raise DatasetError(f"{where}: {name!r} is no name of a video; expected {' or '.join(f'{s}*' for s in SPLIT_OF)}.")


def _videos(name: str, text: str) -> Iterator[UntrimmedVideo]:
    """Yields each video of the csv `name`, whose content is `text`, with its segments.

    Times in the csv are seconds. The frame numbers beside the times are not read, because the validation file counts 30
    frames per second for all videos.
    """
    segments, durations = defaultdict[str, list[Segment]](list), dict[str, float]()
    video_column, start, end = COLUMNS[name]
    for where, row in _rows(name, text):
        video = row[video_column]
        segments[video].append(
            Segment(
                start=_number(where, start, row), end=_number(where, end, row), label=_label(where, row), where=where
            )
        )
        if DURATION in row:
            durations[video] = _number(where, DURATION, row)
    for video, of_video in segments.items():
        first = of_video[0].where
        yield UntrimmedVideo(
            name=video, split=_split(video, first), where=first, duration=durations.get(video), segments=of_video
        )


def _rows(name: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (place, fields) for each row of the csv `name`, whose content is `text`. The place is the file and the
    line, for messages. The fields are {column: text}. Raises DatasetError for another header than THUMOS14 has, and for
    a row with another number of fields.
    """
    header = HEADERS[name].split(",")
    for number, fields in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
        if number == 1 and fields != header:
            raise DatasetError(f"{name}: its first line is {','.join(fields)!r:.200}; expected {HEADERS[name]!r}.")
        if number > 1 and fields:
            if len(fields) != len(header):
                raise DatasetError(f"{name}: line {number}: {counted(len(fields), 'field')}; expected {len(header)}.")
            yield f"{name}: line {number}", dict(zip(header, fields, strict=True))


def _number(where: str, column: str, row: Mapping[str, str]) -> float:
    try:
        seconds = float(row[column])
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise DatasetError(f"{where}: {column} is {row[column]!r}; expected a number of seconds.")
    return seconds


def _label(where: str, row: Mapping[str, str]) -> str:
    """Returns the class name of the csv row `row`. The validation file states the name, and the test file states the
    index of the class. Raises DatasetError for an index that does not exist.
    """
    if "type" in row:
        return row["type"]
    if (name := INDEX.get(row["label-idx"])) is None:
        raise DatasetError(f"{where}: label-idx {row['label-idx']!r}; expected 0 to 19, or -1 for {AMBIGUOUS}.")
    return name

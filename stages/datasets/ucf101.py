"""Lists the videos of the data set UCF101 by one of its three official splits. Torch-free."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import Release, Sample, label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import Ucf101Options

CLASSES = "classInd.txt"
NUMBERED_CLASS = re.compile(r"(\d+) (\S+)")
PUBLISHED = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}  # videos of train and test


def list_ucf101(options: Ucf101Options, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos of UCF101, with the splits train and test.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a label file is missing or is not of UCF101, and if no listed video is below `options.root`.
    """
    class_of = dict(_classes(options))
    samples = [
        Sample(name=path.stem, label_names=(_class(path, class_of, where),), split=split, where=where)
        for split in ("train", "test")
        for path, where in _paths(options, f"{split}list{options.official_split:02d}.txt")
    ]
    train, test = PUBLISHED[options.official_split]
    release = Release(
        title=f"UCF101, split {options.official_split}",
        classes=tuple(class_of.values()),
        classes_from=CLASSES,
        samples=samples,
        published={"train": train, "test": test},
        num_classes=101,
    )
    return listing_of_release(release, options.root, tries=tries)


def _classes(options: Ucf101Options) -> Iterator[tuple[str, str]]:
    """Yields (name in small letters, name) of each class, in the order of the class file."""
    for number, line in enumerate(filter(None, map(str.strip, label_text(options, CLASSES).splitlines())), 1):
        match = NUMBERED_CLASS.fullmatch(line)
        if match is None or int(match[1]) != number:
            raise DatasetError(f"{CLASSES}: line {number}: {line!r}; expected `{number} <class>`.")
        yield match[2].lower(), match[2]


def _paths(options: Ucf101Options, name: str) -> Iterator[tuple[PurePosixPath, str]]:
    """Yields (path of the video, place for messages) for each line of the list of videos `name`. A line may also have a
    class number after the path. The number is ignored, because the folder in the path names the class.
    """
    for number, line in enumerate(label_text(options, name).splitlines(), 1):
        if line.strip():
            yield PurePosixPath(line.split()[0]), f"{name}: line {number}"


def _class(path: PurePosixPath, class_of: dict[str, str], where: str) -> str:
    """Returns the class of a video, from the folder in its path: `ApplyLipstick/a.avi` -> "ApplyLipstick". `class_of`
    maps names in small letters to the spelling of the class file.

    Raises DatasetError for a path of another form. The message begins with `where`.
    """
    if path.suffix != ".avi" or len(path.parts) != 2:
        raise DatasetError(f"{where}: {str(path)!r}; expected `<class>/<video>.avi`.")
    return class_of.get(path.parts[0].lower(), path.parts[0])

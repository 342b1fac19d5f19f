"""Lists the videos of the data set HMDB51 by one of its three official splits. Torch-free."""

import re
from collections.abc import Iterator
from pathlib import Path

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import Release, Sample, label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import Hmdb51Options
from kinegraph.stages.remote.urls import FILE, is_url

NUM_CLASSES = 51
LIST = re.compile(r"(.+)_test_split([123])\.txt")
LINE = re.compile(r"(\S.*)\.avi\s+([012])\s*")  # file, and 1 for train, 2 for test, 0 for neither
SPLIT_OF = {"1": "train", "2": "test"}
PUBLISHED = {"train": 3570, "test": 1530}  # of each official split


def list_hmdb51(options: Hmdb51Options, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos of HMDB51, with the splits train and test.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    the list of a class is missing or is not of HMDB51, and if no listed video is below `options.root`.
    """
    classes, neither, samples = _classes(options), 0, list[Sample]()
    for label in classes:
        for name, mark, where in _lines(options, label):
            if mark in SPLIT_OF:
                samples.append(Sample(name=name, label_names=(label,), split=SPLIT_OF[mark], where=where))
            else:
                neither += 1
    release = Release(
        title=f"HMDB51, split {options.official_split}",
        classes=classes,
        classes_from="the names of the lists, sorted",
        samples=samples,
        published=PUBLISHED,
        num_classes=NUM_CLASSES,
        notes=(f"The lists mark {counted(neither, 'video')} with 0, for neither split.",) if neither else (),
    )
    return listing_of_release(release, options.root, tries=tries)


def _classes(options: Hmdb51Options) -> tuple[str, ...]:
    """Returns the names of the classes, sorted. They come from the names of the list files in the folder, which has one
    list per class and official split (`kick_test_split1.txt`).

    Raises DatasetError if a class has no list for the chosen split, because all later classes would get wrong numbers.
    """
    folder = Path(options.annotations.removeprefix(FILE))
    if is_url(options.annotations.removeprefix(FILE)):
        raise DatasetError("dataset.annotations: given a URL. The lists of HMDB51 must lie in a folder.")
    matches = [match for path in folder.glob("*.txt") if (match := LIST.fullmatch(path.name))]
    classes = sorted({match[1] for match in matches})
    of_split = {match[1] for match in matches if int(match[2]) == options.official_split}
    if not of_split:
        raise DatasetError(
            f"dataset.annotations: no `<class>_test_split{options.official_split}.txt` in {folder}. Expected the "
            "folder testTrainMulti_7030_splits."
        )
    if missing := [name for name in classes if name not in of_split]:
        raise DatasetError(
            f"dataset.annotations: no {missing[0]}_test_split{options.official_split}.txt in {folder}, which has other "
            f"splits of {missing[0]}. Lists missing: {len(missing)}. Unpack the lists again."
        )
    return tuple(classes)


def _lines(options: Hmdb51Options, label: str) -> Iterator[tuple[str, str, str]]:
    """Yields (name of a video without its ending, mark, place for messages) for each line of the list of the class
    `label`. The mark is "0" (not used), "1" (train) or "2" (test).
    """
    name = f"{label}_test_split{options.official_split}.txt"
    for number, line in enumerate(label_text(options, name).splitlines(), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise DatasetError(f"{name}: line {number}: {line!r}; expected `<video>.avi` and 0, 1 or 2.")
        yield match[1], match[2], f"{name}: line {number}"

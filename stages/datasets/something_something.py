"""Lists the videos of the data set Something-Something, version 1 or 2. Torch-free."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import Release, Sample, label_json, label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import SomethingSomethingOptions
from kinegraph.stages.remote.urls import FILE

NUM_CLASSES = 174
FRAME_RATE = 12.0  # images per second in the folders of version 1
PART = {"train": "train", "val": "validation", "test": "test"}  # split -> its word in the names of the label files
PUBLISHED = {
    1: {"train": 86017, "val": 11522, "test": 10960},
    2: {"train": 168913, "val": 24777, "test": 27157},
}
BRACKETS = re.compile(r"[\[\]]")


def list_something_something(
    options: SomethingSomethingOptions, progress: OnVideosMade | None = None, tries: int = 1
) -> Listing:
    """Returns the Listing of the videos of Something-Something, with the splits train and val. If `options.test` is
    set, the Listing also has the split test, without labels.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a label file is missing or belongs to another version than `options.version`, or if no listed video is below
    `options.root`.
    """
    name = _label_file(options, "labels")
    classes = _classes_of_csv(options, name, tries) if options.version == 1 else _classes_of_json(options, name, tries)
    is_sorted, notes = options.class_order == "sorted", list[str]()
    if options.version == 1 and not is_sorted and all(first < second for first, second in pairwise(classes)):
        notes.append(f"{name} is sorted, and the owners' file is not. With class_order: owner the order is wrong.")
    splits = [split for split in PART if split != "test" or options.test]
    samples_of = _samples_of_csv if options.version == 1 else _samples_of_json
    release = Release(
        title=f"Something-Something V{options.version}",
        classes=tuple(sorted(classes) if is_sorted else classes),
        classes_from=f"{name}, sorted" if is_sorted else name,
        samples=[sample for split in splits for sample in samples_of(options, split, tries)],
        published={split: PUBLISHED[options.version][split] for split in splits},
        num_classes=NUM_CLASSES,
        notes=tuple(notes),
    )
    frame_rate = options.frame_rate or (FRAME_RATE if options.version == 1 else None)
    return listing_of_release(release, options.root, frame_rate=frame_rate, tries=tries)


def _label_file(options: SomethingSomethingOptions, part: str) -> str:
    """Returns the name of the label file for `part`, which is "labels" or the word of a split. The owners publish each
    file under a long and a short name: something-something-v2-train.json or train.json. The name of the file that
    exists is returned.

    Raises DatasetError if the folder has only the file of the other version.
    """
    folder = Path(options.annotations.removeprefix(FILE))
    names = {1: f"something-something-v1-{part}.csv", 2: f"something-something-v2-{part}.json"}
    short, other = f"{part}{Path(names[options.version]).suffix}", 3 - options.version
    if (folder / names[options.version]).exists():
        return names[options.version]
    if (folder / short).exists():
        return short
    if (folder / names[other]).exists():
        raise DatasetError(
            f"dataset.version: given {options.version}, but {folder} has {names[other]} and no "
            f"{names[options.version]}. Set dataset.version: {other}, or let dataset.annotations be another folder."
        )
    return names[options.version]


def _lines(options: SomethingSomethingOptions, name: str, tries: int) -> Iterator[tuple[str, str]]:
    """Yields (line, place for messages) for each line of the csv `name`. Empty lines are left out. Raises DatasetError
    if the file is JSON.
    """
    for number, line in enumerate(label_text(options, name, tries).splitlines(), 1):
        if line.strip() in ("[", "{"):
            raise DatasetError(f"{name}: line {number}: JSON, as of version 2. Expected the csv of version 1.")
        if line.strip():
            yield line.strip(), f"{name}: line {number}"


def _classes_of_csv(options: SomethingSomethingOptions, name: str, tries: int) -> list[str]:
    classes: dict[str, str] = {}
    for line, where in _lines(options, name, tries):
        if ";" in line:
            raise DatasetError(f"{where}: {line!r}; expected the name of a class. Is it a list of videos?")
        if line in classes:
            raise DatasetError(f"{where}: {line!r} is in {classes[line]}, too.")
        classes[line] = where
    return list(classes)


def _classes_of_json(options: SomethingSomethingOptions, name: str, tries: int) -> list[str]:
    numbers = label_json(options, name, tries)
    if not isinstance(numbers, dict):
        raise DatasetError(f'{name}: a list; expected {{"<class>": "<number>", ...}}. Is it a list of videos?')
    classes = sorted(numbers, key=lambda label: int(numbers[label]) if str(numbers[label]).isdecimal() else -1)
    if [str(numbers[label]) for label in classes] != [str(number) for number in range(len(classes))]:
        raise DatasetError(f"{name}: expected the numbers from 0 to {len(numbers) - 1} for its classes, each once.")
    return classes


def _samples_of_csv(options: SomethingSomethingOptions, split: str, tries: int) -> Iterator[Sample]:
    name = _label_file(options, PART[split])
    for line, where in _lines(options, name, tries):
        video, semicolon, label = line.partition(";")
        if bool(semicolon) is (split == "test"):
            form, other = ("<id>", "train") if split == "test" else ("<id>;<class>", "test")
            raise DatasetError(f"{where}: {line!r}; expected `{form}`. Is it the list of the {other} split?")
        yield Sample(name=video, label_names=(label,) if semicolon else (), split=split, where=where)


def _samples_of_json(options: SomethingSomethingOptions, split: str, tries: int) -> Iterator[Sample]:
    """Yields a Sample for each entry of the json file of `split`. The class of an entry is its `template` without the
    brackets: `Pushing [something]` -> "Pushing something". The key `label` of an entry is free text and is ignored.
    """
    name = _label_file(options, PART[split])
    entries = label_json(options, name, tries)
    if not isinstance(entries, list):
        raise DatasetError(f'{name}: no list; expected [{{"id": ..., "template": ...}}, ...].')
    for number, entry in enumerate(entries, 1):
        where = f"{name}: entry {number}"
        video, template = (entry.get("id"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(video, str):
            raise DatasetError(f'{where}: expected an object with "id": "<number>".')
        if split == "test" and template is not None:
            raise DatasetError(f"{where} (id {video}) has a template, and the test split has none. Is it another list?")
        if split != "test" and not isinstance(template, str):
            raise DatasetError(f"{where} (id {video}) has no template. Is it the list of the test split?")
        labels = () if template is None else (BRACKETS.sub("", template),)
        yield Sample(name=video, label_names=labels, split=split, where=where)

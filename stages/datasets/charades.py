"""Lists the videos of the data set Charades, with labels for each video or for each action of a video. Torch-free."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.csv_list import csv_lines
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import Release, Sample, has_label_file, label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import CharadesOptions

CLASSES = "Charades_v1_classes.txt"
MAPPING = "Charades_v1_mapping.txt"  # the object and the verb of each class
NAMES = {"object": ("o", "Charades_v1_objectclasses.txt"), "verb": ("v", "Charades_v1_verbclasses.txt")}
FILES = {"train": "Charades_v1_train.csv", "val": "Charades_v1_test.csv"}  # papers call test.csv validation
COLUMNS = ("id", "actions", "length")  # the columns that are read; releases differ in the others
PUBLISHED = {"train": 7985, "val": 1863}
NUM_CLASSES = 157
CODED = re.compile(r"([cov])(\d{3}) (\S.*)")  # a line of a list of classes, objects or verbs
ACTION = re.compile(r"(c\d{3}) (\S+) (\S+)")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a csv of Charades."""

    name: str  # the id of the video
    split: str  # the name of its split
    where: str  # the file and line, for messages
    actions: tuple[tuple[str, float, float], ...]  # (class name, start, end) of each action, in seconds as listed
    length: float  # the length of the video in seconds


def list_charades(options: CharadesOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos of Charades, or of the actions in them, with the splits train and val.
    `options.labels` chooses between videos and actions.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a label file is missing or is not of Charades, and if no listed video is below `options.root`.
    """
    class_of, rows = charades_rows(options, tries)
    changed: Counter[str] = Counter()
    without: list[Sample] = []
    if options.labels == "video":
        samples = [_whole(row) for row in rows]
    else:
        samples = [sample for row in rows for sample in _intervals(row, changed)]
        names = {sample.name for sample in samples}
        without = [replace(_whole(row), label_names=()) for row in rows if row.name not in names]
    if options.without_actions:
        samples, without = [*samples, *without], []
    release = Release(
        title="Charades",
        classes=tuple(class_of.values()),
        classes_from=CLASSES,
        samples=samples,
        published=PUBLISHED,
        num_classes=NUM_CLASSES,
        multi_label=True,
        notes=tuple(_notes(changed, len(without))),
        without_rows=without,
        attributes=_attributes(options, class_of, tries),
    )
    return listing_of_release(release, options.root, frame_rate=options.frame_rate, tries=tries)


def charades_rows(options: CharadesOptions, tries: int = 1) -> tuple[dict[str, str], list[Row]]:
    """Reads the label files of Charades. Returns (classes, rows). The classes are a dictionary, {"c000": "c000 Holding
    some clothes", ...}. The rows have one Row for each line of the two csv files.

    A URL is requested at most `tries` times. Raises DatasetError if a file is missing or is not of Charades.
    """
    class_of = _coded(options, CLASSES, "c", tries)
    return class_of, [row for split in FILES for row in _rows(options, split, class_of, tries)]


def _coded(options: CharadesOptions, name: str, letter: str, tries: int) -> dict[str, str]:
    """Returns {code: whole line} for each line of a list of names, such as {"c000": "c000 Holding some clothes"}.

    Raises DatasetError unless the codes are `letter` with the numbers 000, 001 and so on.
    """
    lines = [line for line in map(str.strip, label_text(options, name, tries).splitlines()) if line]
    for number, line in enumerate(lines):
        match = CODED.fullmatch(line)
        if match is None or match[1] != letter or int(match[2]) != number:
            raise DatasetError(
                f"{name}: line {number + 1}: {line!r}; expected `{letter}{number:03d} <name>`. Is the file whole, and "
                "of Charades?"
            )
    if not lines:
        raise DatasetError(f"{name}: it is empty; expected `{letter}000 <name>` in its first line.")
    return {line[:4]: line for line in lines}


def _attributes(options: CharadesOptions, class_of: Mapping[str, str], tries: int) -> dict[str, dict[str, str]]:
    """Returns {class: {"object": ..., "verb": ...}} from the owners' mapping. Without the owners' lists of objects and
    verbs the values are codes, such as `o009`. Returns an empty dictionary if there is no mapping.

    Raises DatasetError if a line of a file is not of Charades.
    """
    if not has_label_file(options, MAPPING):
        return {}
    names = {
        attribute: _coded(options, name, letter, tries) if has_label_file(options, name) else {}
        for attribute, (letter, name) in NAMES.items()
    }
    attributes = {}
    for number, line in enumerate(label_text(options, MAPPING, tries).splitlines(), 1):
        codes = line.split()
        if codes and (len(codes) != 3 or codes[0] not in class_of):
            raise DatasetError(
                f"{MAPPING}: line {number}: {line!r}; expected `<class> <object> <verb>`, as c000 o009 v008"
            )
        if codes:
            of_class = zip(names, codes[1:], strict=True)
            attributes[class_of[codes[0]]] = {key: names[key].get(code, code)[5:] or code for key, code in of_class}
    return attributes


def _rows(options: CharadesOptions, split: str, class_of: Mapping[str, str], tries: int) -> Iterator[Row]:
    """Yields a Row for each line of the csv of `split`. Raises DatasetError if a field is not of Charades."""
    name = FILES[split]
    for where, fields in csv_lines(name, label_text(options, name, tries), COLUMNS):
        actions = tuple(
            _action(where, text, class_of) for text in filter(None, map(str.strip, fields["actions"].split(";")))
        )
        length = _seconds(where, "length", fields["length"])
        yield Row(name=fields["id"].strip(), split=split, where=where, actions=actions, length=length)


def _action(where: str, text: str, class_of: Mapping[str, str]) -> tuple[str, float, float]:
    """Returns (class name, start, end) of one action. `text` is the action in the csv, a class code with start and end
    in seconds, such as `c092 11.90 21.20`. `class_of` maps codes to class names.

    Raises DatasetError for any other text. The message begins with `where`, the file and the line.
    """
    match = ACTION.fullmatch(text)
    if match is None:
        raise DatasetError(f"{where}: the action {text!r}; expected `c<number> <start> <end>`, in seconds.")
    if match[1] not in class_of:
        raise DatasetError(
            f"{where}: {match[1]} is none of the {counted(len(class_of), 'class')} of {CLASSES}. Is one of the files "
            "of another release, or cut off?"
        )
    return class_of[match[1]], _seconds(where, text, match[2]), _seconds(where, text, match[3])


def _seconds(where: str, what: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DatasetError(f"{where}: {what}: {text!r}; expected seconds, 0 or more.")
    return seconds


def _whole(row: Row) -> Sample:
    """Returns the Sample of the whole video of `row`, with the classes of all its actions. The official scorer for
    videos ignores times. So no class is left out.
    """
    names = tuple(dict.fromkeys(name for name, _, _ in row.actions))
    return Sample(name=row.name, label_names=names, split=row.split, where=row.where)


def _intervals(row: Row, changed: Counter[str]) -> Iterator[Sample]:
    """Yields one Sample for each interval of the video of `row` that has an action. Actions with the same start and end
    become one Sample with several labels.

    An action that ends after the video is clipped to the end of the video. An action that is then empty is dropped.
    `changed` counts the actions that are clipped or dropped.
    """
    names: dict[Interval, list[str]] = {}
    for name, start, end in row.actions:
        clipped = start, min(end, row.length)
        if clipped[0] >= clipped[1]:
            changed["empty"] += 1
            continue
        changed["clipped"] += clipped[1] < end
        names.setdefault(clipped, []).append(name)
    for interval, of_interval in names.items():
        labels = tuple(dict.fromkeys(of_interval))
        yield Sample(name=row.name, label_names=labels, split=row.split, where=row.where, interval=interval)


def _notes(changed: Counter[str], without: int) -> Iterator[str]:
    """Yields sentences about actions that were clipped or left out, and a sentence about the videos without an action.
    `changed` has the numbers of these actions. `without` is the number of these videos.
    """
    if count := changed["clipped"]:
        yield f"{counted(count, 'action ends', 'actions end')} after the video: clipped to the length in the csv."
    if count := changed["empty"]:
        yield f"{counted(count, 'action is', 'actions are')} empty within the length of the video: left out."
    if without:
        has = counted(without, "video has", "videos have")
        yield f"{has} no action: left out. `dataset.without_actions: true` keeps them."

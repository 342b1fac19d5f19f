"""Reads the annotations of Action Genome from its two pickle files, without running code of the files. Imports no
torch.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.cache_schemas.regular import MIB, require_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.action_genome.errors import ReleaseError
from kinegraph.stages.action_genome.frames import SPLITS, VOCABULARY, GenomeFrames
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.scene_graphs.vocabulary import plain
from kinegraph.stages.weights.pickles import read_pickle

OBJECTS, PERSONS = "object_bbox_and_relationship.pkl", "person_bbox.pkl"
MOST_BYTES = 4096 * MIB  # of a pickle
KEY = re.compile(r"([^/\\\0]{1,60})\.mp4/(\d{1,9})\.png")
KINDS = ("attention_relationship", "spatial_relationship", "contacting_relationship")
CLASSES = {plain(name): number for number, name in enumerate(VOCABULARY.classes)}
RELATIONS = {plain(name): number for number, name in enumerate(VOCABULARY.relations)}
Keyed = dict[str, Any]  # `001YG.mp4/000089.png` -> entry


def read_pickles(folder: Path) -> GenomeFrames:
    """Reads the two pickle files in `folder` and returns all annotated frames.

    The published files have 288,782 frames. Reading takes about 100 s of CPU time and 2 GB of memory. Raises
    ReleaseError if a file is missing, damaged, or is no file of Action Genome.
    """
    columns = _object_columns(_keyed(folder, OBJECTS))
    keys = columns.pop("keys")
    return GenomeFrames(**columns, **_person_columns(_keyed(folder, PERSONS), keys))


def _keyed(folder: Path, name: str) -> Keyed:
    """Reads the pickle file `name` in `folder` and returns its content, {key of a frame: entry}. A key is
    "<video>.mp4/<number>.png". Raises ReleaseError if the file is missing, too large, or has no such dictionary.
    """
    path = folder / name
    try:
        size = require_regular(path).st_size
        if size > MOST_BYTES:
            raise ReleaseError(f"{path} has {size // MIB:,} MiB, and at most {MOST_BYTES // MIB:,} are read.")
        content = read_pickle(path)
    except FileNotFoundError:
        raise ReleaseError(
            f"{path} does not exist. Action Genome's annotations have {OBJECTS} and {PERSONS}."
        ) from None
    except (OSError, WeightsError) as error:
        raise ReleaseError(str(error)) from error
    if not isinstance(content, dict) or not content:
        raise ReleaseError(f"{path}: holds a {type(content).__name__}, expected a dict with an entry for each frame.")
    return content


def _object_columns(entries: Keyed) -> dict[str, Any]:
    """Returns the arrays of GenomeFrames about videos, frames and objects, as {name: array}. The result also has
    "keys", the list of the keys of all frames in the order of the arrays. Empties `entries`.
    """
    placed = sorted((*_place(key), key) for key in entries)
    frames = [(video, _checked(key, entries.pop(key))) for video, _, key in placed]
    names, firsts = np.unique(np.array([video for video, *_ in placed]), return_index=True)
    objects = [listed for _, of_frame in frames for listed in of_frame]
    return {
        "videos": names,
        "is_test": _tests(names, frames),
        "frame_starts": np.append(firsts, len(placed)),
        "numbers": np.array([number for _, number, _ in placed], np.int32),
        "object_starts": np.cumsum([0, *(len(of_frame) for _, of_frame in frames)]),
        "classes": np.array([listed[1] for listed in objects], np.int16),
        "visible": np.array([listed[2] is not None for listed in objects], bool),
        "boxes_xywh": np.array([listed[2] or (np.nan,) * 4 for listed in objects], np.float64).reshape(-1, 4),
        "relations": np.array([listed[3] for listed in objects], np.uint32),
        "keys": [key for *_, key in placed],
    }


def _place(key: object) -> tuple[str, int]:
    """Returns (name of the video, number of the frame) for the key of a frame: "001YG.mp4/000089.png" -> ("001YG", 89).
    Raises ReleaseError for a key of another form.
    """
    match = KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None or not 0 < int(match[2]) < 2**31:
        raise ReleaseError(f"{OBJECTS}: has the frame {key!r:.80}, expected `<video>.mp4/<number from 1>.png`.")
    return match[1], int(match[2])


Listed = tuple[str, int, tuple[float, ...] | None, int]  # split, class, box as x, y, w, h, relations as bits


def _checked(key: str, entry: Any) -> list[Listed]:
    """Returns the objects in `entry`, the entry of the frame `key` in the pickle file. Raises ReleaseError if the entry
    is not a list of objects in the form of Action Genome.
    """
    if not isinstance(entry, list | tuple):
        raise ReleaseError(f"{OBJECTS}: {key} has a {type(entry).__name__}, expected a list of objects.")
    try:
        return [_object(listed) for listed in entry]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ReleaseError(f"{OBJECTS}: {key}: an object is not as in Action Genome: {what}") from error


def _object(listed: Mapping[str, Any]) -> Listed:
    number, split = CLASSES.get(plain(listed["class"])), listed["metadata"]["set"]
    if number is None:
        raise ValueError(f"its class {listed['class']!r} is none of the {len(CLASSES)} of object_classes.txt")
    if split not in SPLITS:
        raise ValueError(f"its set is {split!r}, expected {' or '.join(SPLITS)}")
    if not listed["visible"]:  # the box and the three lists are None
        return split, number, None, 0
    box = tuple(map(float, listed["bbox"]))
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0:
        raise ValueError(f"its box is {box}, expected x, y, width, height")
    return split, number, box, _bits(name for kind in KINDS for name in listed[kind] or ())


def _bits(names: Iterable[str]) -> int:
    bits = 0
    for name in names:
        if (number := RELATIONS.get(plain(name))) is None:
            raise ValueError(f"its relation {name!r} is none of the {len(RELATIONS)} of relationship_classes.txt")
        bits |= 1 << number
    return bits


def _tests(names: np.ndarray, frames: Iterable[tuple[str, list[Listed]]]) -> np.ndarray:
    """Returns a bool for each video in `names`, which is True if the video is in the split "test". `frames` has (name
    of the video, objects) for each frame. The objects state the split. Raises ReleaseError for a video in both splits,
    and for a video without an object.
    """
    split_of: dict[str, str] = {}
    for video, of_frame in frames:
        for split, *_ in of_frame:
            if split_of.setdefault(video, split) != split:
                raise ReleaseError(f"{OBJECTS}: {video} is in the sets train and test.")
    if without := [name for name in names.tolist() if name not in split_of]:
        raise ReleaseError(f"{OBJECTS}: {without[0]} has no object in any frame, so its set is unknown.")
    return np.array([split_of[name] == "test" for name in names.tolist()], bool)


def _person_columns(entries: Keyed, keys: list[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of GenomeFrames about persons, and the sizes of the frames, as {name: array}. `keys` are the
    keys of the frames in the order of the arrays. Empties `entries`. Raises ReleaseError if `entries` have other keys.
    """
    if entries.keys() != {*keys}:
        one = next(iter(entries.keys() ^ {*keys}))
        raise ReleaseError(
            f"{PERSONS} has {counted(len(entries), 'frame')} and {OBJECTS} {counted(len(keys), 'frame')}. Only one of "
            f"them has {one!r:.80}. Are both whole, and of one release?"
        )
    persons = [_persons(key, entries.pop(key)) for key in keys]
    return {
        "sizes": np.array([size for *_, size in persons], np.int32),
        "person_starts": np.cumsum([0, *(len(scores) for _, scores, _ in persons)]),
        "persons_xyxy": np.concatenate([boxes for boxes, *_ in persons]),
        "person_scores": np.concatenate([scores for _, scores, _ in persons]),
    }


def _persons(key: str, entry: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Returns (boxes float32 [n, 4], scores float32 [n], (width, height) of the frame) of the n persons in `entry`, the
    entry of the frame `key`. Raises ReleaseError if the entry is not in the form of Action Genome.
    """
    try:
        boxes = np.asarray(entry["bbox"], np.float32).reshape(-1, 4)
        scores = np.asarray(entry["bbox_score"], np.float32).reshape(-1)
        width, height = (int(side) for side in entry["bbox_size"])
        mode = entry.get("bbox_mode", "xyxy")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ReleaseError(f"{PERSONS}: {key} is not as in Action Genome: {what}") from error
    if mode != "xyxy" or len(scores) != len(boxes) or min(width, height) < 1 or not np.isfinite(boxes).all():
        raise ReleaseError(
            f"{PERSONS}: {key} has {counted(len(boxes), 'box')} of mode {mode!r:.20}, {counted(len(scores), 'score')} "
            f"and a frame of {width}x{height} px. Expected finite boxes of mode 'xyxy' and a score for each."
        )
    return boxes, scores, (width, height)

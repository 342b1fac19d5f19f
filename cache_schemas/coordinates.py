"""Writes coordinates for xarray into a zarr cache.

A coordinate labels every row with a text, for example with its clip_id. The texts are copied from a column of
clips.parquet. kinegraph itself never reads coordinates. Every zarr group that directly contains arrays of the cache
gets all coordinates.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numcodecs import zstd
from numcodecs.vlen import VLenUTF8

from kinegraph.cache_schemas.arrays import ABOUT, SCHEMA_VERSION
from kinegraph.cache_schemas.clips_table import TABLE
from kinegraph.cache_schemas.storage import Storage

COORDINATES = {  # name -> description
    "clip_id": "video, clip and crop of the row: <video_id>:<clip>:<crop>",
    "video_id": "the video of the row, or the interval of one",
    "split": "the part of the data set that the row belongs to",
    "label": "the name of the row's class; nothing where it has no label",
}
LABELS_ABOUT = "the names of the row's classes, as a JSON list"
CHUNK_ROWS = 65_536
_CHUNK_KEYS = {"name": "default", "configuration": {"separator": "/"}}  # names of shards have `.`, so no name clashes
_ZSTD_LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One coordinate: an array with a text for each row of the cache. xarray labels the rows with these texts."""

    name: str  # the name of the coordinate, for example `clip_id`
    document: bytes  # the content of its zarr.json, which contains a digest of the texts
    chunks: tuple[bytes, ...]  # the contents of its chunk objects, which hold the texts


Made = Callable[[], Sequence[Coordinate]]  # makes the coordinates, only where a store needs them


def coordinates_of(columns: Mapping[str, list[str]], labels: Sequence[str] | None, *, many: bool) -> list[Coordinate]:
    """Returns one Coordinate for each of `columns`, and one for `labels`. A coordinate is an array with a text for each
    row. xarray labels the rows with these texts.

    - `columns`: name of the coordinate (`clip_id`, `video_id` or `split`) -> the text of each row.
    - `labels`: the text for the labels of each row, as `label_names` returns it. None means no coordinate `label`.
    - `many`: whether a row may have several labels.
    """
    about = COORDINATES | ({"label": LABELS_ABOUT} if many else {})
    values = dict(columns) | ({} if labels is None else {"label": [*labels]})
    return [_coordinate(name, about[name], values[name]) for name in COORDINATES if name in values]


def label_names(rows: Sequence[Sequence[int]], classes: Sequence[str], *, many: bool) -> list[str]:
    """Returns a text for the labels of each row: the class name, or a JSON list of class names if `many` is true.

    `rows` has the list of labels of each row. A label is an index into `classes`. For a row without a label, the text
    is empty, or an empty JSON list if `many` is true. Raises KeyError for a label that has no name in `classes`.
    """
    names = dict(enumerate(classes))
    if many:
        return [json.dumps([names[label] for label in row], ensure_ascii=False) for row in rows]
    return [names[row[0]] if row else "" for row in rows]


def group_document(coordinates: Sequence[Coordinate] = (), num_rows: int = 0) -> bytes:
    """Returns the content of the file zarr.json of a zarr group.

    The content lists the names of `coordinates` and has one digest of all their texts. A coordinate is an array with a
    text for each of the `num_rows` rows. xarray labels the rows with these texts.
    """
    kinegraph: dict[str, object] = {"schema": SCHEMA_VERSION}
    attributes = ABOUT | {"kinegraph": kinegraph}
    if coordinates:
        digest = xxhash.xxh3_128_hexdigest(b"".join(one.document for one in coordinates))
        kinegraph["coordinates"] = {"rows": num_rows, "xxh3_128": digest}
        attributes["coordinates"] = " ".join(one.name for one in coordinates)
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def are_there(document: bytes | None, names: Sequence[str], num_rows: int) -> bool:
    """Returns whether the zarr.json of a group lists exactly the coordinates `names`, for `num_rows` rows. `document`
    is the content of the zarr.json. If it is None or damaged, returns False.
    """
    try:
        attributes = json.loads(document or b"")["attributes"]
        return bool(
            attributes["coordinates"] == " ".join(names) and attributes["kinegraph"]["coordinates"]["rows"] == num_rows
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def put_coordinates(storage: Storage, group: str, coordinates: Sequence[Coordinate]) -> None:
    """Writes `coordinates` into the zarr group with the path `group`. A coordinate is replaced
    if the group has it with other texts, and skipped if the group has it with the same texts.
    """
    for one in coordinates:
        if content_of(storage, f"{group}/{one.name}/zarr.json") != one.document:
            # The zarr.json comes after its chunks, so a crash leaves none that promises missing chunks.
            for chunk_index, chunk in enumerate(one.chunks):
                storage.put(f"{group}/{one.name}/c/{chunk_index}", [chunk])
            storage.put(f"{group}/{one.name}/zarr.json", [one.document])


def content_of(storage: Storage, name: str) -> bytes | None:
    """Returns the bytes of the object `name`, or None if the storage has no such object."""
    try:
        return storage.get(name)
    except FileNotFoundError:
        return None


def _coordinate(name: str, about: str, values: list[str]) -> Coordinate:
    digest, chunks = xxhash.xxh3_128(), []
    for content in _encoded(values):
        digest.update(content)
        chunks.append(bytes(zstd.compress(content, _ZSTD_LEVEL)))
    own = {"schema": SCHEMA_VERSION, "copy_of": TABLE, "xxh3_128": digest.hexdigest()}
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [len(values)],
        "data_type": "string",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_ROWS]}},
        "chunk_key_encoding": _CHUNK_KEYS,
        "fill_value": "",
        "codecs": [
            {"name": "vlen-utf8"},
            {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
        ],
        "attributes": {"long_name": about, "kinegraph": own},
        "dimension_names": ["row"],
        "storage_transformers": [],
    }
    return Coordinate(name=name, document=json.dumps(document, indent=1).encode(), chunks=tuple(chunks))


def _encoded(values: Sequence[str]) -> Iterator[bytes]:
    """Yields the chunks of a coordinate as bytes. Each chunk holds the texts of CHUNK_ROWS rows. The last chunk is
    filled up with empty texts. The bytes have the format `vlen-utf8`, zarr's format for texts.
    """
    # Full chunks stay readable under a zarr.json that states more or fewer rows.
    for start in range(0, len(values), CHUNK_ROWS):
        places = np.full(CHUNK_ROWS, "", dtype=object)
        part = values[start : start + CHUNK_ROWS]
        places[: len(part)] = part
        yield bytes(VLenUTF8().encode(places))

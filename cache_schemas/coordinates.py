"""Coordinates for xarray: columns of clips.parquet, copied into every zarr group that holds arrays by row.

Nothing of kinegraph reads them: clips.parquet counts. The chunks of a coordinate are put before its zarr.json, and that
before the zarr.json of its group, which says what the group holds. A chunk has places for the same number of rows,
however many there are, so that an array of more or fewer rows can be read from it.
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

COORDINATES = {  # name -> what it is
    "clip_id": "video, clip and crop of the row: <video_id>:<clip>:<crop>",
    "video_id": "the video of the row, or the interval of one",
    "split": "the part of the data set that the row belongs to",
    "label": "the name of the row's class; nothing where it has no label",
}
LABELS_ABOUT = "the names of the row's classes, as a JSON list"
CHUNK_ROWS = 65_536
_CHUNK_KEYS = {"name": "default", "configuration": {"separator": "/"}}  # shard objects have `.`: no two share a name
_ZSTD_LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One coordinate of all rows: its zarr.json, which has a digest of the values, and the objects of its chunks."""

    name: str
    document: bytes
    chunks: tuple[bytes, ...]


Made = Callable[[], Sequence[Coordinate]]  # coordinates, made when they are asked for


def coordinates_of(columns: Mapping[str, list[str]], labels: Sequence[str] | None, *, many: bool) -> list[Coordinate]:
    """Coordinates of all rows.

    columns: `clip_id`, `video_id` and `split`, a value for each row. labels: from `label_names`; None: no `label`.
    """
    about = COORDINATES | ({"label": LABELS_ABOUT} if many else {})
    values = dict(columns) | ({} if labels is None else {"label": [*labels]})
    return [_coordinate(name, about[name], values[name]) for name in COORDINATES if name in values]


def label_names(rows: Sequence[Sequence[int]], classes: Sequence[str], *, many: bool) -> list[str]:
    """The coordinate `label` of each row: the name of its class, or where rows may have `many` a JSON list of names.

    Raises KeyError for a label beyond the classes.
    """
    names = dict(enumerate(classes))
    if many:
        return [json.dumps([names[label] for label in row], ensure_ascii=False) for row in rows]
    return [names[row[0]] if row else "" for row in rows]


def group_document(coordinates: Sequence[Coordinate] = (), num_rows: int = 0) -> bytes:
    """The zarr.json of a group: that of one with arrays by row names their coordinates, as CF conventions do."""
    kinegraph: dict[str, object] = {"schema": SCHEMA_VERSION}
    attributes = ABOUT | {"kinegraph": kinegraph}
    if coordinates:
        digest = xxhash.xxh3_128_hexdigest(b"".join(one.document for one in coordinates))
        kinegraph["coordinates"] = {"rows": num_rows, "xxh3_128": digest}
        attributes["coordinates"] = " ".join(one.name for one in coordinates)
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def are_there(document: bytes | None, names: Sequence[str], num_rows: int) -> bool:
    """Whether the zarr.json of a group says that it holds coordinates of these names for so many rows."""
    try:
        attributes = json.loads(document or b"")["attributes"]
        return bool(
            attributes["coordinates"] == " ".join(names) and attributes["kinegraph"]["coordinates"]["rows"] == num_rows
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def put_coordinates(storage: Storage, group: str, coordinates: Sequence[Coordinate]) -> None:
    """Write those coordinates of a group whose zarr.json is not as it should be."""
    for one in coordinates:
        if found(storage, f"{group}/{one.name}/zarr.json") != one.document:
            for number, chunk in enumerate(one.chunks):
                storage.put(f"{group}/{one.name}/c/{number}", [chunk])
            storage.put(f"{group}/{one.name}/zarr.json", [one.document])


def found(storage: Storage, name: str) -> bytes | None:
    """An object's bytes; None where there is none."""
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
    """The values chunk by chunk in zarr's codec vlen-utf8; places past the last row hold nothing."""
    for start in range(0, len(values), CHUNK_ROWS):
        places = np.full(CHUNK_ROWS, "", dtype=object)
        part = values[start : start + CHUNK_ROWS]
        places[: len(part)] = part
        yield bytes(VLenUTF8().encode(places))

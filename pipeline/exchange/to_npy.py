"""Exports a cache as one .npy file per array and video: `kinegraph export --to npy`. Torch-free."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.documents import JsonObject, read_document
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import shortened
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.sealed_rows import require_rows, sealed_records
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.store import Shard
from kinegraph.pipeline.caches.verification import require_whole
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.shards.taking_over import OnProgress, unheard

MANIFEST, CLIPS = "manifest.json", "clips.csv"
HEADER = "row,clip_id,video_id,file,index,split,labels,start_seconds,end_seconds,frame_width,frame_height,failed"
COMPARED = ("clips", "stages", "arrays", "format", "prefix", "tar_clips", "split", "rows")  # keys of manifests
Videos = Mapping[str, Sequence[int]]  # {video id: its row numbers in ascending order}


@dataclass(kw_only=True)
class ExportedFiles:
    """The result of an export to .npy files."""

    num_files: int = 0  # the number of files
    num_failed: int = 0  # the number of clips that failed in a stage. Their values in the files are fill values.
    # {stage key: videos}. These videos have no file, because not all of their rows are sealed.
    unsealed: dict[str, list[str]] = field(default_factory=dict)
    # A sentence for each damaged shard. Videos with rows in a damaged shard have no file.
    damaged: list[str] = field(default_factory=list)


def export_npy(
    source: Cache, out: str, names: Sequence[str] = (), *, on_progress: OnProgress = unheard
) -> ExportedFiles:
    """Writes one file <out>/<array>/<video_id>.npy for each array and video of `source`. Returns an ExportedFiles.

    - `names`: the arrays to export. By default, all arrays.
    - `on_progress`: is called with (text, number done, number of all).

    A file has the shape [rows, ...], with one row for each clip and crop of the video, in order. A failed clip has fill
    values (NaN in floats) and is listed in clips.csv. manifest.json says how the features were made. A file appears
    whole or not at all. Every call writes all files again.

    Raises ExchangeError for an array that does not exist, and if `out` holds anything other than an earlier export of
    these arrays.
    """
    specs = chosen_arrays(source, names)
    require_rows(source)
    source.require_labels_of_classes()
    storage = open_storage(out)
    storage.sweep()
    manifest = manifest_of(source, specs)
    claim(storage, manifest)
    rows = list(source.clips.rows())
    videos: dict[str, list[int]] = {}
    for row_index, row in enumerate(rows):
        videos.setdefault(row.video_id, []).append(row_index)
    exported = ExportedFiles()
    failed: dict[str, list[str]] = {}
    stages = {key: list(group) for key, group in groupby(specs, key=lambda spec: spec.stage)}
    for key, of_stage in stages.items():
        records = {record.shard: record for record in sealed_records(source, key)}
        for record in records.values():
            for failure in record.failures:
                failed.setdefault(failure.clip_id, []).append(f"{key}: {failure.reason}")
        for done, files in enumerate(_stage_files(source, of_stage, records, videos, exported), 1):
            for name, content in files.items():
                put_npy(storage, name, content)
            exported.num_files += len(files)
            on_progress(f"writing {key}", done, len(videos))
    exported.num_failed = len(failed)
    storage.put(CLIPS, [_clips_csv(rows, videos, source.classes, failed)])
    put_manifest(storage, manifest | {"complete": True, "not_sealed": exported.unsealed, "damaged": exported.damaged})
    return exported


def chosen_arrays(source: Cache, names: Sequence[str]) -> list[ArraySpec]:
    """Returns the specs of the arrays `names`, or of all arrays of the cache if `names` is empty. Arrays of the same
    stage are next to each other.

    Raises ExchangeError if an array does not exist, or if the cache has no array.
    """
    arrays = source.arrays()
    if unknown := [name for name in names if name not in arrays]:
        raise ExchangeError(f"--array {unknown[0]}: {source.root} has {', '.join(arrays) or 'no array yet'}")
    if not arrays:
        raise ExchangeError(f"{source.root} has no array yet; run `kinegraph extract CONFIG` first")
    return [spec for name, spec in arrays.items() if not names or name in names]


def manifest_of(source: Cache, specs: Iterable[ArraySpec]) -> dict[str, Any]:
    """Returns the content of manifest.json for an export of the arrays `specs`. manifest.json says how the features
    were made. Its entry `complete` is False, and the export sets this entry to True at its end.
    """
    stages = {key: source.stage(key).document() for key in sorted({spec.stage for spec in specs})}
    arrays = {spec.name: spec.document() for spec in specs}
    return {
        "kinegraph": version("kinegraph"),
        "complete": False,
        "clips": source.manifest["clips"],
        "classes": source.classes,
        "stages": {key: {k: v for k, v in document.items() if k != "arrays"} for key, document in stages.items()},
        "arrays": arrays,
    }


def claim(storage: Storage, manifest: dict[str, Any]) -> None:
    """Writes `manifest` as manifest.json to the folder `storage` of an export. The folder must be empty, or hold an
    earlier export of the same features and arrays. Raises ExchangeError for any other folder.

    Raises CacheError if the folder has a damaged manifest.json.
    """
    if storage.exists(MANIFEST):
        advice = "Remove the file and what was exported beside it, or name an empty folder."
        there = read_document(storage, MANIFEST, JsonObject, advice).root
        same = json.loads(json.dumps(manifest))
        if others := [key for key in COMPARED if there.get(key) != same.get(key)]:
            raise ExchangeError(
                f"{storage.root} holds an export of other features or arrays. "
                f"Other than now are: {', '.join(others)}. Name an empty folder."
            )
    elif any(storage.names(".")):
        raise ExchangeError(f"{storage.root} is neither empty nor such an export; name an empty folder")
    put_manifest(storage, manifest)


def put_manifest(storage: Storage, document: dict[str, Any]) -> None:
    storage.put(MANIFEST, [json.dumps(document, indent=1, sort_keys=True).encode()])


def _stage_files(
    source: Cache,
    specs: Sequence[ArraySpec],
    records: Mapping[int, Record],
    videos: Videos,
    exported: ExportedFiles,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields {file name: rows of one video} for each video. `specs` are the arrays of one stage.

    - `records`: {shard: ledger record} of the sealed shards.
    - `videos`: {video id: its row numbers}.
    - `exported`: receives what is left out.

    A video with rows that are not sealed is added to `exported.unsealed`, and nothing is yielded for it. If a shard is
    damaged, a sentence is added to `exported.damaged`, and the dictionaries of its videos are empty.
    """

    @lru_cache(maxsize=2)  # videos come in the order of their first rows
    def opened(shard: int) -> dict[str, Shard] | None:
        try:
            return open_checked(source, specs, records[shard])
        except CacheError as error:
            exported.damaged.append(str(error))
            return None

    for video, row_indexes in stopping.checked(videos.items()):
        places = [divmod(row_index, source.shard_clips) for row_index in row_indexes]
        if any(shard not in records for shard, _ in places):
            exported.unsealed.setdefault(specs[0].stage, []).append(video)
            continue
        shards = [opened(shard) for shard, _ in places]
        files = {}
        for spec in specs:
            rows = [views[spec.name].row(row) for views, (_, row) in zip(shards, places, strict=True) if views]
            if len(rows) == len(places):
                files[f"{spec.name}/{file_name(video)}"] = np.stack(rows)
        yield files


def open_checked(source: Cache, specs: Sequence[ArraySpec], record: Record) -> dict[str, Shard]:
    """Compares the stored objects of one shard with its ledger record `record`, and opens the arrays `specs` of the
    shard. Returns {array name: open shard}.

    Raises CacheError if a stored object is damaged or missing.
    """
    holding = [name for name in record.objects if any(f"/{spec.name}/" in name for spec in specs)]
    require_whole(source.storage, record, holding or record.objects)  # an HDF5 file holds all arrays of its stage
    return {spec.name: source.store.open_shard(spec, record.shard) for spec in specs}


def file_name(video_id: str) -> str:
    """Returns the file name `<video_id>.npy`, changed so that it cannot lead out of its folder: `../a` ->
    `%2E%2E/a.npy`. An id may have `/`, so the name may have folders. A part that is too long for a file name is
    shortened, and a digest is added.
    """
    parts = f"{video_id}.npy".replace("%", "%25").replace("\0", "%00").replace("\\", "%5C").split("/")
    return "/".join(part.replace(".", "%2E") if part in (".", "..") else shortened(part) or "%" for part in parts)


def put_npy(storage: Storage, name: str, rows: np.ndarray) -> None:
    """Writes the contiguous array `rows` as the .npy file `name`. The file appears whole, in place of an existing
    file.
    """
    storage.put(name, [npy_header(rows), rows.data])


def npy_header(rows: np.ndarray) -> bytes:
    """Returns the header of a .npy file with the contiguous array `rows`: the bytes before its values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(rows))
    return header.getvalue()


def _clips_csv(
    rows: Sequence[ClipRow], videos: Videos, classes: Sequence[str], failed: Mapping[str, list[str]]
) -> bytes:
    """Returns the content of clips.csv, with one line for each of `rows`.

    - `videos`: {video id: its row numbers}.
    - `classes`: the names of the classes.
    - `failed`: {clip id: reasons of its failures}.

    The column `file` is the path of the row's file in the folder of each array. The column `index` is the index of the
    row in this file.
    """
    lines: list[Sequence[object]] = [HEADER.split(",")]
    index = {row_index: place for row_indexes in videos.values() for place, row_index in enumerate(row_indexes)}
    for row_index, row in enumerate(rows):
        labels = ";".join(classes[label] for label in row.labels)
        place = (row_index, row.clip_id, row.video_id, file_name(row.video_id), index[row_index])
        times = (row.start_seconds, row.end_seconds, row.frame_width, row.frame_height)
        lines.append([*place, row.split, labels, *times, "; ".join(failed.get(row.clip_id, ()))])
    return csv_text(lines).encode()

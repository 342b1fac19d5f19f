"""Exports a cache as tar files with one sample per clip: `kinegraph export --to webdataset`. Torch-free.

The Python package `webdataset` reads the files, and so does any program that reads tar files.
"""

import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.files import Buffer, shortened
from kinegraph.cache_schemas.sealed_rows import require_rows
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.sealed_clips import SealedClips
from kinegraph.pipeline.exchange.to_npy import (
    CLIPS,
    chosen_arrays,
    claim,
    manifest_of,
    npy_header,
    put_manifest,
)
from kinegraph.pipeline.shards.taking_over import OnProgress, unheard

TAR, TAR_CLIPS = ".tar", 1000
HEADER = "row,clip_id,video_id,split,tar,key,left_out"
MAX_KEY_BYTES = 120  # a key and the name of an array together must fit into a file name


@dataclass(kw_only=True)
class ExportedClips:
    """The result of an export to tar files."""

    # `num_clips`, `num_tars`: the numbers of exported clips and of tar files
    num_clips: int = 0
    num_tars: int = 0
    left_out: dict[str, str] = field(default_factory=dict)  # {clip id: reason} of the clips that were left out
    damaged: list[str] = field(default_factory=list)  # a sentence for each damaged shard of the cache


def export_webdataset(
    source: Cache,
    out: str,
    names: Sequence[str] = (),
    *,
    tar_clips: int = TAR_CLIPS,
    on_progress: OnProgress = unheard,
) -> ExportedClips:
    """Writes the clips of `source` to the tar files <out>/<split>-000000.tar and so on. Returns an ExportedClips.

    - `names`: the arrays to export. By default, all arrays.
    - `tar_clips`: the largest number of samples in a tar file.
    - `on_progress`: is called with (text, number done, number of all).

    A sample is a group of files whose names begin with its key, which is the clip id without dots. `<key>.json` has
    labels, times and ids. `<key>.features.i3d.res5.npy` has the row of the array `features/i3d/res5`. A clip that
    failed or is not sealed is left out. clips.csv lists all clips. A file appears whole or not at all. Every call
    writes all files again.

    Raises ExchangeError for an array that does not exist, and if `out` holds anything other than an earlier export to
    tar files.
    """
    specs = chosen_arrays(source, names)
    require_rows(source)
    source.require_labels_of_classes()
    member_of = _members(specs)
    storage = open_storage(out)
    storage.sweep()
    manifest = manifest_of(source, specs) | {"format": "webdataset", "tar_clips": tar_clips, "members": member_of}
    claim(storage, manifest)
    samples = _Samples(source, specs, member_of)
    rows = list(source.clips.rows())
    exported = ExportedClips(damaged=samples.damaged)
    lines: list[Sequence[object]] = []
    tars = dict(_tars(rows, tar_clips))
    for stale in {name.removeprefix("./") for name in storage.names(".") if name.endswith(TAR)} - tars.keys():
        storage.delete(stale)
    for name, numbers in tars.items():
        kept = [number for number in numbers if not _is_left_out(samples, rows[number], number, exported)]
        if kept:
            storage.put(name, _tar(member for number in kept for member in samples.members(number, rows[number])))
            exported.num_tars += 1
        else:
            storage.delete(name)
        exported.num_clips += len(kept)
        lines += (_line(number, rows[number], name, exported) for number in numbers)
        on_progress("writing clips", len(lines), len(rows))
    listed = sorted(lines, key=lambda line: int(str(line[0])))
    storage.put(CLIPS, [csv_text([HEADER.split(","), *listed]).encode()])
    put_manifest(storage, manifest | {"complete": True, "damaged": exported.damaged})
    return exported


def _is_left_out(samples: "_Samples", row: ClipRow, number: int, exported: ExportedClips) -> bool:
    """Returns whether the clip in row `number` cannot be exported. If it cannot, adds the reason to
    `exported.left_out`.
    """
    if reason := samples.missing(number, row.clip_id):
        exported.left_out[row.clip_id] = reason
    return bool(reason)


def _line(number: int, row: ClipRow, tar: str, exported: ExportedClips) -> Sequence[object]:
    """Returns the cells of a line of clips.csv. `row` has the number `number` and is written to the tar file `tar`. If
    the clip was left out, the last cell is the reason, and the cells for tar file and key are empty.
    """
    reason = exported.left_out.get(row.clip_id, "")
    place = ("", "") if reason else (tar, key_of(row.clip_id))
    return (number, row.clip_id, row.video_id, row.split, *place, reason)


def _members(specs: Sequence[ArraySpec]) -> dict[str, str]:
    """Returns {array name: ending of its files in the tar files}, for example {"features/i3d/res5":
    "features.i3d.res5.npy"}.

    Raises ExchangeError if two endings are equal. Capital and small letters count as equal, because `webdataset` reads
    endings in small letters.
    """
    member_of = {spec.name: f"{spec.name.replace('/', '.')}.npy" for spec in specs}
    seen: dict[str, str] = {}
    for array, member in member_of.items():
        if (other := seen.setdefault(member.lower(), array)) != array:
            raise ExchangeError(f"--array: {other} and {array} would have one name in a sample. Export one of them.")
    return member_of


def _tars(rows: Sequence[ClipRow], tar_clips: int) -> Iterator[tuple[str, Sequence[int]]]:
    """Yields (name of a tar file, numbers of its rows) for each tar file. A tar file has up to `tar_clips` rows of one
    split.
    """
    of_split: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        of_split.setdefault(row.split, []).append(number)
    for split, numbers in of_split.items():
        for place, start in enumerate(range(0, len(numbers), tar_clips)):
            yield f"{key_of(split)}-{place:06}{TAR}", numbers[start : start + tar_clips]


def key_of(clip_id: str) -> str:
    """Returns `clip_id` as the key of a sample, without dots, because `webdataset` ends a key at the first dot:
    `a.mp4:0:full` -> `a%2Emp4:0:full`.

    Characters other than letters, digits and some signs are written as in a URL. A key that is too long is shortened,
    and a digest is added.
    """
    return shortened(quote(clip_id, safe=":@+=, ").replace(".", "%2E"), MAX_KEY_BYTES)


class _Samples(SealedClips):
    """Reads the samples of clips from the cache `source`. `member_of` maps the name of an array to the ending of its
    file in a sample.
    """

    def __init__(self, source: Cache, specs: Sequence[ArraySpec], member_of: Mapping[str, str]) -> None:
        super().__init__(source, specs)
        self.member_of, self.classes = member_of, source.classes

    def members(self, number: int, row: ClipRow) -> Iterator[tuple[str, list[Buffer]]]:
        """Yields (file name, content) for each file of one sample. `row` is the clip, and `number` its row number."""
        key = key_of(row.clip_id)
        facts = {
            "clip_id": row.clip_id,
            "video_id": row.video_id,
            "split": row.split,
            "labels": [self.classes[label] for label in row.labels],
            "label_ids": [*row.labels],
            "start_seconds": _known(row.start_seconds),
            "end_seconds": _known(row.end_seconds),
            "times": [*row.target_times],
        }
        yield f"{key}.json", [json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass")]
        for name, row_values in self.values(number).items():
            values = np.ascontiguousarray(row_values)
            yield f"{key}.{self.member_of[name]}", [npy_header(values), values.reshape(-1).view(np.uint8).data]


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _tar(members: Iterator[tuple[str, list[Buffer]]]) -> Iterator[Buffer]:
    """Yields the bytes of a tar file with the files `members`, each as (name, content). Times are 0 and there are no
    owners, so equal contents make equal bytes.
    """
    total = 0
    for name, parts in stopping.checked(members):
        entry = tarfile.TarInfo(name)
        entry.size = sum(memoryview(part).nbytes for part in parts)
        header = entry.tobuf(tarfile.PAX_FORMAT)
        padding = bytes(-entry.size % tarfile.BLOCKSIZE)
        total += len(header) + entry.size + len(padding)
        yield from (header, *parts, padding)
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(total + end) % tarfile.RECORDSIZE)

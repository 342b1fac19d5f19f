"""`kinegraph export --to tad` writes one .npy per video, and the annotations, as programs for temporal action
localisation read them. Torch-free.

ActionFormer and OpenTAD read the files as they are. Each feature vector stands for one window of frames. With windows
of 16 frames and a hop of 8 frames, vector 0 covers the frames 0 to 15, and vector 1 the frames 8 to 23.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.annotations import AnnotatedVideo, read_annotations, why_no_sequences
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.sealed_rows import require_rows, sealed_records
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.store import Shard
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.to_npy import claim, file_name, manifest_of, open_checked, put_manifest, put_npy
from kinegraph.pipeline.shards.taking_over import OnProgress, unheard

FOLDER, ANNOTATIONS, CATEGORIES = "features", "annotations.json", "category_idx.txt"
MISSING = f"{FOLDER}/missing_files.txt"  # OpenTAD looks for it beside the features
WRITERS = 16  # threads: each waits for the disk, which makes many files durable at once
WAITING_BYTES = 256 << 20  # of the sequences that wait for the disk
NO_WINDOW, FAILED, UNSEALED, DAMAGED = "shorter than a window", "a window failed", "not sealed yet", "damaged"


@dataclass(kw_only=True)
class ExportedSequences:
    """The result of an export for temporal action localisation, which writes one file for each video. `num_files`
    counts the files.

    `missing` maps the id of each video that has no file to the reason. `damaged` has a sentence for each damaged shard
    of the cache.
    """

    num_files: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def export_tad(
    source: Cache, out: str, names: Sequence[str] = (), *, prefix: str = "", on_progress: OnProgress = unheard
) -> ExportedSequences:
    """Writes <out>/features/<prefix><id>.npy [N, C] float32 for each video of a cache of windows, and annotations.json,
    category_idx.txt and missing_files.txt.

    N is the number of windows, in the order of time. An array with a time axis is averaged over it. `<id>` is made from
    the id of the video. `names` has the name of the one array to write. It may be empty if the cache has only one array
    of vectors. A video of which a window failed, or is not extracted yet, has no file and is listed in
    missing_files.txt. Every call writes all files again, and sets `complete` in manifest.json at the end. A file is
    never half written.

    Raises ExchangeError for a cache without windows, an array that does not fit, or two videos that would have one
    name. Raises it also if `out` holds anything but such an export.
    """
    _require_windows(source)
    spec = _chosen(source, names)
    require_rows(source)
    storage = open_storage(out)
    storage.sweep()
    videos = read_annotations(source)
    name_of = names_of([*videos], prefix)
    manifest = manifest_of(source, [spec]) | {"format": "tad", "prefix": prefix}
    claim(storage, manifest)
    exported = ExportedSequences()
    with ThreadPoolExecutor(WRITERS) as pool:
        writing = deque[tuple[Future[None], int]]()
        for done, (video, sequence) in enumerate(_sequences(source, spec, videos, exported), 1):
            name = f"{FOLDER}/{prefix}{name_of[video]}.npy"
            if sequence is None:
                storage.delete(name)
            else:
                writing.append((pool.submit(put_npy, storage, name, sequence), sequence.nbytes))
                exported.num_files += 1
            while len(writing) > 2 * WRITERS or sum(size for _, size in writing) > WAITING_BYTES:
                writing.popleft()[0].result()
            on_progress("writing features", done, len(videos))
        for written, _ in writing:
            written.result()
    document = {"version": f"kinegraph {manifest['kinegraph']}", "database": _database(source, videos, name_of)}
    storage.put(ANNOTATIONS, [json.dumps(document, indent=1, ensure_ascii=False).encode()])
    storage.put(CATEGORIES, ["\n".join(source.classes).encode()])
    storage.put(MISSING, ["\n".join(name_of[video] for video in exported.missing).encode()])
    put_manifest(storage, manifest | {"complete": True, "missing": exported.missing, "damaged": exported.damaged})
    return exported


def _chosen(source: Cache, names: Sequence[str]) -> ArraySpec:
    """Returns the ArraySpec of the one array to export. `names` holds its name. It may be empty if `source` has only
    one array of feature vectors.

    Raises ExchangeError if `names` has several names, or a name that is no array of feature vectors. Raises it also if
    `names` is empty and `source` has no such array or several.
    """
    fitting = {
        name: spec
        for name, spec in source.arrays().items()
        if name.startswith(FEATURES) and len(spec.shape) in (1, 2) and spec.dtype.startswith("float")
    }
    told = ", ".join(fitting) or "none; extract with `store: [pooled]`"
    if len(names) > 1 or (names and names[0] not in fitting):
        raise ExchangeError(f"--array {names[-1]}: expected one array of vectors. {source.root} has {told}")
    if not names and len(fitting) != 1:
        raise ExchangeError(f"--array: missing; expected one of the arrays of vectors. {source.root} has {told}")
    return fitting[names[0]] if names else next(iter(fitting.values()))


def _require_windows(source: Cache) -> None:
    if reason := why_no_sequences(source):
        raise ExchangeError(f"{source.root}: {reason} for --to tad")


def names_of(video_ids: Sequence[str], prefix: str = "") -> dict[str, str]:
    """Returns video id -> name in the export, for each of `video_ids`. The name is that of the video's file, without
    folders and ending (`walk/a.mp4` -> `a`). `prefix` is a text that the caller will put before each name.

    If two videos would get the same name, all names get the folders too (`walk_a`). If two names are still equal, all
    names get the ending too (`walk_a.mp4`). If all names begin with `prefix`, it is removed from them, so that it does
    not stand there twice. Characters that no file name may have are replaced. Raises ExchangeError if two names are
    equal even so.
    """

    def safe(name: str) -> str:
        printable = "".join(character if character.isprintable() else "_" for character in name)
        return file_name(f"{prefix}{printable.replace('/', '_')}").removesuffix(".npy").removeprefix(prefix)

    paths = {video: PurePosixPath(video) for video in video_ids}
    rules: list[Callable[[PurePosixPath], str]] = [
        lambda path: path.stem,
        lambda path: str(path.with_suffix("")),
        str,
    ]
    for rule in rules:
        names = {video: rule(path) for video, path in paths.items()}
        if all(name.startswith(prefix) and name != prefix for name in names.values()):
            names = {video: name.removeprefix(prefix) for video, name in names.items()}
        names = {video: safe(name) for video, name in names.items()}
        if len({*names.values()}) == len(names):
            return names
    twice = next(name for name, count in Counter(names.values()).items() if count > 1)
    both = " and ".join([video for video, name in names.items() if name == twice][:2])
    raise ExchangeError(f"{both} would both be named {twice}; rename one of them")


def _sequences(
    source: Cache, spec: ArraySpec, videos: Mapping[str, AnnotatedVideo], exported: ExportedSequences
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yields (video id, features [N, C]) for each video in `videos`: one vector of the array `spec` for each of N
    windows, in the order of time.

    If a window of the video has no features, yields (video id, None) and adds the reason to `exported.missing`.
    """
    records = {record.shard: record for record in sealed_records(source, spec.stage)}
    failed = {failure.clip_id for record in records.values() for failure in record.failures}
    rows = _rows_of(source)

    @lru_cache(maxsize=2)  # videos come in the order of their first rows
    def opened(shard: int) -> Shard | None:
        try:
            return open_checked(source, [spec], records[shard])[spec.name]
        except CacheError as error:
            exported.damaged.append(str(error))
            return None

    for video in stopping.checked(sorted(videos, key=lambda video: rows.get(video, [(0, "")])[0])):
        places = [divmod(row, source.shard_clips) for row, _ in rows.get(video, [])]
        reason = ""
        if not places:
            reason = NO_WINDOW
        elif any(clip_id in failed for _, clip_id in rows[video]):
            reason = FAILED
        elif len(places) != videos[video].num_windows or any(shard not in records for shard, _ in places):
            reason = UNSEALED
        elif any(opened(shard) is None for shard in dict.fromkeys(shard for shard, _ in places)):
            reason = DAMAGED
        if reason:
            exported.missing[video] = reason
            yield video, None
            continue
        vectors = np.stack([view.row(row) for shard, row in places if (view := opened(shard)) is not None])
        vectors = vectors.astype(np.float32)
        yield video, np.ascontiguousarray(vectors.mean(1) if vectors.ndim == 3 else vectors)


def _rows_of(source: Cache) -> dict[str, list[tuple[int, str]]]:
    """Returns video id -> list of the clips of the video, in the order of time. A clip is (number of its row in the
    cache, clip id).
    """
    table = ClipsTable.read_columns(source.storage, ["video_id", "clip_id", "start_seconds"])
    columns = (table.column(name).to_pylist() for name in ("start_seconds", "video_id", "clip_id"))
    rows: dict[str, list[tuple[float, int, str]]] = {}
    for row, (start, video, clip_id) in enumerate(zip(*columns, strict=True)):
        rows.setdefault(video, []).append((start, row, clip_id))
    return {video: [(row, clip_id) for _, row, clip_id in sorted(of_video)] for video, of_video in rows.items()}


def _database(
    source: Cache, videos: Mapping[str, AnnotatedVideo], name_of: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Returns name of the video in the export -> its entry in annotations.json. `name_of` maps the ids of `videos` to
    these names.

    Videos that `index` could not open have no duration, and no entry.
    """
    options = source.manifest["clips"]
    step = options.get("frame_step", 1)
    window = options["num_frames"] * step
    database = {}
    for video, facts in videos.items():
        if facts.duration is None or facts.fps is None or facts.frame is None:
            continue
        hop = Fraction(options.get("hop_frames") or Fraction(repr(options["hop_seconds"])) * Fraction(facts.fps))
        last = {"last_start": max(0, facts.frame - window)} if options["tail"] == "shift" else {}
        database[name_of[video]] = {
            "subset": facts.subset,
            "duration": facts.duration,
            "fps": facts.fps,
            "frame": facts.frame,
            "window": window,
            "hop": int(hop) if hop.denominator == 1 else float(hop),
            "frame_interval": step,
            "offset": window // 2,
            "N": facts.num_windows,
            **last,
            "video_id": video,
            "annotations": [annotation.model_dump(mode="json") for annotation in facts.annotations],
        }
    return database

"""Exports a cache of windows for temporal action localisation: `kinegraph export --to tad`. Torch-free.

ActionFormer and OpenTAD read the files as they are: one .npy file per video, and the annotations. Each feature vector
stands for one window of frames. With windows of 16 frames and a hop of 8 frames, vector 0 covers the frames 0 to 15,
and vector 1 the frames 8 to 23.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.annotations import AnnotatedVideo, read_annotations, why_no_sequences
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.fingerprint import differences
from kinegraph.cache_schemas.sealed_rows import require_rows
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.to_npy import claim, file_name, manifest_of, put_manifest, put_npy
from kinegraph.pipeline.exchange.window_features import NoFeaturesError, WindowFeatures
from kinegraph.pipeline.shards.taking_over import OnProgress, unheard

FOLDER, ANNOTATIONS, CATEGORIES = "features", "annotations.json", "category_idx.txt"
MISSING = f"{FOLDER}/missing_files.txt"  # OpenTAD looks for it beside the features
WRITERS = 16  # threads: each waits for the disk, which makes many files durable at once
WAITING_BYTES = 256 << 20  # limit for features that wait for the disk
WINDOW_OPTIONS = ("num_frames", "frame_step", "fps", "hop_frames", "hop_seconds", "tail")


@dataclass(kw_only=True)
class ExportedSequences:
    """The result of an export for temporal action localisation."""

    num_files: int = 0  # the number of feature files
    missing: dict[str, str] = field(default_factory=dict)  # {video id: reason} of the videos without a file
    damaged: list[str] = field(default_factory=list)  # a sentence for each damaged shard of the cache
    lengths: dict[str, int] = field(default_factory=dict)  # {video id: number of vectors} of the videos with a file
    unmatched: list[str] = field(default_factory=list)  # the names of videos that only the second cache (`beside`) has


def export_tad(
    source: Cache,
    out: str,
    names: Sequence[str] = (),
    *,
    beside: Cache | None = None,
    beside_names: Sequence[str] = (),
    prefix: str = "",
    on_progress: OnProgress = unheard,
) -> ExportedSequences:
    """Writes <out>/features/<prefix><id>.npy, float32 [N, C], for each video of a cache of windows: C channels of N
    windows, in the order of time. Also writes annotations.json, category_idx.txt and missing_files.txt.

    - `names`: the arrays to write. Their vectors are joined. `names` may be empty if the cache has only one array of
      vectors.
    - `beside`: a second cache of windows, such as of optical flow. The vectors of its arrays `beside_names` are joined
      to those of the same video.
    - `prefix`: the beginning of each file name. `names_of` makes the rest, `<id>`, from the video id.

    A video that is not extracted completely has no file and is listed in missing_files.txt. Every call writes all files
    again. Raises ExchangeError if the caches, their arrays or the names of their videos do not fit, or if `out` holds
    anything other than an earlier export of this kind.
    """
    specs = _chosen(source, names, "--array")
    beside_specs = [] if beside is None else _chosen(beside, beside_names, "--beside-array")
    storage = open_storage(out)
    storage.sweep()
    videos = read_annotations(source)
    name_of = names_of([*videos], prefix)
    manifest = manifest_of(source, specs) | {"format": "tad", "prefix": prefix}
    exported = ExportedSequences()
    streams = [(WindowFeatures(source, specs, exported.damaged), videos)]
    partner_of: dict[str, str] = {}
    if beside is not None:
        _require_same_windows(source, beside)
        other_videos = read_annotations(beside)
        partner_of = {name: video for video, name in names_of([*other_videos], prefix).items()}
        exported.unmatched = sorted(partner_of.keys() - name_of.values())
        streams.append((WindowFeatures(beside, beside_specs, exported.damaged), other_videos))
        manifest["beside"] = manifest_of(beside, beside_specs)
    claim(storage, manifest)
    named = (
        (f"{FOLDER}/{prefix}{name_of[video]}.npy", sequence)
        for video, sequence in _sequences(streams, name_of, partner_of, exported)
    )
    exported.num_files = _write(storage, named, lambda done: on_progress("writing features", done, len(videos)))
    document = {
        "version": f"kinegraph {manifest['kinegraph']}",
        "database": _database(source, videos, name_of, exported.lengths),
    }
    storage.put(ANNOTATIONS, [json.dumps(document, indent=1, ensure_ascii=False).encode()])
    storage.put(CATEGORIES, ["\n".join(source.classes).encode()])
    storage.put(MISSING, ["\n".join(name_of[video] for video in exported.missing).encode()])
    put_manifest(storage, manifest | {"complete": True, "missing": exported.missing, "damaged": exported.damaged})
    return exported


def _write(storage: Storage, named: Iterable[tuple[str, np.ndarray | None]], on_written: Callable[[int], None]) -> int:
    """Writes the files `named`, pairs of (file name, array), in several threads. If the array is None, deletes the
    file. Returns the number of written files. `on_written` is called with the number of pairs so far.
    """
    num_files = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        writing = deque[tuple[Future[None], int]]()
        for done, (name, sequence) in enumerate(named, 1):
            if sequence is None:
                storage.delete(name)
            else:
                writing.append((pool.submit(put_npy, storage, name, sequence), sequence.nbytes))
                num_files += 1
            while len(writing) > 2 * WRITERS or sum(size for _, size in writing) > WAITING_BYTES:
                writing.popleft()[0].result()
            on_written(done)
        for written, _ in writing:
            written.result()
    return num_files


def _chosen(source: Cache, names: Sequence[str], option: str) -> list[ArraySpec]:
    """Returns the specs of the arrays `names` of a cache of windows. `names` may be empty if the cache has only one
    array of vectors. `option` is the name of the command-line option, for messages.

    Raises ExchangeError for a cache without windows, for a name that is no array of vectors, and if no array is named
    and there is not exactly one.
    """
    if reason := why_no_sequences(source):
        raise ExchangeError(f"{source.root}: {reason} for --to tad")
    fitting = {
        name: spec
        for name, spec in source.arrays().items()
        if name.startswith(FEATURES) and len(spec.shape) in (1, 2) and spec.dtype.startswith("float")
    }
    text = ", ".join(fitting) or "none; extract with `store: [pooled]`"
    if unfit := [name for name in names if name not in fitting]:
        raise ExchangeError(f"{option} {unfit[0]}: expected an array of vectors. {source.root} has {text}")
    if not names and len(fitting) != 1:
        raise ExchangeError(f"{option}: missing; expected one of the arrays of vectors. {source.root} has {text}")
    require_rows(source)
    return [fitting[name] for name in names or fitting]


def _require_same_windows(source: Cache, beside: Cache) -> None:
    """Raises ExchangeError if the windows of the two caches differ in length or in distance."""
    ours, theirs = ({key: cache.manifest["clips"].get(key) for key in WINDOW_OPTIONS} for cache in (source, beside))
    if changed := differences(ours, theirs):
        raise ExchangeError(f"{beside.root} has other windows than {source.root}: {'; '.join(changed)}")


def names_of(video_ids: Sequence[str], prefix: str = "") -> dict[str, str]:
    """Returns {video id: name in the export}. The name is the file name of the video, without folders and ending:
    `walk/a.mp4` -> `a`.

    If two names would be equal, all names also get the folders (`walk_a`), and then the ending (`walk_a.mp4`). If all
    names begin with `prefix`, it is removed, because the caller puts it before each name. Characters that a file name
    must not have are replaced. Raises ExchangeError if two names are still equal.
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
    streams: Sequence[tuple[WindowFeatures, Mapping[str, AnnotatedVideo]]],
    name_of: Mapping[str, str],
    partner_of: Mapping[str, str],
    exported: ExportedSequences,
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yields (video id, features) for each video of the first stream. The features are [windows, channels], or None if
    a window has no features. The reason is then added to `exported.missing`.

    - `streams`: (features of a cache, videos of the cache) of one or two caches. The vectors of the second cache are
      joined to those of the first.
    - `name_of`: {video id in the first cache: name in the export}.
    - `partner_of`: {name in the export: video id in the second cache}.
    """
    features, videos = streams[0]
    for video in stopping.checked(sorted(videos, key=features.first_row)):
        try:
            sequence = features.of(video, videos[video].num_windows)
            for others, other_videos in streams[1:]:
                partner = partner_of.get(name_of[video])
                if partner is None:
                    raise NoFeaturesError(f"not in {others.source.root}")
                sequence = side_by_side(sequence, others.of(partner, other_videos[partner].num_windows))
            exported.lengths[video] = len(sequence)
            yield video, sequence
        except NoFeaturesError as error:
            exported.missing[video] = str(error)
            yield video, None


def side_by_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Joins the features of one video from two caches, [N, C] and [M, D], window by window. Returns [min(N, M), C + D].

    N and M may differ by 1, because optical flow has one image less than its video has frames. The last window of the
    longer array is then left out. Raises NoFeaturesError if N and M differ by more than 1, or if N or M is 0.
    """
    lengths = len(first), len(second)
    if max(lengths) - min(lengths) > 1 or not min(lengths):
        raise NoFeaturesError(f"{lengths[0]} windows, and {lengths[1]} in the other cache")
    return np.concatenate([first[: min(lengths)], second[: min(lengths)]], 1)


def _database(
    source: Cache, videos: Mapping[str, AnnotatedVideo], name_of: Mapping[str, str], lengths: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Returns {name in the export: entry in annotations.json} for the videos. `name_of` maps video ids to names.
    `lengths` maps video ids to numbers of vectors.

    A video that `index` could not open has no duration, so it has no entry.
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
            "N": lengths.get(video, facts.num_windows),
            **last,
            "video_id": video,
            "annotations": [annotation.model_dump(mode="json") for annotation in facts.annotations],
        }
    return database

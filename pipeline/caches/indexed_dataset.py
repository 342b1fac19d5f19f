"""Compares the data set of a config with the data set that its cache was indexed from. Imports no torch."""

import json
import os
from typing import Any

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.words import sentence
from kinegraph.pipeline.caches.indexing import write_dataset
from kinegraph.pipeline.caches.videos_at_hand import has_changed
from kinegraph.pipeline.config import Config
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.remote.urls import FILE, is_url

LABEL_KEYS = {"classes", "multi_label", "splits"}  # of a folder; no frame depends on them
PATH_KEYS = {"root", "annotations", "classes", "digits"}
Changes = dict[str, tuple[Any, Any]]  # key below dataset -> as indexed, as asked for


def changes(config: Config, cache: Cache) -> Changes:
    """Returns the options of the section `dataset` that differ between the config and the cache: option -> (value in
    the cache, value in the config). The cache has the options that `kinegraph index` used. If the option `kind`
    differs, the result has only `kind`.

    Returns an empty dict if the config has no section `dataset`, or if the cache has no dataset.json.
    """
    indexed = cache.dataset
    if config.dataset is None or indexed is None:
        return {}
    asked = config.dataset.model_dump(mode="json")
    if indexed.get("kind") != asked["kind"]:
        return {"kind": (indexed.get("kind"), asked["kind"])}
    roots = str(indexed.get("root")), asked["root"]
    return {
        key: (was, asked[key])
        for key, was in indexed.items()
        if key in asked and was != asked[key] and not (key in PATH_KEYS and _same_place(was, asked[key], roots, key))
    }


def check_for_extraction(config: Config, cache: Cache) -> list[str]:
    """Compares the dataset options of the config with those that `kinegraph index` used. Returns sentences about
    allowed differences. Raises CacheMismatch for all other differences, because an extraction may read other videos.

    Options of labels and splits may differ. `dataset.root` may differ if all videos lie below the new root.
    """
    changed = changes(config, cache)
    labels = {key: values for key, values in changed.items() if key in LABEL_KEYS}
    others = {key: values for key, values in changed.items() if key not in LABEL_KEYS}
    sentences = []
    if others.keys() == {"root"}:
        old, new = others["root"]
        if fault := _fault_of_move(cache, new):
            raise _mismatch(cache, changed, f"The videos did not move there as a whole: {sentence(fault)}")
        sentences.append(f"dataset.root: all videos moved from {old} to {new}; sealed shards stay.")
    elif others:
        raise _mismatch(cache, changed)
    if labels:
        sentences.append(
            f"{_listed(cache, labels)}\nFeatures do not depend on them. Labels and splits stay as they were indexed; "
            "run `kinegraph index CONFIG` again before you train."
        )
    return sentences


def check_for_training(config: Config, cache: Cache) -> list[str]:
    """Compares the dataset options of the config with those that `kinegraph index` used. Raises CacheMismatch if an
    option differs. Only `dataset.root` may differ, because training reads no videos.

    Returns a list with one sentence if `dataset.root` differs, else an empty list.
    """
    changed = changes(config, cache)
    if changed.keys() - {"root"}:
        raise _mismatch(cache, changed)
    if not changed:
        return []
    return [
        f"{_listed(cache, changed)}\nTraining goes on with the clips that are in the cache. If these are other videos, "
        "run `kinegraph index CONFIG` again."
    ]


def moved_root(config: Config, cache: Cache) -> str | None:
    """Returns `dataset.root` of the config if it differs from the root that `kinegraph index` used, else None. The
    function does not check whether the videos lie below the new root.
    """
    changed = changes(config, cache)
    return str(changed["root"][1]) if "root" in changed else None


def adopt_root(config: Config, cache: Cache) -> None:
    """Writes the new paths of the videos to clips.parquet and dataset.json of the cache, if `dataset.root` of the
    config differs from the root that `kinegraph index` used.
    """
    root = moved_root(config, cache)
    if root is None or config.dataset is None or cache.dataset is None:
        return
    cache.arrays()  # a damaged document raises an error before anything is written
    move_rows(cache, root)
    asked = config.dataset.model_dump(mode="json")
    write_dataset(
        cache.storage, cache.dataset | {key: asked[key] for key in PATH_KEYS & asked.keys() & cache.dataset.keys()}
    )


def move_rows(cache: Cache, root: str) -> None:
    """Replaces the paths of the videos in clips.parquet by paths below the folder `root`. A video whose id is an
    absolute path or a URL keeps its path.
    """
    places = _below(cache, root)
    table = ClipsTable.read(cache.storage)
    columns = (table.column(name) for name in ("video_id", "path"))
    paths = [str(places.get(str(video), path)) for video, path in zip(*columns, strict=True)]
    table.with_paths(paths).write(cache.storage)


def _below(cache: Cache, root: str) -> dict[str, str]:
    """Returns video_id -> path below the folder `root`, for the videos of `cache`. A video whose id is an absolute path
    or a URL did not lie below the root of the data set and is left out.
    """
    name_of = ClipsTable.read_video_names(cache.storage)
    videos = ClipsTable.read_columns(cache.storage, ["video_id"]).column("video_id").unique().to_pylist()
    names = {video: name_of.get(video, video) for video in videos}
    folder = root.removeprefix(FILE).rstrip("/")
    return {video: f"{folder}/{name}" for video, name in names.items() if not name.startswith("/") and not is_url(name)}


def _fault_of_move(cache: Cache, root: str) -> str:
    """Checks whether the videos below the new folder `root` are those that were indexed in `cache`. Returns "" if no
    difference is found. Otherwise returns a text that names a video that is missing or has other content.

    If nothing can be compared, returns a text that says why: `root` is a URL, or nothing is extracted yet.
    """
    if is_url(root):
        return "whether videos at a URL are the same, only `index` tells"
    places = _below(cache, root)
    table = ClipsTable.read_columns(cache.storage, ["video_id", "frame_width"])
    columns = (table.column(name).to_pylist() for name in ("video_id", "frame_width"))
    for video, width in stopping.checked(zip(*columns, strict=True)):
        if width and video in places and not os.path.exists(on_disk(places[video])):  # noqa: PTH110 -- a million Paths
            return f"{places[video]} does not exist"
    num_compared = 0
    for record in stopping.checked(sealed_records(cache, CLIPS)):
        for video in record.sources.keys() & places.keys():
            num_compared += 1
            if has_changed(places[video], record.sources[video]):
                return f"{places[video]} is not the file that was extracted"
    return "" if num_compared or not places else "nothing is extracted yet, so there is no digest to compare"


def _same_place(was: Any, asked: Any, roots: tuple[str, str], key: str) -> bool:
    """Returns whether two values of the option `key` of a data set are paths of the same file or folder. `was` is the
    value when the cache was indexed, and `asked` is the value in the config.

    `roots` has both values of `dataset.root`, in the same order. Two paths are also the same if they are equal relative
    to their roots: `old/a.csv` and `new/a.csv` for the roots `old` and `new`.
    """
    if not isinstance(was, str) or not isinstance(asked, str) or is_url(was) or is_url(asked):
        return False
    if "\0" in was + asked or not was or not asked:  # no names of files
        return False
    if os.path.realpath(was.removeprefix(FILE)) == os.path.realpath(asked.removeprefix(FILE)):
        return True
    below = [os.path.relpath(path, root) for path, root in zip((was, asked), roots, strict=True)]
    return key != "root" and below[0] == below[1] and not below[0].startswith("..")


def _listed(cache: Cache, changed: Changes) -> str:
    lines = "".join(f"\n  dataset.{key}: {json.dumps(was)} -> {json.dumps(now)}" for key, (was, now) in changed.items())
    return f"{cache.root} was indexed with other dataset options (indexed -> asked for):{lines}"


def _mismatch(cache: Cache, changed: Changes, why: str = "") -> CacheMismatch:
    reason = f"\n{why}" if why else ""
    return CacheMismatch(
        f"{_listed(cache, changed)}{reason}\nRun `kinegraph index CONFIG` again with these options (rows and sealed "
        "shards of the same videos stay), or set the options back."
    )

"""Opens a cache, which is a folder or a URL, and reads its rows and the documents of its stages. The document of a
stage says how the arrays of the stage were made.

The module imports no torch, so planning, status and verification start at once.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.arrays import CLIPS, SCHEMA_VERSION, ArraySpec, crop_array, status_array
from kinegraph.cache_schemas.box_frames import box_frames_arrays
from kinegraph.cache_schemas.clips_table import TABLE, ClipRow, ClipsTable
from kinegraph.cache_schemas.coordinates import Coordinate, coordinates_of, label_names
from kinegraph.cache_schemas.crops import Framing
from kinegraph.cache_schemas.documents import (
    RESTORE,
    STAGES,
    Classes,
    IndexedDataset,
    Labels,
    Manifest,
    StageDocument,
    read_document,
)
from kinegraph.cache_schemas.errors import (
    UPGRADE,
    CacheError,
    CacheMismatch,
    CacheNotFound,
    earlier_rules,
    other_options,
)
from kinegraph.cache_schemas.fingerprint import Options, are_imported, differences, fingerprint
from kinegraph.cache_schemas.ledger import Ledger
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.store import comparable
from kinegraph.cache_schemas.stores import open_store
from kinegraph.cache_schemas.words import counted

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

MANIFEST, CLASSES, LABELS, DATASET = "cache.json", "classes.json", "labels.json", "dataset.json"
INDEX_AGAIN = "Write it anew with `kinegraph index CONFIG`."
IMPORT_AGAIN = "Write it anew: give `kinegraph import` again, with --annotations."
FEATURES = "features/"  # the prefix of a backbone's stage key


class Cache:
    """An existing cache, opened by its path or URL. A `Cache` keeps no file open.

    cache.json is read when the cache is opened, and clips.parquet at its first use. Other documents, such as ledger
    records, are read again at each call.

    Raises CacheNotFound if there is no cache. Raises CacheMismatch if an upgrade of the cache has not ended. Only the
    upgrade itself opens such a cache, with `half_upgraded=True`.
    """

    def __init__(self, root: Path | str, *, half_upgraded: bool = False) -> None:
        self.storage = open_storage(root)
        self.root = self.storage.root
        if not self.storage.exists(MANIFEST):
            looked = "" if self.location == self.root else f", looked from {Path.cwd()}"
            raise CacheNotFound(
                f"No cache at {self.root} ({MANIFEST} is missing{looked}). Make one with `kinegraph index CONFIG`."
            )
        self.manifest = read_document(self.storage, MANIFEST, Manifest).model_dump()
        if self.manifest["upgrading"] and not half_upgraded:
            raise CacheMismatch(f"{self.root} is half upgraded. Go on with `{UPGRADE.format(self.root)}`.")
        self.shard_clips: int = self.manifest["store"]["shard_clips"]
        self.store = open_store(self.storage, self.manifest["store"])
        self.ledger = Ledger(self.storage)
        self._clips: ClipsTable | None = None
        self._num_rows: int | None = None
        self._video_ids: ChunkedArray | None = None
        self._some_rows: tuple[int, ClipsTable] | None = None  # (first row, rows) of the last read by `rows`

    def __repr__(self) -> str:
        return f"Cache({self.root!r}, {counted(self.num_rows, 'row')}, {counted(self.num_shards, 'shard')})"

    @classmethod
    def create(cls, root: Path | str, clips_options: Options, layout: Options) -> "Cache":
        """Creates a cache at `root` and returns it. If a cache with equal options is already there, returns that cache.

        `clips_options` says how clips are taken from videos, and `layout` how arrays are stored (the entries `clips`
        and `store` of cache.json). Raises CacheMismatch if the cache at `root` has other clip options, another store or
        another compression. The message lists the options that differ.
        """
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "clips": dict(clips_options),
            "clips_digest": fingerprint(clips_options),
            "store": dict(layout),
        }
        open_storage(root).create(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        cache = cls(root)
        cache.check_clips(clips_options)
        cache.check_layout(layout)
        return cache

    def check_clips(self, clips_options: Options) -> None:
        """Raises CacheMismatch if the cache was made with other clip options than `clips_options`. Clip options say how
        clips are taken from videos.
        """
        self._require_same_clips(self.manifest["clips"], clips_options)

    def _require_same_clips(self, made_with: Options, clips_options: Options) -> None:
        changed = differences(made_with, clips_options)
        if changed and made_with.get("version", 0) in range(1, clips_options.get("version", 0)):
            raise earlier_rules(self.root, changed)
        if changed:
            raise other_options(self.root, "clips", changed)

    def check_not_upgraded(self) -> None:
        """Raises CacheMismatch if an upgrade of the cache began or ended after this object opened the cache."""
        now = read_document(self.storage, MANIFEST, Manifest)
        if now.upgrading or now.clips_digest != self.manifest["clips_digest"]:
            raise CacheMismatch(
                f"{self.root}: `{UPGRADE.format(self.root)}` was run while this run worked on it. Finished shards "
                "are kept. Give the command again after the upgrade has ended."
            )

    def check_layout(self, layout: Options) -> None:
        """Raises CacheMismatch if the kind of store or the compression of the cache differs from `layout`, the section
        `store` of a config.
        """
        if changed := differences(comparable(self.manifest["store"]), comparable(layout)):
            raise other_options(self.root, "store", changed)

    @property
    def location(self) -> str:
        """Returns the absolute path of the folder of the cache, or its URL."""
        folder = self.storage.local_path("")
        return self.root if folder is None else str(folder.absolute())

    @property
    def clips(self) -> ClipsTable:
        """Returns a ClipsTable with all rows of the cache, read from clips.parquet. Raises CacheError if the file is
        damaged.
        """
        if self._clips is None:
            self._clips = ClipsTable.read(self.storage)
        return self._clips

    @property
    def num_rows(self) -> int:
        """Returns the number of rows of the cache, without reading the rows."""
        if self._num_rows is None:
            self._num_rows = ClipsTable.count(self.storage)
        return self._num_rows

    @property
    def classes(self) -> list[str]:
        """Returns the names of the classes, in the order of the labels 0, 1, 2 and so on. Raises CacheError if
        classes.json is missing.
        """
        advice = IMPORT_AGAIN if self.is_imported else INDEX_AGAIN
        try:
            return read_document(self.storage, CLASSES, Classes, advice).root
        except FileNotFoundError:
            raise CacheError(f"{self.root}/{CLASSES} does not exist. {advice}") from None

    def require_labels_of_classes(self, labels: Iterable[Iterable[int]] | None = None) -> None:
        """Raises CacheError if a row has a label that is no index into the list `classes` of the cache.

        `labels` has the labels of each row of the cache. If it is None, they are read from clips.parquet.
        """
        if labels is None:
            labels = ClipsTable.read_columns(self.storage, ["labels"]).column("labels").to_pylist()
        num_classes, used = len(self.classes), {label for of_row in labels for label in of_row}
        if beyond := sorted(label for label in used if not 0 <= label < num_classes):
            raise CacheError(
                f"{self.root}: {TABLE} has label {beyond[0]}, and {CLASSES} has "
                f"{counted(num_classes, 'class')}, from 0 on. The two are not of one `kinegraph index "
                "CONFIG`: run it again."
            )

    @property
    def multi_label(self) -> bool | None:
        """Returns whether a video may have several labels, as labels.json says. Returns None if labels.json is missing
        or does not say. The caller then looks whether some row has several labels.
        """
        return self._labels.multi_label

    @property
    def classes_from(self) -> str:
        """Returns the file or rule that decided the order of the classes, for example "the names of the lists, sorted".
        Returns "" if labels.json does not say.
        """
        return self._labels.classes_from

    @property
    def _labels(self) -> Labels:
        try:
            return read_document(self.storage, LABELS, Labels, self._indexed_advice)
        except FileNotFoundError:
            return Labels(multi_label=None)

    @property
    def dataset(self) -> dict[str, Any] | None:
        """Returns the section `dataset` of the config with which the rows were indexed, as a dict. Returns None if the
        cache has no dataset.json.
        """
        try:
            return read_document(self.storage, DATASET, IndexedDataset, self._indexed_advice).options
        except FileNotFoundError:
            return None

    @property
    def is_imported(self) -> bool:
        """Returns whether the command `import` made the rows. If not, the command `index` made them. An imported cache
        has no labels.json and no dataset.json.
        """
        return are_imported(self.manifest["clips"])

    @property
    def _indexed_advice(self) -> str:
        return RESTORE if self.is_imported else INDEX_AGAIN

    @property
    def num_shards(self) -> int:
        """Returns the number of shards. A shard is a group of `shard_clips` rows. All stages have the same shards."""
        return -(-self.num_rows // self.shard_clips)

    def shard_rows(self, shard: int) -> range:
        """Returns the row numbers of shard number `shard`. With 100 rows per shard, shard 1 has range(100, 200). The
        last shard may have fewer rows.
        """
        start = shard * self.shard_clips
        return range(start, min(start + self.shard_clips, self.num_rows))

    def rows(self, shard: int) -> list[ClipRow]:
        """Returns the rows of shard number `shard` as ClipRows. Reads only a part of clips.parquet."""
        # The whole table takes 1 GB of memory for a million rows.
        row_range = self.shard_rows(shard)
        kept = self._some_rows
        if kept is None or not kept[0] <= row_range.start < row_range.stop <= kept[0] + len(kept[1]):
            kept = self._some_rows = ClipsTable.read_around(self.storage, row_range)
        first, table = kept
        return list(table.rows(row_range.start - first, row_range.stop - first))

    def clip_ids(self, shard: int) -> list[str]:
        """Returns the clip ids of shard number `shard`, in the order of its rows."""
        return [row.clip_id for row in self.rows(shard)]

    def video_ids(self, shard: int) -> list[str]:
        """Returns the video id of each row of shard number `shard`. The first call reads the video ids of all rows."""
        if self._video_ids is None:
            self._video_ids = ClipsTable.read_columns(self.storage, ["video_id"]).column("video_id")
        row_range = self.shard_rows(shard)
        names: list[str] = self._video_ids.slice(row_range.start, len(row_range)).to_pylist()
        return names

    def stage_name(self, key: str) -> str:
        """Returns the path of the document of the stage `key`, relative to the cache (`stages/clips.json`)."""
        return f"{STAGES}/{key}.json"

    def has_stage(self, key: str) -> bool:
        """Returns whether the stage `key` was ever begun in this cache."""
        return self.storage.exists(self.stage_name(key))

    def stage(self, key: str) -> Stage:
        """Returns the Stage with the key `key`, which has its options and arrays. Raises CacheError if the cache has no
        such stage, or if the document of the stage is damaged.
        """
        if not self.has_stage(key):
            raise CacheError(f"{self.root} has no stage {key!r}; it has {', '.join(self.stage_keys()) or 'none yet'}.")
        stage = Stage.of(read_document(self.storage, self.stage_name(key), StageDocument))
        if stage.key != key:
            raise CacheError(f"{self.root}/{self.stage_name(key)} is damaged: it describes {stage.key!r}.")
        return stage

    def stage_keys(self) -> list[str]:
        """Returns the keys of all stages that were ever begun in this cache, sorted (`clips`, `features/i3d`)."""
        names = (name for name in self.storage.names(STAGES) if name.endswith(".json"))
        return sorted(name.removeprefix(f"{STAGES}/").removesuffix(".json") for name in names)

    def declare(self, *stages: Stage, renew: bool = False) -> None:
        """Writes the document stages/<key>.json of each of `stages`, and the metadata of all arrays. An existing
        document stays as it is.

        In a zarr cache, the metadata has texts by which xarray labels the rows, such as their splits. If `renew` is
        true, texts that no longer match the rows are replaced. Raises CacheMismatch, before anything is written, if the
        cache has a stage with the same key but other options.
        """
        for stage in stages:
            self.check_stage(stage)
        for stage in stages:
            content = json.dumps(stage.document(), indent=1, sort_keys=True).encode()
            self.storage.create(self.stage_name(stage.key), content)
            self.check_stage(stage)  # another process may have been faster
        self.declare_arrays(renew=renew)

    def declare_arrays(self, *, renew: bool = False) -> None:
        """Writes the metadata of all arrays for the present number of rows, so that other programs can read the arrays.
        A zarr store also gets coordinates: texts by which xarray labels the rows, such as their clip ids and splits.

        If `renew` is true, existing coordinates that no longer match the rows are replaced. Set it if splits or labels
        of rows may have changed.
        """
        keys: list[str] = []
        made = cache(self._coordinates)
        while (now := self.stage_keys()) != keys:  # again, where another process began a stage meanwhile
            self.store.declare(self._with_status(), self.num_rows, made, renew=renew)
            keys = now

    def _coordinates(self) -> list[Coordinate]:
        """Returns the coordinates of all rows: the texts, such as clip_id and split, by which xarray labels the rows.

        The coordinate `label` is left out if classes.json cannot be read or lacks the class of a label.
        """
        table = ClipsTable.read_columns(self.storage, ["clip_id", "video_id", "split", "labels"])
        columns = {name: table.column(name).to_pylist()[: self.num_rows] for name in table.column_names}
        labels = columns.pop("labels")
        try:
            many = bool(self.multi_label) or any(len(row) > 1 for row in labels)
            return coordinates_of(columns, label_names(labels, self.classes, many=many), many=many)
        except (CacheError, KeyError):
            return coordinates_of(columns, None, many=False)

    def _with_status(self) -> list[ArraySpec]:
        """Returns the ArraySpecs of all stored arrays. The arrays `status/...`, which say which rows failed, are
        included.
        """
        return [*self.arrays().values(), *(status_array(key) for key in self.stage_keys())]

    def check_stage(self, stage: Stage) -> None:
        """Raises CacheMismatch if the cache has a stage with the key of `stage` but with other options. The error lists
        the options that differ.
        """
        if stage.key == CLIPS and self.has_stage(CLIPS):
            self._require_same_clips(self.stage(CLIPS).options, stage.options)
        if changed := self.stage_differences(stage):
            raise other_options(self.root, stage.key, changed)

    def stage_differences(self, stage: Stage) -> list[str]:
        """Compares `stage` with the cache's stage that has the same key. Returns one line for each option that differs:
        `option: value in the cache -> value in stage`. Returns an empty list if the cache has no such stage.
        """
        if not self.has_stage(stage.key):
            return []
        return differences(self.stage(stage.key).options, stage.options)

    def array(self, name: str) -> ArraySpec:
        """Returns the ArraySpec (shape, type and description) of the array with the full name `name`, such as
        `proposals/boxes`. Raises CacheError if the cache has no such array. The message lists the names of all arrays.
        """
        specs = self.readable()
        if name not in specs:
            raise CacheError(f"{self.root} has no array {name!r}; it has {', '.join(specs) or 'none yet'}.")
        return specs[name]

    def readable(self, planned: Iterable[Stage] = ()) -> dict[str, ArraySpec]:
        """Returns {name: ArraySpec} of every array that `CachedClips` can read: all stored arrays, and these arrays,
        which are computed when they are read:

        - `clips/crop`: the rectangle of the frame that each row shows.
        - `clips/crop/<entry>`: the rectangle that the backbone `<entry>` sees, if it resizes whole frames before it
          cuts the crop.
        - `clips/box_frames/<array>`: for each time step of `<array>`, the index of its frame among the frames with
          boxes.

        A cache without the stage `clips`, for example after an import, has no arrays of crops. Arrays of the stages
        `planned`, which the cache may not have yet, are included.
        """
        stages = [
            *({stage.key: stage for stage in planned} | {key: self.stage(key) for key in self.stage_keys()}).values()
        ]
        specs = {spec.name: spec for stage in stages for spec in stage.arrays}
        entries = [stage.key.removeprefix(FEATURES) for stage in stages if _cuts_resized(stage)]
        crops = [crop_array(entry) for entry in ("", *entries)] if any(stage.key == CLIPS for stage in stages) else []
        return specs | {crop.name: crop for crop in crops} | box_frames_arrays(specs)

    def framing(self, entry: str) -> Framing:
        """Returns a Framing, which says how the backbone with the name `entry` resized and cut frames. Raises
        CacheError if the cache lacks the backbone.
        """
        return Framing.from_options(self.stage(f"{FEATURES}{entry}").options)

    def arrays(self) -> dict[str, ArraySpec]:
        """Returns array name -> ArraySpec for every array that a stage stores. The arrays `status/...`, which say which
        rows failed, are not included.
        """
        return {spec.name: spec for key in self.stage_keys() for spec in self.stage(key).arrays}


def _cuts_resized(stage: Stage) -> bool:
    return stage.key.startswith(FEATURES) and "resize_short" in stage.options


def open_cache(path: Path | str) -> Cache:
    """Returns the cache at `path`, a path or a URL. Raises CacheNotFound if there is no cache, and CacheError if the
    cache is damaged.
    """
    return Cache(path)

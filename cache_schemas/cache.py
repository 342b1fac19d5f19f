"""A cache is a folder or a URL. This module reads its layout, its rows, and the record of how each stage key was made.

The module imports no torch, so planning, status and verification start at once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.arrays import CLIPS, SCHEMA_VERSION, ArraySpec, crop_array, status_array
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
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


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Describes what one stage key writes: its options and its arrays.

    `options` are the options that the fingerprint covers, among them the fingerprints of the stages that this stage
    reads. `weights` is the weights entry of the config. The fingerprint does not cover `weights`. The fingerprint
    covers the digest of the weights, which is in `options`. `upgraded_from` is the fingerprint of this stage before the
    cache was upgraded to the present rules for videos.
    """

    key: str
    options: Options
    arrays: tuple[ArraySpec, ...]
    weights: str = ""
    upgraded_from: str = ""

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the options."""
        return fingerprint(self.options)

    @property
    def reads(self) -> Mapping[str, str]:
        """Returns stage key -> fingerprint, for each stage whose rows this stage reads."""
        read_keys: Mapping[str, str] = self.options.get("reads", {})
        return read_keys

    @property
    def is_imported(self) -> bool:
        """Returns whether the stage came from an import, so that no config describes it."""
        return are_imported(self.options)

    def document(self) -> dict[str, Any]:
        """Returns the content of stages/<key>.json."""
        arrays = [asdict(spec) | {"fill": repr(spec.fill)} for spec in self.arrays]
        upgraded = {"upgraded_from": self.upgraded_from} if self.upgraded_from else {}
        return upgraded | {
            "schema_version": SCHEMA_VERSION,
            "key": self.key,
            "fingerprint": self.fingerprint,
            "options": dict(self.options),
            "weights": self.weights,
            "arrays": arrays,
        }

    @classmethod
    def of(cls, document: StageDocument) -> "Stage":
        """Returns the stage that the document stages/<key>.json describes."""
        arrays = tuple(array.spec for array in document.arrays)
        return cls(
            key=document.key,
            options=document.options,
            arrays=arrays,
            weights=document.weights,
            upgraded_from=document.upgraded_from,
        )


class Cache:
    """An existing cache, opened by its path or URL. A `Cache` keeps no file open.

    The rows of the clips table are read at first use and kept. Everything else is read afresh at each call.

    Raises CacheNotFound where there is no cache, CacheMismatch for a cache that is half upgraded.
    """

    def __init__(self, root: Path | str, *, half_upgraded: bool = False) -> None:
        self.storage = open_storage(root)
        self.root = self.storage.root
        if not self.storage.exists(MANIFEST):
            raise CacheNotFound(
                f"No cache at {self.root} ({MANIFEST} is missing). Make one with `kinegraph index CONFIG`."
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
        """Creates a cache and returns it. Returns the existing cache where clip options and store layout are the same.

        Raises CacheMismatch, with the keys that differ, where the cache was created with other options.
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
        """Raises CacheMismatch unless the cache was made with these `clips` options and the same rules for videos."""
        self._require_same_clips(self.manifest["clips"], clips_options)

    def _require_same_clips(self, made_with: Options, clips_options: Options) -> None:
        changed = differences(made_with, clips_options)
        if changed and made_with.get("version", 0) in range(1, clips_options.get("version", 0)):
            raise earlier_rules(self.root, changed)
        if changed:
            raise other_options(self.root, "clips", changed)

    def check_not_upgraded(self) -> None:
        """Raises CacheMismatch where an upgrade of the cache began or ended after this object opened the cache."""
        now = read_document(self.storage, MANIFEST, Manifest)
        if now.upgrading or now.clips_digest != self.manifest["clips_digest"]:
            raise CacheMismatch(
                f"{self.root}: `{UPGRADE.format(self.root)}` was run while this run was at work on it. What is sealed "
                "stays. Give the command again once the upgrade has ended."
            )

    def check_layout(self, layout: Options) -> None:
        """Raises CacheMismatch unless the cache was made with the kind of store and the compression of `layout`."""
        if changed := differences(comparable(self.manifest["store"]), comparable(layout)):
            raise other_options(self.root, "store", changed)

    @property
    def location(self) -> str:
        """Returns the place of the cache as records store it: the absolute path of a folder, or the URL."""
        folder = self.storage.local_path("")
        return self.root if folder is None else str(folder.absolute())

    @property
    def clips(self) -> ClipsTable:
        """Returns all rows of clips.parquet. Raises CacheError where the file is damaged."""
        if self._clips is None:
            self._clips = ClipsTable.read(self.storage)
        return self._clips

    @property
    def num_rows(self) -> int:
        """Returns the number of rows. The rows themselves are not read for it."""
        if self._num_rows is None:
            self._num_rows = ClipsTable.count(self.storage)
        return self._num_rows

    @property
    def classes(self) -> list[str]:
        """Returns the names of the classes. A label is an index into this list.

        Raises CacheError where classes.json is missing.
        """
        advice = IMPORT_AGAIN if self.is_imported else INDEX_AGAIN
        try:
            return read_document(self.storage, CLASSES, Classes, advice).root
        except FileNotFoundError:
            raise CacheError(f"{self.root}/{CLASSES} does not exist. {advice}") from None

    @property
    def multi_label(self) -> bool | None:
        """Returns whether a video may have several labels. None means yes if some row has several labels, else no."""
        try:
            return read_document(self.storage, LABELS, Labels, self._indexed_advice).multi_label
        except FileNotFoundError:
            return None

    @property
    def dataset(self) -> dict[str, Any] | None:
        """Returns the dataset options that `index` used, or None where dataset.json is missing."""
        try:
            return read_document(self.storage, DATASET, IndexedDataset, self._indexed_advice).options
        except FileNotFoundError:
            return None

    @property
    def is_imported(self) -> bool:
        """Returns whether `import` made the rows. An imported cache has no labels.json and no dataset.json."""
        return are_imported(self.manifest["clips"])

    @property
    def _indexed_advice(self) -> str:
        return RESTORE if self.is_imported else INDEX_AGAIN

    @property
    def num_shards(self) -> int:
        """Returns the number of shards. The number is the same for every stage key."""
        return -(-self.num_rows // self.shard_clips)

    def shard_rows(self, shard: int) -> range:
        """Returns the range of row numbers in a shard. The last shard may have fewer rows than `shard_clips`."""
        start = shard * self.shard_clips
        return range(start, min(start + self.shard_clips, self.num_rows))

    def rows(self, shard: int) -> list[ClipRow]:
        """Returns the rows of a shard without reading the whole table.

        The whole table takes 1 GB of memory for a million rows.
        """
        row_range = self.shard_rows(shard)
        kept = self._some_rows
        if kept is None or not kept[0] <= row_range.start < row_range.stop <= kept[0] + len(kept[1]):
            kept = self._some_rows = ClipsTable.read_around(self.storage, row_range)
        first, table = kept
        return list(table.rows(row_range.start - first, row_range.stop - first))

    def clip_ids(self, shard: int) -> list[str]:
        """Returns the clip ids of a shard, in the order of the rows. Only rows near the shard are read."""
        return [row.clip_id for row in self.rows(shard)]

    def video_ids(self, shard: int) -> list[str]:
        """Returns the video ids of a shard, one for each row. The first call reads the video ids of all rows."""
        if self._video_ids is None:
            self._video_ids = ClipsTable.read_columns(self.storage, ["video_id"]).column("video_id")
        row_range = self.shard_rows(shard)
        names: list[str] = self._video_ids.slice(row_range.start, len(row_range)).to_pylist()
        return names

    def stage_name(self, key: str) -> str:
        """Returns the name of the document of the stage `key`, a path below the cache."""
        return f"{STAGES}/{key}.json"

    def has_stage(self, key: str) -> bool:
        """Returns whether the stage `key` was ever begun in this cache."""
        return self.storage.exists(self.stage_name(key))

    def stage(self, key: str) -> Stage:
        """Returns the stage `key`. Raises CacheError where the cache has no such stage or the document is damaged."""
        if not self.has_stage(key):
            raise CacheError(f"{self.root} has no stage {key!r}; it has {', '.join(self.stage_keys()) or 'none yet'}.")
        stage = Stage.of(read_document(self.storage, self.stage_name(key), StageDocument))
        if stage.key != key:
            raise CacheError(f"{self.root}/{self.stage_name(key)} is damaged: it describes {stage.key!r}.")
        return stage

    def stage_keys(self) -> list[str]:
        """Returns the keys of all stages that were ever begun in this cache, sorted."""
        names = (name for name in self.storage.names(STAGES) if name.endswith(".json"))
        return sorted(name.removeprefix(f"{STAGES}/").removesuffix(".json") for name in names)

    def declare(self, *stages: Stage, renew: bool = False) -> None:
        """Records how each stage is made, then calls `declare_arrays` with `renew`.

        An existing record of a stage is never replaced. Raises CacheMismatch where a key was begun with other options.
        The cache is then unchanged.
        """
        for stage in stages:
            self.check_stage(stage)
        for stage in stages:
            content = json.dumps(stage.document(), indent=1, sort_keys=True).encode()
            self.storage.create(self.stage_name(stage.key), content)
            self.check_stage(stage)  # another process may have been faster
        self.declare_arrays(renew=renew)

    def declare_arrays(self, *, renew: bool = False) -> None:
        """Makes all arrays of the cache readable at the present number of rows, with coordinates for xarray.

        renew: splits or labels of rows may have changed. Existing coordinates are then compared with the rows and
        replaced where they differ.
        """
        keys: list[str] = []
        made = cache(self._coordinates)
        while (now := self.stage_keys()) != keys:  # again, where another process began a stage meanwhile
            self.store.declare(self._with_status(), self.num_rows, made, renew=renew)
            keys = now

    def _coordinates(self) -> list[Coordinate]:
        """Returns the coordinates of all rows, for xarray.

        The coordinate `label` is left out where the classes cannot be read or do not match the labels.
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
        """Returns the specs of all arrays that are stored, status arrays included."""
        return [*self.arrays().values(), *(status_array(key) for key in self.stage_keys())]

    def check_stage(self, stage: Stage) -> None:
        """Raises CacheMismatch, with the options that differ, where the cache has this stage with other options."""
        if stage.key == CLIPS and self.has_stage(CLIPS):
            self._require_same_clips(self.stage(CLIPS).options, stage.options)
        if changed := self.stage_differences(stage):
            raise other_options(self.root, stage.key, changed)

    def stage_differences(self, stage: Stage) -> list[str]:
        """Returns one line `option: cached -> asked for` for each option that differs in the cache's stage of this
        key.
        """
        if not self.has_stage(stage.key):
            return []
        return differences(self.stage(stage.key).options, stage.options)

    def array(self, name: str) -> ArraySpec:
        """Returns the spec of the array with the full name `name`.

        Raises CacheError, with the names of the arrays in the cache, for an unknown name.
        """
        specs = self.readable()
        if name not in specs:
            raise CacheError(f"{self.root} has no array {name!r}; it has {', '.join(specs) or 'none yet'}.")
        return specs[name]

    def readable(self, planned: Iterable[Stage] = ()) -> dict[str, ArraySpec]:
        """Returns name -> spec of every array that `CachedClips` can read: stored arrays and crops of rows.

        The crops are `clips/crop`, and `clips/crop/<entry>` for each backbone that cuts its crops out of resized
        frames. A cache without the stage `clips`, as after an import, has no crops.

        planned: stages that count as begun in this cache. Where the cache has a stage of the same key, the stage of the
        cache counts.
        """
        stages = [
            *({stage.key: stage for stage in planned} | {key: self.stage(key) for key in self.stage_keys()}).values()
        ]
        specs = {spec.name: spec for stage in stages for spec in stage.arrays}
        entries = [stage.key.removeprefix(FEATURES) for stage in stages if _cuts_resized(stage)]
        crops = [crop_array(entry) for entry in ("", *entries)] if any(stage.key == CLIPS for stage in stages) else []
        return specs | {crop.name: crop for crop in crops}

    def framing(self, entry: str) -> Framing:
        """Returns how frames became the input of the backbone `entry`. Raises CacheError for an unknown backbone."""
        return Framing.from_options(self.stage(f"{FEATURES}{entry}").options)

    def arrays(self) -> dict[str, ArraySpec]:
        """Returns name -> spec of every stored array, without the status arrays."""
        return {spec.name: spec for key in self.stage_keys() for spec in self.stage(key).arrays}


def _cuts_resized(stage: Stage) -> bool:
    return stage.key.startswith(FEATURES) and "resize_short" in stage.options


def open_cache(path: Path | str) -> Cache:
    """Returns the cache at a path or URL. Raises CacheNotFound where there is none, CacheError where it is damaged."""
    return Cache(path)

"""A cache folder: its layout, its rows, and what each stage key wrote and how.

Torch-free, so that planning, status and verification start at once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.arrays import CLIPS, SCHEMA_VERSION, ArraySpec, crop_array, status_array
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
from kinegraph.cache_schemas.coordinates import Coordinate, coordinates_of, label_names
from kinegraph.cache_schemas.crops import Framing
from kinegraph.cache_schemas.documents import Classes, IndexedDataset, Labels, Manifest, StageDocument, read_document
from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
from kinegraph.cache_schemas.fingerprint import Options, differences, fingerprint
from kinegraph.cache_schemas.ledger import Ledger
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.store import comparable
from kinegraph.cache_schemas.stores import open_store
from kinegraph.cache_schemas.words import counted

UPGRADE = "kinegraph verify {} --frames --repair"
MANIFEST, CLASSES, LABELS, DATASET, STAGES = "cache.json", "classes.json", "labels.json", "dataset.json", "stages"
INDEX_AGAIN = "Write it anew with `kinegraph index CONFIG`."
FEATURES = "features/"  # before the name of a backbone, in keys


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage key writes: fingerprinted `options` (those of what it reads among them), and its arrays.

    `weights` is the config's word for them; it enters no fingerprint, the digest in `options` does. `upgraded_from` is
    the fingerprint that it had before the cache was upgraded to the present rules for videos.
    """

    key: str
    options: Options
    arrays: tuple[ArraySpec, ...]
    weights: str = ""
    upgraded_from: str = ""

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.options)

    @property
    def reads(self) -> Mapping[str, str]:
        """The keys whose rows this one is made from, with their fingerprints."""
        found: Mapping[str, str] = self.options.get("reads", {})
        return found

    def document(self) -> dict[str, Any]:
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
        arrays = tuple(array.spec for array in document.arrays)
        return cls(
            key=document.key,
            options=document.options,
            arrays=arrays,
            weights=document.weights,
            upgraded_from=document.upgraded_from,
        )


class Cache:
    """An existing cache, opened by path. Holds no file open. Raises CacheMismatch for one that is half upgraded.

    Rows of the clips are read when first asked for and kept; everything else is read afresh at each call.
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
        self._some_rows: tuple[int, ClipsTable] | None = None  # the last that `rows` read, from this row on

    def __repr__(self) -> str:
        return f"Cache({self.root!r}, {counted(self.num_rows, 'row')}, {counted(self.num_shards, 'shard')})"

    @classmethod
    def create(cls, root: Path | str, clips_options: Options, layout: Options) -> "Cache":
        """Create the cache, or open it if it was created with the same clip options and store layout.

        Raises CacheMismatch, with the keys that differ, where it was created with others.
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
        """Raise CacheMismatch unless the cache was made with these `clips` options, by the same rules for videos."""
        self._require_same_clips(self.manifest["clips"], clips_options)

    def _require_same_clips(self, made_with: Options, clips_options: Options) -> None:
        changed = differences(made_with, clips_options)
        if changed and made_with.get("version", 0) in range(1, clips_options.get("version", 0)):
            raise CacheMismatch(_earlier_rules(self.root, changed))
        if changed:
            raise CacheMismatch(_mismatch(self.root, "clips", changed))

    def check_not_upgraded(self) -> None:
        """Raise CacheMismatch where an upgrade of the cache began, or ended, since it was opened."""
        now = read_document(self.storage, MANIFEST, Manifest)
        if now.upgrading or now.clips_digest != self.manifest["clips_digest"]:
            raise CacheMismatch(
                f"{self.root}: `{UPGRADE.format(self.root)}` was run while this run was at work on it. What is sealed "
                "stays. Give the command again once the upgrade has ended."
            )

    def check_layout(self, layout: Options) -> None:
        """Raise CacheMismatch unless the cache was made with this kind of store and compression."""
        if changed := differences(comparable(self.manifest["store"]), comparable(layout)):
            raise CacheMismatch(_mismatch(self.root, "store", changed))

    @property
    def location(self) -> str:
        """`root` as others may record it: absolute where it is a folder."""
        folder = self.storage.local_path("")
        return self.root if folder is None else str(folder.absolute())

    @property
    def clips(self) -> ClipsTable:
        if self._clips is None:
            self._clips = ClipsTable.read(self.storage)
        return self._clips

    @property
    def num_rows(self) -> int:
        """Rows of `clips`, without reading them."""
        if self._num_rows is None:
            self._num_rows = ClipsTable.count(self.storage)
        return self._num_rows

    @property
    def classes(self) -> list[str]:
        try:
            return read_document(self.storage, CLASSES, Classes).root
        except FileNotFoundError:
            raise CacheError(f"{self.root}/{CLASSES} does not exist. Make it with `kinegraph index CONFIG`.") from None

    @property
    def multi_label(self) -> bool | None:
        """Whether videos may have many labels; None where nobody said so and only the labels tell."""
        try:
            return read_document(self.storage, LABELS, Labels).multi_label
        except FileNotFoundError:
            return None

    @property
    def dataset(self) -> dict[str, Any] | None:
        """The dataset options that rows were indexed with; None where nothing tells: an early cache, or imported."""
        try:
            return read_document(self.storage, DATASET, IndexedDataset, INDEX_AGAIN).options
        except FileNotFoundError:
            return None

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.shard_clips)

    def shard_rows(self, shard: int) -> range:
        """Row numbers of a shard; the last shard may be short."""
        start = shard * self.shard_clips
        return range(start, min(start + self.shard_clips, self.num_rows))

    def rows(self, shard: int) -> list[ClipRow]:
        """The rows of a shard, read without the rest of the table, which takes 1 GB for a million rows."""
        numbers = self.shard_rows(shard)
        found = self._some_rows
        if found is None or not found[0] <= numbers.start < numbers.stop <= found[0] + len(found[1]):
            found = self._some_rows = ClipsTable.read_around(self.storage, numbers)
        first, table = found
        return list(table.rows(numbers.start - first, numbers.stop - first))

    def clip_ids(self, shard: int) -> list[str]:
        """The clips of a shard, in order of their rows."""
        return [row.clip_id for row in self.rows(shard)]

    def stage_name(self, key: str) -> str:
        """Name of the document of a stage key."""
        return f"{STAGES}/{key}.json"

    def has_stage(self, key: str) -> bool:
        """Whether `key` was ever begun in this cache."""
        return self.storage.exists(self.stage_name(key))

    def stage(self, key: str) -> Stage:
        """What `key` wrote here; CacheError lists the keys there are."""
        if not self.has_stage(key):
            raise CacheError(f"{self.root} has no stage {key!r}; it has {', '.join(self.stage_keys()) or 'none yet'}.")
        stage = Stage.of(read_document(self.storage, self.stage_name(key), StageDocument))
        if stage.key != key:
            raise CacheError(f"{self.root}/{self.stage_name(key)} is damaged: it describes {stage.key!r}.")
        return stage

    def stage_keys(self) -> list[str]:
        """Keys that were ever begun in this cache."""
        names = (name for name in self.storage.names(STAGES) if name.endswith(".json"))
        return sorted(name.removeprefix(f"{STAGES}/").removesuffix(".json") for name in names)

    def declare(self, *stages: Stage, renew: bool = False) -> None:
        """Record how each stage is made, exclusively, and all arrays of the cache at the present number of rows.

        `renew` is that of `declare_arrays`. Raises CacheMismatch where a key was begun with other options; nothing is
        changed then.
        """
        for stage in stages:
            self.check_stage(stage)
        for stage in stages:
            content = json.dumps(stage.document(), indent=1, sort_keys=True).encode()
            self.storage.create(self.stage_name(stage.key), content)
            self.check_stage(stage)  # another process may have been faster
        self.declare_arrays(renew=renew)

    def declare_arrays(self, *, renew: bool = False) -> None:
        """Make all arrays of the cache readable at the present number of rows, with coordinates for xarray.

        renew: splits or labels of rows may have changed, so that coordinates are compared with them.
        """
        keys: list[str] = []
        made = cache(self._coordinates)
        while (now := self.stage_keys()) != keys:  # again, where another process began a stage meanwhile
            self.store.declare(self._with_status(), self.num_rows, made, renew=renew)
            keys = now

    def _coordinates(self) -> list[Coordinate]:
        """Those of all rows; without `label` where the classes cannot be read or are not those of the labels."""
        table = ClipsTable.read_columns(self.storage, ["clip_id", "video_id", "split", "labels"])
        columns = {name: table.column(name).to_pylist()[: self.num_rows] for name in table.column_names}
        labels = columns.pop("labels")
        try:
            many = bool(self.multi_label) or any(len(row) > 1 for row in labels)
            return coordinates_of(columns, label_names(labels, self.classes, many=many), many=many)
        except (CacheError, KeyError):
            return coordinates_of(columns, None, many=False)

    def _with_status(self) -> list[ArraySpec]:
        """All arrays on disk, those that say how rows fared among them."""
        return [*self.arrays().values(), *(status_array(key) for key in self.stage_keys())]

    def check_stage(self, stage: Stage) -> None:
        if stage.key == CLIPS and self.has_stage(CLIPS):
            self._require_same_clips(self.stage(CLIPS).options, stage.options)
        if changed := self.stage_differences(stage):
            raise CacheMismatch(_mismatch(self.root, stage.key, changed))

    def stage_differences(self, stage: Stage) -> list[str]:
        """Keys in which `stage` differs from what the cache holds for it, one line each."""
        if not self.has_stage(stage.key):
            return []
        return differences(self.stage(stage.key).options, stage.options)

    def array(self, name: str) -> ArraySpec:
        """The spec of an array by its full name; CacheError lists the names there are."""
        specs = self.readable()
        if name not in specs:
            raise CacheError(f"{self.root} has no array {name!r}; it has {', '.join(specs) or 'none yet'}.")
        return specs[name]

    def readable(self, planned: Iterable[Stage] = ()) -> dict[str, ArraySpec]:
        """What `CachedClips` reads: the arrays, and what is seen of each row's frame, which imported rows do not have.

        That is `clips/crop`, and `clips/crop/<entry>` for backbones that cut crops out of resized frames.
        planned: stages that count as begun here. Where the cache has one of the key, that one counts.
        """
        stages = [
            *({stage.key: stage for stage in planned} | {key: self.stage(key) for key in self.stage_keys()}).values()
        ]
        found = {spec.name: spec for stage in stages for spec in stage.arrays}
        entries = [stage.key.removeprefix(FEATURES) for stage in stages if _cuts_resized(stage)]
        crops = [crop_array(entry) for entry in ("", *entries)] if any(stage.key == CLIPS for stage in stages) else []
        return found | {crop.name: crop for crop in crops}

    def framing(self, entry: str) -> Framing:
        """How frames became the input of a backbone of this cache."""
        return Framing.from_options(self.stage(f"{FEATURES}{entry}").options)

    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays that are stored, status arrays excepted."""
        return {spec.name: spec for key in self.stage_keys() for spec in self.stage(key).arrays}


def _cuts_resized(stage: Stage) -> bool:
    return stage.key.startswith(FEATURES) and "resize_short" in stage.options


def _mismatch(root: str, key: str, changed: Sequence[str]) -> str:
    lines = "\n".join(f"  {line}" for line in changed)
    return (
        f"{root} holds {key!r} made with other options (cached -> asked for):\n{lines}\n"
        "Set the options back, choose another name for the entry, or another `cache:` folder."
    )


def _earlier_rules(root: str, changed: Sequence[str]) -> str:
    lines = "\n".join(f"  {line}" for line in changed)
    return (
        f"{root} was made by an earlier kinegraph, which took other frames of some videos "
        f"(cached -> asked for):\n{lines}\n"
        "It is read as before: `verify`, `train`, `evaluate` and `export` work. To extract, run "
        f"`{UPGRADE.format(root)}` first. It compares the frames, keeps what is right, and "
        "un-marks the rest. No network runs."
    )


def open_cache(path: Path | str) -> Cache:
    """Open an existing cache. Raises CacheNotFound or CacheError."""
    return Cache(path)

"""Imports the features of other tools as stages of a cache: `kinegraph import`. Torch-free."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import MANIFEST, Cache
from kinegraph.cache_schemas.compression import NONE
from kinegraph.cache_schemas.ledger import Failure, Record, Source
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.caches.declared import rows_that_fit
from kinegraph.pipeline.caches.indexing import require_begun
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.imported_rows import IMPORTED_CLIPS, RowsToFill, matched, rows_to_fill, write_rows
from kinegraph.pipeline.exchange.imported_stages import Naming, imported_options, imported_stages
from kinegraph.pipeline.machine.versions import versions
from kinegraph.pipeline.shards.sealing import Provenance, ShardRows, StageOutput, describe
from kinegraph.pipeline.shards.taking_over import OnProgress, fill, unheard
from kinegraph.stages.imports.features import FeatureFiles, UnusableError, VideoFeatures
from kinegraph.stages.imports.layout import chosen_frames, common_layout
from kinegraph.stages.imports.recognise import open_features

READ_WITH = ("kinegraph", "git", "python", "numpy", "h5py")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import of features."""

    cache: Cache  # the cache that received the features
    kind: str  # the format of the imported files, such as "npy"
    naming: Naming  # the names of the imported stages and arrays
    stages: tuple[Stage, ...]  # the stages that were written
    num_videos: int  # the number of videos of the cache whose features were in the files
    left_out: tuple[str, ...]  # the videos of the files that have no row in the cache
    failures: tuple[Failure, ...]  # one Failure for each failed clip


def import_features(
    features: Path,
    into: Path | str,
    *,
    naming: Naming | None = None,
    kind: str | None = None,
    dataset: str | None = None,
    annotations: Path | None = None,
    num_frames: int | None = None,
    on_progress: OnProgress = unheard,
) -> Imported:
    """Imports the features in the files at `features` into the cache `into`, and returns an Imported. Writes the stage
    features/<name>. If the files have boxes or regions, also writes proposals and regions/<name>.

    - `naming`: the names of stages and arrays. `<name>` is `naming.name`.
    - `kind`: the format of the files, such as "npy". None means that it is recognised from the files.
    - `dataset`: which array of a video to read, as in `open_features`.
    - `annotations`: a csv with the rows of a new cache.
    - `num_frames`: how many frames of each video to import. None means all.

    Without a csv, the rows are those of the cache. A cache without rows gets one row per video. If a row has no
    features, its clip counts as failed. A video without a row is not imported. A killed import can be repeated.

    Raises FeatureFileError for files that cannot be imported, ExchangeError for features that do not fit the rows,
    DatasetError for a bad csv, and CacheMismatch if the cache has other features of this name.
    """
    naming = naming or Naming()
    files = open_features(features, kind, dataset)
    existing = Cache(into) if open_storage(into).exists(MANIFEST) else None
    root = features if features.is_dir() else features.parent
    videos = files.videos()
    if existing is not None:
        require_begun(existing)
    rows = rows_to_fill(existing, videos, root, annotations)
    names = matched(rows.video_ids, videos)
    if not names:
        text = f"{videos[0]}, ...; the rows are of {rows.video_ids[0]}, ..."
        raise ExchangeError(f"no video has features: {features} has those of {text}")
    # Digests cover all videos, also those without a row: their rows may come later and must fit the same stages.
    sources = {video: files.source(video) for video in _counted("digests", videos, on_progress)}
    layout = common_layout(files, _counted("shapes", videos, on_progress), num_frames)
    stages = imported_stages(naming, layout, imported_options(files.kind, sources, num_frames))
    cache = _begin(existing, into, rows, stages)
    work = _RowMaker(
        cache=cache, files=files, naming=naming, names=names, sources=sources, num_frames=layout.num_frames,
        stages={stage.key: stage for stage in stages},
    )  # fmt: skip
    fill(cache, _missing(cache, stages), work.prepare, on_progress)
    return Imported(
        cache=cache,
        kind=files.kind,
        naming=naming,
        stages=stages,
        num_videos=len(names),
        left_out=tuple(sorted(sources.keys() - {*names.values()})),
        failures=_failures(cache, stages),
    )


def _counted(what: str, videos: Sequence[str], on_progress: OnProgress) -> Iterator[str]:
    for done, video in enumerate(stopping.checked(videos), 1):
        yield video
        on_progress(f"reading {what}", done, len(videos))


def _begin(cache: Cache | None, into: Path | str, rows: RowsToFill, stages: Sequence[Stage]) -> Cache:
    """Prepares a cache for an import and returns it. Writes the rows `rows` and declares `stages`. If `cache` is None,
    creates a cache at `into`.

    A cache that `kinegraph index` made has its rows already, so no rows are written to it. Raises CacheMismatch if the
    cache has a stage of the same key with other features.
    """
    if cache is None:
        shard_clips = rows_that_fit(spec for stage in stages for spec in stage.arrays)
        cache = Cache.create(into, IMPORTED_CLIPS, {"kind": "zarr", "shard_clips": shard_clips, "compression": NONE})
    for stage in stages:
        cache.check_stage(stage)
    cache.storage.sweep()
    if cache.manifest["clips"] == IMPORTED_CLIPS:
        cache = write_rows(cache, rows)
    cache.declare(*stages, renew=True)
    return cache


def _missing(cache: Cache, stages: Sequence[Stage]) -> dict[int, list[str]]:
    sealed = {stage.key: set(cache.ledger.shards(stage.key)) for stage in stages}
    missing = {shard: [key for key in sealed if shard not in sealed[key]] for shard in range(cache.num_shards)}
    return {shard: keys for shard, keys in missing.items() if keys}


def _failures(cache: Cache, stages: Sequence[Stage]) -> tuple[Failure, ...]:
    first_failures: dict[str, Failure] = {}
    for stage in stages:
        for record in sealed_records(cache, stage.key):
            for failure in record.failures:
                first_failures.setdefault(failure.clip_id, failure)
    return tuple(first_failures[clip_id] for clip_id in sorted(first_failures))


@dataclass(frozen=True, kw_only=True)
class _RowMaker:
    """Makes the values of the rows of `cache` from the files of an import."""

    cache: Cache
    files: FeatureFiles  # reads the files
    naming: Naming  # says which array of the files becomes which array of the cache
    names: Mapping[str, str]  # {video id in the cache: name of the video in the files}
    sources: Mapping[str, Source]  # {name of a video in the files: identity of its features}
    num_frames: int  # the number of frames that each row gets
    stages: Mapping[str, Stage]  # {stage key: stage} of the stages to write

    def prepare(self, shard: int, keys: Sequence[str]) -> Iterator[tuple[Record, ShardRows]]:
        """Reads the features of the shard number `shard` from the files. Yields (ledger record, rows of all arrays) for
        each of the stages `keys`.

        A clip whose features cannot be read is recorded as failed.
        """
        begun = time.monotonic()
        numbers = self.cache.shard_rows(shard)
        rows = list(self.cache.clips.rows(numbers.start, numbers.stop))
        clip_ids = [row.clip_id for row in rows]
        outputs = [StageOutput(stage=self.stages[key], clip_ids=clip_ids) for key in keys]
        for row_index, row in enumerate(stopping.checked(rows)):
            try:
                features = self._features(row.video_id)
            except UnusableError as error:
                for output in outputs:
                    output.fail(row_index, error.reason, error.detail)
            else:
                for output in outputs:
                    self._store(features, output, row_index)
        row_sources = {
            row.video_id: self.sources[self.names[row.video_id]] for row in rows if row.video_id in self.names
        }
        seconds = {"import": time.monotonic() - begun}
        made_by = {name: word for name, word in versions().items() if name in READ_WITH}
        provenance = Provenance(versions=made_by, device="", batch_size=0, threads=0)
        for output in outputs:
            yield describe(shard, output, row_sources, provenance, seconds), output.finished()

    def _features(self, video: str) -> VideoFeatures:
        """Returns the VideoFeatures of `self.num_frames` frames of a video, evenly spread over the video.

        Raises UnusableError if the files have no features of the video, or if the features cannot be read or are not
        finite.
        """
        if video not in self.names:
            raise UnusableError("missing", f"no features of {video} among the files")
        features = self.files.read(self.names[video])
        features = features.at(chosen_frames(features.num_frames, self.num_frames))
        features.check_finite(self.files.where(self.names[video]))
        return features

    def _store(self, features: VideoFeatures, output: StageOutput, row_index: int) -> None:
        """Writes the features of one video to row `row_index` of each array of `output`.

        An array that the files do not have gets zeros. If the video has fewer regions than the array has places, the
        remaining places get zeros.
        """
        for name, rows in output.arrays.items():
            rows[row_index] = 0
            if (role := self.naming.role_of.get(name)) is not None:
                values = features.arrays[role]
                rows[row_index][tuple(slice(size) for size in values.shape)] = values

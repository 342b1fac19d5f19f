"""`kinegraph import` turns features of other tools into stages of a cache. Torch-free."""

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
    """The result of an import of features into `cache`.

    `kind` is the format of the files. `naming` has the names of the stages, and `stages` are the stages that were
    written. `num_videos` counts the videos of the cache that have features in the files. `left_out` has the videos of
    the files that have no row in the cache. `failures` has one entry per failed clip.
    """

    cache: Cache
    kind: str
    naming: Naming
    stages: tuple[Stage, ...]
    num_videos: int
    left_out: tuple[str, ...]
    failures: tuple[Failure, ...]


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
    """Imports the features in the files at `features` into the stage features/<name> of the cache `into`. Returns an
    Imported, which says what was imported. `<name>` is `naming.name`. If the files hold boxes or regions, the stages
    proposals and regions/<name> are written too.

    The csv `annotations` states the rows of a new cache. Without a csv, the rows are those of the cache. A cache
    without rows gets one row per video. A row whose video has no features becomes a failed clip. A video of the files
    without a row is not imported.

    With `num_frames`, that many frames of each video are imported, else all frames. `kind` is the format of the files,
    such as "npy", or None to recognise it. `dataset` is the last part of the name of each video's dataset in an HDF5
    file. `on_progress` is called with (name of the step, number done, number of all). All files are read before
    anything is written. A killed import can be repeated.

    Raises FeatureFileError if the files cannot be imported, ExchangeError if the features do not fit the rows, and
    DatasetError if `annotations` cannot be used. Raises CacheMismatch if the cache has other features under this name.
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
        told = f"{videos[0]}, ...; the rows are of {rows.video_ids[0]}, ..."
        raise ExchangeError(f"no video has features: {features} has those of {told}")
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
    """Prepares a cache for an import and returns it: writes the rows that `rows` holds, and declares `stages`. If
    `cache` is None, a cache is created at `into`.

    A cache that `kinegraph index` made already has its rows, so none are written to it. Raises CacheMismatch if the
    cache has a stage with the same key as one of `stages`, but with other features.
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
    """Makes the rows of `cache` from the files of an import, which the reader `files` reads.

    `names` maps the id of a video in the cache to the name of this video in the files. `sources` maps the name of a
    video in the files to the identity (digest) of its file. `stages` maps the key of each stage to write to the stage.
    `naming` says which array of the files becomes which array of the cache. A row gets `num_frames` frames.
    """

    cache: Cache
    files: FeatureFiles
    naming: Naming
    names: Mapping[str, str]
    sources: Mapping[str, Source]
    num_frames: int
    stages: Mapping[str, Stage]

    def prepare(self, shard: int, keys: Sequence[str]) -> Iterator[tuple[Record, ShardRows]]:
        """Reads the features of shard `shard` from the files that are imported. Yields one pair for each of the stages
        `keys`: the ledger record, and the rows of all arrays of the stage.

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
        """Returns the VideoFeatures of a video at `self.num_frames` frames that are spread evenly over the video.

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

        If the files of the video do not have an array, its row gets zeros. If the video has fewer regions than fit into
        the row, the rest of the row gets zeros.
        """
        for name, rows in output.arrays.items():
            rows[row_index] = 0
            if (role := self.naming.role_of.get(name)) is not None:
                values = features.arrays[role]
                rows[row_index][tuple(slice(size) for size in values.shape)] = values

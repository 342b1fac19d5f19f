"""Seals a shard of a stage: writes all its objects, so that they survive a crash, and then its ledger record."""

import datetime
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kinegraph.cache_schemas.arrays import STATUS_FAILED, STATUS_OK, STATUS_WARNED, ArraySpec, status_array
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import video_of
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.ledger import Failure, Reason, Record, SealedObject, Source, Warned
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.clock import THREADS, Clock, marked
from kinegraph.stages.decode.source import source_identity

COMPILER = "torch.compile"  # a key of `versions` in records of networks that ran through it
ShardRows = Sequence[tuple[ArraySpec, np.ndarray]]  # all arrays of one shard of one stage


@dataclass(kw_only=True)
class StageOutput:
    """Collects what the stage `stage` computes for one shard."""

    stage: Stage
    clip_ids: list[str]  # the id of the clip in each row of the shard
    arrays: dict[str, np.ndarray] = field(init=False)  # array name -> values of all rows of the shard
    # Video id -> identity of the file of boxes or scene graphs that was read for the video
    files: dict[str, Source] = field(default_factory=dict)
    # `failures`, `warnings`: row number in the shard -> failure or warning of the clip
    failures: dict[int, Failure] = field(default_factory=dict)
    warnings: dict[int, Warned] = field(default_factory=dict)
    # The numbers of the rows that the method `keep` has copied from the finished shard of an earlier run. The methods
    # `fail` and `warn` ignore these rows.
    kept: frozenset[int] = frozenset()
    # Video id -> identity of the video file, for the rows in `kept`
    kept_sources: dict[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays = {spec.name: spec.empty(len(self.clip_ids)) for spec in self.stage.arrays}

    def keep(self, cache: Cache, record: Record) -> None:
        """Copies rows from a finished shard, so that only its failed clips are computed again. The rows of all other
        clips are copied from `cache`. `record` is the ledger record of the shard.

        The warnings of the copied clips, and the recorded identities of their videos and files, are copied, too.
        """
        index_of = {clip_id: row_index for row_index, clip_id in enumerate(self.clip_ids)}
        failed = {failure.clip_id for failure in record.failures}
        self.kept = frozenset(row_index for clip_id, row_index in index_of.items() if clip_id not in failed)
        for spec in self.stage.arrays:
            view = cache.store.open_shard(spec, record.shard)
            for row_index in self.kept:
                self.arrays[spec.name][row_index] = view.row(row_index)
        self.warnings = {index_of[warned.clip_id]: warned for warned in record.warnings}
        videos = {video_of(self.clip_ids[row_index]) for row_index in self.kept}
        self.kept_sources = {video: source for video, source in record.sources.items() if video in videos}
        self.files = {video: source for video, source in record.files.items() if video in videos}

    def note_file(self, video_id: str, path: str | None) -> None:
        """Records the identity of the file of boxes or scene graphs at `path`, which was read for the video `video_id`.
        Does nothing if `path` is None or the file is missing.
        """
        if path is not None and video_id not in self.files and (source := source_identity(path)) is not None:
            self.files[video_id] = source

    def fail(self, row: int, reason: Reason, detail: str) -> None:
        """Records that the clip in row number `row` of the shard failed, so that fill values are written for the row.
        `reason` is one word, such as "timeout", and `detail` is the full message.

        If the clip has failed before, the earlier reason stays. Does nothing for a row that the method `keep` has
        copied from an earlier run.
        """
        if row not in self.kept:
            self.failures.setdefault(row, Failure(clip_id=self.clip_ids[row], reason=reason, detail=detail))

    def warn(self, row: int, detail: str) -> None:
        """Records the warning `detail` of the decoder about row number `row` of the shard. Does nothing for a row that
        the method `keep` has copied from an earlier run.
        """
        if row not in self.kept:
            self.warnings[row] = Warned(clip_id=self.clip_ids[row], detail=detail)

    def finished(self) -> ShardRows:
        """Returns the rows of the shard as they will be written: one pair (ArraySpec, rows) for each array of the stage
        and for its status array. Rows of failed clips hold the fill value.
        """
        failed = list(self.failures)
        for spec in self.stage.arrays:
            self.arrays[spec.name][failed] = spec.fill
        status = np.full(len(self.clip_ids), STATUS_OK, np.uint8)
        status[list(self.warnings)] = STATUS_WARNED
        status[failed] = STATUS_FAILED
        return [*((spec, self.arrays[spec.name]) for spec in self.stage.arrays), (status_array(self.stage.key), status)]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The software, the device and the sizes with which a shard was computed. The fingerprint of the stage does not
    cover them.
    """

    versions: dict[str, str]  # name of a software -> its version
    device: str  # for example "cpu"
    batch_size: int  # the number of clips in a batch
    threads: int  # the number of CPU threads
    compiled: frozenset[str] = frozenset()  # the keys of the stages whose networks ran through torch.compile
    attempt: int = 1  # the number of the shard's lease, from 1


def seal(
    cache: Cache,
    shard: int,
    output: StageOutput,
    sources: Mapping[str, Source],
    provenance: Provenance,
    seconds: Mapping[str, float],
    writing: Clock,
) -> Record | None:
    """Writes one computed shard of one stage, and then its ledger record. Returns the record, or None if another worker
    finished the shard first.

    - `output`: the computed values.
    - `sources`: video id -> identity of the video file that was read.
    - `provenance`: the software and the device that computed the values.
    - `seconds`: kind of work -> the seconds that it took, for the record.
    - `writing`: the clock of the calling thread, which writes. Its seconds are stored in the record, too.
    """
    return write_and_seal(cache, describe(shard, output, sources, provenance, seconds), output.finished(), writing)


def write_and_seal(cache: Cache, record: Record, rows: ShardRows, writing: Clock | None = None) -> Record | None:
    """Writes the objects of one shard of one stage, and then its ledger record. Returns the written record: `record`
    with the names and checksums of the objects, and the seconds of the clock `writing`. Returns None if another worker
    finished the shard first.

    `rows` has a pair (ArraySpec, values) for each array of the stage. A crash leaves objects without a record, never a
    record without its objects.
    """
    written = cache.store.write_shard(record.key, record.shard, rows)
    objects = {name: SealedObject(size=size, xxh3_128=digest) for name, (size, digest) in written.items()}
    record = record.model_copy(update={"objects": objects})
    if writing is not None:
        written_in = {kind: round(value, 3) for kind, value in marked(THREADS, writing.seconds()).items()}
        record = record.model_copy(update={"seconds": record.seconds | written_in})
    return record if cache.ledger.seal(record) else None


def describe(
    shard: int,
    output: StageOutput,
    sources: Mapping[str, Source],
    provenance: Provenance,
    seconds: Mapping[str, float],
) -> Record:
    """Returns the ledger record of one computed shard, number `shard`, of one stage. The record lists no objects yet.

    output: the computed values.
    sources: video id -> identity of the video file that was read.
    provenance: the software and the device that computed the values.
    seconds: kind of work -> the seconds that it took.
    """
    return Record(
        key=output.stage.key,
        shard=shard,
        num_rows=len(output.clip_ids),
        fingerprint=output.stage.fingerprint,
        objects={},
        failures=[output.failures[row] for row in sorted(output.failures)],
        warnings=[output.warnings[row] for row in sorted(output.warnings) if row not in output.failures],
        sources={**sources, **output.kept_sources},
        files=output.files,
        versions=provenance.versions | ({COMPILER: "on"} if output.stage.key in provenance.compiled else {}),
        device=provenance.device,
        batch_size=provenance.batch_size,
        threads=provenance.threads,
        attempt=provenance.attempt,
        seconds={kind: round(value, 3) for kind, value in seconds.items()},
        host=socket.gethostname(),
        sealed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )


def check_times(cache: Cache, shard: int, sealed: np.ndarray, clips: StageOutput) -> None:
    """Raises CacheMismatch if the frame times of a clip in shard number `shard` differ from the times that an earlier
    run stored, because the video was replaced.

    `sealed` [rows, T] has the stored times of T frames, in seconds from the first frame of the video. `clips` is the
    new output of the stage `clips`, whose only array has the present times. Rows with NaN are not compared.
    """
    (now,) = clips.arrays.values()
    both = ~(np.isnan(sealed).any(1) | np.isnan(now).any(1))
    changed = np.flatnonzero(both & (sealed != now).any(1))
    if len(changed):
        raise CacheMismatch(
            f"{clips.clip_ids[changed[0]]} (shard {shard} of {cache.root}) now has other frame times than when it was "
            "first decoded: the video was replaced, or FFmpeg reads it differently. Start a new cache for the video."
        )

"""Compares `export --to tad` of a cache of windows with plain writes of the same .npy files, in alternation.

    python -m benchmarks.exporting [--videos N]   (10,000 videos)

kinegraph's export reads the cache, compares checksums, and makes each file appear whole and durable. The plain loop has
all arrays in memory. It either leaves the bytes to the system (`np.save`) or syncs each file. All run in one process.
Prints videos per second.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from os import fsync
from pathlib import Path

import numpy as np

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.annotations import AnnotatedVideo, write_annotations
from kinegraph.cache_schemas.arrays import feature_arrays
from kinegraph.cache_schemas.cache import CLASSES, Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.exchange.to_tad import export_tad
from kinegraph.pipeline.machine.alternation import Way, alternate
from kinegraph.pipeline.machine.versions import versions
from kinegraph.pipeline.shards.sealing import Provenance, ShardRows, StageOutput, describe
from kinegraph.pipeline.shards.taking_over import fill, unheard
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.stage import clips_options

RUNS, VIDEOS, WINDOWS, CHANNELS, SHARD = 3, 10_000, 20, 512, 64
STAGE = Stage(
    key="features/net", options={}, arrays=feature_arrays("net", "last", (1, CHANNELS, 0, 0), 1, ("pooled",), "float32")
)


def made_cache(root: str, num_videos: int) -> Cache:
    """Writes a cache to `root` and returns it. It has `num_videos` videos of WINDOWS windows each, with random
    features.
    """
    clips = clips_options(ClipOptions(sampling="windows", num_frames=16, fps="native", hop_frames=4))
    Cache.create(root, clips, {"kind": "zarr", "shard_clips": SHARD, "compression": "none"})
    storage, names = open_storage(root), [f"v{number:06}.mp4" for number in range(num_videos)]
    storage.put(CLASSES, [b"[]"])
    facts = AnnotatedVideo(
        subset="train", duration=4.0, fps=25.0, frame=100, num_windows=WINDOWS, annotations=()
    )  # fmt: skip
    write_annotations(storage, dict.fromkeys(names, facts))
    ClipsTable.from_rows([_row(name, window) for name in names for window in range(WINDOWS)]).write(storage)
    cache = Cache(root)
    cache.declare(STAGE, renew=True)
    rng = np.random.default_rng(0)

    def prepare(shard: int, _: Sequence[str]) -> Iterator[tuple[Record, ShardRows]]:
        numbers = cache.shard_rows(shard)
        rows = cache.clips.rows(numbers.start, numbers.stop)
        output = StageOutput(stage=STAGE, clip_ids=[row.clip_id for row in rows])
        for values in output.arrays.values():
            values[:] = rng.normal(size=values.shape)
        provenance = Provenance(versions=versions(), device="", batch_size=0, threads=0)
        yield describe(shard, output, {}, provenance, {}), output.finished()

    fill(cache, {shard: [STAGE.key] for shard in range(cache.num_shards)}, prepare, unheard)
    return cache


def _row(name: str, window: int) -> ClipRow:
    return ClipRow(
        clip_id=f"{name}:{window}:full", video_id=name, path=name, split="train", labels=(), target_times=(),
        start_seconds=window * 0.16, end_seconds=window * 0.16 + 0.64, crop=(0.0, 0.0, 4.0, 4.0), frame_width=4,
        frame_height=4, list_index=0, interval=None,
    )  # fmt: skip


def plain(folder: Path, arrays: np.ndarray, is_synced: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, array in enumerate(arrays):
        with (folder / f"{number}.npy").open("wb") as file:
            np.save(file, array)
            if is_synced:
                file.flush()
                fsync(file.fileno())


def ours(cache: Cache, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    exported = export_tad(cache, str(folder))
    assert not exported.missing


def measured(num_videos: int = VIDEOS) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:  # beside the code: /tmp is often memory
        cache = made_cache(f"{root}/cache", num_videos)
        arrays = np.random.default_rng(0).normal(size=(num_videos, WINDOWS, CHANNELS)).astype(np.float32)
        ways = [
            Way(name="export --to tad", run=partial(ours, cache, Path(root, "out"))),
            Way(name="np.save", run=partial(plain, Path(root, "saved"), arrays, False)),
            Way(name="np.save and fsync", run=partial(plain, Path(root, "synced"), arrays, True)),
        ]
        yield Case(name=f"{num_videos:,} videos", unit="videos", amount=num_videos, seconds=alternate(ways, RUNS))


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--videos", type=int, default=VIDEOS)
    given = parser.parse_args()
    report("exporting", partial(measured, given.videos), given.json)

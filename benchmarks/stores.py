"""Compares kinegraph's stores with other stores: writing region features, and reading batches of random clips.

The features are [16, 50, 512] float16. Each store gets the same clips, 64 in a shard. npy has one file per clip. h5py
has one file, with one chunk per clip. zarr-python has kinegraph's layout, one chunk per clip in shards of 64.
webdataset has tar files of 64 clips. No store compresses. Only kinegraph's stores compute checksums and sync each shard
to the disk. webdataset cannot read at random. It reads all clips in order, and shuffles them in a buffer of a shard.
The files lie in the folder in which the script runs, and the page cache is warm.

    python -m benchmarks.stores [--clips 256] [--quick] [--json FILE]
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.hdf5_shards import Hdf5Store
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.store import Store
from kinegraph.cache_schemas.zarr_shards import ZarrStore
from kinegraph.pipeline.machine.alternation import Way, alternate

BATCH, SHARD = 32, 64
SPEC = ArraySpec(
    name="regions/b/t", stage="regions/b", shape=(16, 50, 512), dtype="float16",
    dims=("frame", "proposal", "t_channel"), fill=float("nan"), about="benchmark",
)  # fmt: skip
Batches = Sequence[np.ndarray]  # the clips of each batch
OpenStore = Callable[[LocalStorage, int], Store]


def write_ours(open_store: OpenStore, rows: np.ndarray, folder: Path) -> None:
    store = open_store(LocalStorage(str(folder)), SHARD)
    store.declare([SPEC], len(rows))
    for shard in range(len(rows) // SHARD):
        store.write_shard(SPEC.stage, shard, [(SPEC, rows[shard * SHARD : (shard + 1) * SHARD])])


def read_ours(open_store: OpenStore, folder: Path, batches: Batches, filled: np.ndarray) -> None:
    store = open_store(LocalStorage(str(folder)), SHARD)
    shards = store.open_shards([(SPEC, shard) for shard in range(sum(map(len, batches)) // SHARD)])
    for batch in batches:
        places = [(shards[clip // SHARD], int(clip % SHARD)) for clip in batch]
        for place, row in enumerate(store.rows(places)):
            filled[place] = row


def write_npy(rows: np.ndarray, folder: Path) -> None:
    for number, row in enumerate(rows):
        np.save(folder / f"{number:06}.npy", row)


def read_npy(folder: Path, batches: Batches, filled: np.ndarray) -> None:
    for batch in batches:
        for place, clip in enumerate(batch):
            filled[place] = np.load(folder / f"{clip:06}.npy")


def write_h5py(rows: np.ndarray, folder: Path) -> None:
    with h5py.File(folder / "rows.h5", "w") as file:
        data = file.create_dataset("rows", rows.shape, rows.dtype, chunks=(1, *SPEC.shape))
        for at in range(0, len(rows), SHARD):
            data[at : at + SHARD] = rows[at : at + SHARD]


def read_h5py(folder: Path, batches: Batches, filled: np.ndarray) -> None:
    with h5py.File(folder / "rows.h5") as file:
        data = file["rows"]
        for batch in batches:
            for place, clip in enumerate(batch):
                data.read_direct(filled, np.s_[int(clip)], np.s_[place])


def write_zarr_python(rows: np.ndarray, folder: Path) -> None:
    data: Any = zarr.create_array(
        folder / "rows.zarr",
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(1, *SPEC.shape),
        shards=(SHARD, *SPEC.shape),
        compressors=None,
    )
    for at in range(0, len(rows), SHARD):
        data[at : at + SHARD] = rows[at : at + SHARD]


def read_zarr_python(folder: Path, batches: Batches, filled: np.ndarray) -> None:
    data: Any = zarr.open_array(folder / "rows.zarr", mode="r")
    for batch in batches:
        for place, clip in enumerate(batch):
            filled[place] = data[int(clip)]


def write_webdataset(rows: np.ndarray, folder: Path) -> None:
    from webdataset import ShardWriter

    with ShardWriter(str(folder / "rows-%04d.tar"), maxcount=SHARD, verbose=0) as writer:
        for number, row in enumerate(rows):
            writer.write({"__key__": f"{number:06}", "x.npy": row})


def read_webdataset(folder: Path, batches: Batches, filled: np.ndarray) -> None:
    from webdataset import WebDataset

    files = [str(path) for path in sorted(folder.glob("*.tar"))]
    clips = WebDataset(files, shardshuffle=len(files), seed=0).shuffle(SHARD, seed=0).decode().to_tuple("x.npy")
    for number, (row,) in enumerate(clips):
        filled[number % BATCH] = row


STORES: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {  # name -> how to write, how to read
    "ours, zarr": (partial(write_ours, ZarrStore), partial(read_ours, ZarrStore)),
    "ours, hdf5": (partial(write_ours, Hdf5Store), partial(read_ours, Hdf5Store)),
    "npy files": (write_npy, read_npy),
    "h5py": (write_h5py, read_h5py),
    "zarr-python": (write_zarr_python, read_zarr_python),
    "webdataset": (write_webdataset, read_webdataset),
}


def measured(num_clips: int, rounds: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num_clips, *SPEC.shape)).astype(np.float16)
    batches = rng.permutation(num_clips).reshape(-1, BATCH)
    filled = np.empty((BATCH, *SPEC.shape), np.float16)
    about = f"{num_clips} clips of {SPEC.row_bytes / 1e6:.2f} MB in shards of {SHARD}"
    megabytes = rows.nbytes / 1e6
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # /tmp is often memory
        folders = {store: Path(name) / store for store in STORES}

        def emptied(folder: Path) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

        writing = [
            Way(name=store, run=partial(write, rows, folders[store]), prepare=partial(emptied, folders[store]))
            for store, (write, _) in STORES.items()
        ]
        alternate(writing, 1)  # warms up
        yield Case(name="writing", unit="MB", amount=megabytes, seconds=alternate(writing, rounds), about=about)
        reading = [
            Way(name=store, run=partial(read, folders[store], batches, filled)) for store, (_, read) in STORES.items()
        ]
        for way in reading:
            filled[:] = 0
            way.run()  # warms up
            assert way.name == "webdataset" or np.array_equal(filled, rows[batches[-1]]), (
                f"{way.name} reads other clips"
            )
        seconds = alternate(reading, rounds)
        yield Case(
            name=f"reading batches of {BATCH} random clips", unit="MB", amount=megabytes, seconds=seconds, about=about
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=256, help=f"a multiple of {SHARD}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="64 clips and one round, to see that it runs")
    options = parser.parse_args()
    if options.clips < SHARD or options.clips % SHARD:
        parser.error(f"--clips: given {options.clips}, allowed: multiples of {SHARD}")
    run = partial(measured, SHARD, 1) if options.quick else partial(measured, options.clips, options.rounds)
    report("stores", run, options.json, quick=options.quick)


if __name__ == "__main__":
    main()

"""Compares readers of region features [16, 50, 512] float16, uncompressed, that read 64 clips into one batch.

kinegraph's reader of zarr is compared with zarr-python that indexes clip by clip, and with a loop that copies clips
from a numpy.memmap of the bare values, as a cache without a format could do. kinegraph's reader of HDF5 is compared
with h5py that reads clip by clip. The page cache is warm. Prints GB/s and ratios, measured in alternation.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.hdf5_shards import Hdf5Store
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.store import Store
from kinegraph.cache_schemas.zarr_shards import DATA, ZarrStore
from kinegraph.pipeline.machine.alternation import Way, alternate

RUNS, CLIPS = 9, 64
PAIRS = [("ours, zarr", "zarr-python"), ("ours, zarr", "memmap"), ("ours, hdf5", "h5py")]
SPEC = ArraySpec(
    name="regions/b/t", stage="regions/b", shape=(16, 50, 512), dtype="float16",
    dims=("frame", "proposal", "t_channel"), fill=float("nan"), about="benchmark",
)  # fmt: skip


def measured() -> Iterator[Case]:
    rows = np.random.default_rng(0).normal(size=(CLIPS, *SPEC.shape)).astype(np.float16)
    filled = torch.empty(rows.shape, dtype=torch.float16).numpy()
    order = np.random.default_rng(1).permutation(CLIPS)

    def copy(row_of: Callable[[int], np.ndarray]) -> None:
        for position, row in enumerate(order):
            filled[position] = row_of(int(row))

    with tempfile.TemporaryDirectory() as folder:
        stores: list[Store] = [ZarrStore(LocalStorage(folder), CLIPS), Hdf5Store(LocalStorage(folder), CLIPS)]
        for store in stores:
            store.declare([SPEC], CLIPS)
            (name,) = store.write_shard(SPEC.stage, 0, [(SPEC, rows)])
        rows.tofile(Path(folder) / "bare")
        bare = np.memmap(Path(folder) / "bare", np.float16, "r", shape=rows.shape)
        by_zarr: Any = zarr.open_array(f"{folder}/{DATA}/{SPEC.name}", mode="r")
        by_h5py = h5py.File(Path(folder, name))[SPEC.name]
        readers: dict[str, Callable[[], None]] = {
            "ours, zarr": lambda: copy(stores[0].open_shard(SPEC, 0).row),
            "zarr-python": lambda: copy(by_zarr.__getitem__),
            "memmap": lambda: copy(bare.__getitem__),
            "ours, hdf5": lambda: copy(stores[1].open_shard(SPEC, 0).row),
            "h5py": lambda: copy(by_h5py.__getitem__),
        }
        ways = [Way(name=name, run=reader) for name, reader in readers.items()]
        alternate(ways, 1)  # warms up
        seconds = alternate(ways, RUNS)
        assert np.array_equal(filled, rows[order])
    yield Case(name="reading", unit="GB", amount=rows.nbytes / 1e9, seconds=seconds)


if __name__ == "__main__":
    report("reading", measured, arguments(__doc__).parse_args().json, pairs=PAIRS)

"""Reading region features [16, 50, 512] float16, uncompressed, page cache warm, 64 clips into one batch.

Prints GB/s and ratios, measured in alternation: our reader, zarr-python indexing clip by clip, and a loop that copies
clips from a numpy.memmap of the bare values (what a cache without a format could do).
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr

from cache_schemas.arrays import ArraySpec
from cache_schemas.storage import LocalStorage
from cache_schemas.zarr_shards import DATA, ZarrStore

RUNS, CLIPS = 9, 64
SPEC = ArraySpec(
    name="regions/b/t", stage="regions/b", shape=(16, 50, 512), dtype="float16",
    dims=("frame", "proposal", "t_channel"), fill=float("nan"), about="benchmark",
)  # fmt: skip


def main() -> None:
    rows = np.random.default_rng(0).normal(size=(CLIPS, *SPEC.shape)).astype(np.float16)
    batch = torch.empty(rows.shape, dtype=torch.float16)
    filled = batch.numpy()
    with tempfile.TemporaryDirectory() as folder:
        store = ZarrStore(LocalStorage(folder), CLIPS)
        store.declare([SPEC], CLIPS)
        store.write_shard("regions/b", 0, [(SPEC, rows)])
        rows.tofile(Path(folder) / "bare")
        plain = zarr.open_array(f"{folder}/{DATA}/{SPEC.name}", mode="r")
        bare = np.memmap(Path(folder) / "bare", np.float16, "r", shape=rows.shape)
        order = np.random.default_rng(1).permutation(CLIPS)

        def ours() -> None:
            view = store.open_shard(SPEC, 0)
            for position, row in enumerate(order):
                filled[position] = view.row(int(row))

        def zarr_python() -> None:
            for position, row in enumerate(order):
                filled[position] = plain[row]

        def memmap() -> None:
            for position, row in enumerate(order):
                filled[position] = bare[row]

        rates = measured([ours, zarr_python, memmap], rows.nbytes)
        assert np.array_equal(filled, rows[order])
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["ours"], values, strict=True))
        print(f"reading, {name}: {statistics.median(values):.2f} GB/s, ours is {ratio:.2f} of it")


def measured(readers: list[Callable[[], None]], num_bytes: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {reader.__name__: [] for reader in readers}
    for run in range(RUNS + 1):
        for reader in readers:
            begun = time.perf_counter()
            reader()
            if run:  # the first one warms up
                rates[reader.__name__].append(num_bytes / 1e9 / (time.perf_counter() - begun))
    return rates


if __name__ == "__main__":
    main()

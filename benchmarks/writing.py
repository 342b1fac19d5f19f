"""Sealing one shard object of region features against one plain sequential write of the same bytes.

fsync of the file in both; ours also computes the checksum, writes the index, renames and syncs the folder. Prints
GB/s and the ratio, measured in alternation.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.zarr_shards import ZarrStore

RUNS, CLIPS = 15, 64
SPEC = ArraySpec(
    name="regions/b/t", stage="regions/b", shape=(16, 50, 512), dtype="float16",
    dims=("frame", "proposal", "t_channel"), fill=float("nan"), about="benchmark",
)  # fmt: skip


def plain_write(path: Path, rows: np.ndarray) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(rows.data.cast("B"))
        os.fsync(file.fileno())


def main() -> None:
    rows = np.random.default_rng(0).normal(size=(CLIPS, *SPEC.shape)).astype(np.float16)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # beside the code: /tmp is often memory
        store = ZarrStore(LocalStorage(folder), CLIPS)
        for run in range(RUNS + 1):
            begun = time.perf_counter()
            store.write_shard("regions/b", run, [(SPEC, rows)])
            middle = time.perf_counter()
            plain_write(Path(folder) / f"plain{run}", rows)
            if run:  # the first one warms up
                times["ours"].append(middle - begun)
                times["plain"].append(time.perf_counter() - middle)
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["plain"], strict=True))
    ours, plain = (rows.nbytes / 1e9 / statistics.median(times[name]) for name in ("ours", "plain"))
    print(f"sealing a shard object / plain write with fsync: {ours:.2f} / {plain:.2f} GB/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

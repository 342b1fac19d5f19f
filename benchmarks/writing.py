"""Compares sealing one shard object of region features with one plain sequential write of the same bytes.

Both sync the file to the disk. Sealing also computes the checksum, writes the index, renames the file and syncs the
folder. Prints GB/s and the ratio, measured in alternation.
"""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.zarr_shards import ZarrStore
from kinegraph.pipeline.machine.alternation import Way, alternate

RUNS, CLIPS = 15, 64
SPEC = ArraySpec(
    name="regions/b/t", stage="regions/b", shape=(16, 50, 512), dtype="float16",
    dims=("frame", "proposal", "t_channel"), fill=float("nan"), about="benchmark",
)  # fmt: skip


def plain_write(path: Path, rows: np.ndarray) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(rows.data.cast("B"))
        os.fsync(file.fileno())


def measured() -> Iterator[Case]:
    rows = np.random.default_rng(0).normal(size=(CLIPS, *SPEC.shape)).astype(np.float16)
    shards, files = count(), count()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # beside the code: /tmp is often memory
        store = ZarrStore(LocalStorage(folder), CLIPS)
        ways = [
            Way(name="sealing", run=lambda: store.write_shard("regions/b", next(shards), [(SPEC, rows)])),
            Way(name="plain write with fsync", run=lambda: plain_write(Path(folder) / f"plain{next(files)}", rows)),
        ]
        alternate(ways, 1)  # warms up
        yield Case(name="a shard object", unit="GB", amount=rows.nbytes / 1e9, seconds=alternate(ways, RUNS))


if __name__ == "__main__":
    report("writing", measured, arguments(__doc__).parse_args().json)

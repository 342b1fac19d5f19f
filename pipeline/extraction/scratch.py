"""Makes a temporary cache in which an extraction can be tried out. The user's cache is only read."""

from collections.abc import Sequence
from pathlib import Path

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import TABLE, ClipRow, ClipsTable
from kinegraph.pipeline.caches.indexed_dataset import move_rows, moved_root
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.tuning import FOLDER


def scratch(config: Config, cache: Cache, folder: Path | str, rows: Sequence[ClipRow] | None = None) -> Cache:
    """Makes a new cache in `folder`, with the clip options and the store options of `cache` and without any stage.
    Returns the new cache.

    The new cache has the rows `rows`, by default all rows of `cache`. It has a copy of the choices of `run.batch_size:
    auto` and `run.compile: auto`. If all rows are copied and the videos have moved to the `dataset.root` of `config`,
    the rows get the new paths.
    """
    made = Cache.create(folder, cache.manifest["clips"], cache.manifest["store"])
    for name in cache.storage.names(FOLDER):
        made.storage.put(name, [cache.storage.get(name)])
    if rows is not None:
        ClipsTable.from_rows(rows).write(made.storage)
        return made
    made.storage.put(TABLE, [cache.storage.get(TABLE)])
    if root := moved_root(config, cache):
        move_rows(made, root)
    return made

"""Checks the documents that the command `index` writes beside clips.parquet. Where one is missing or damaged, the error
says what to do.
"""

from collections.abc import Callable

from kinegraph.cache_schemas.annotations import has_windows, read_annotations
from kinegraph.cache_schemas.cache import DATASET, INDEX_AGAIN, LABELS, Cache
from kinegraph.cache_schemas.errors import CacheError

MAY_BE_ABSENT = {  # early versions did not write these documents
    LABELS: "whether a video may have many labels is told by its labels alone",
    DATASET: "nothing tells whether the data set of a config is the one that was indexed",
}


def absent_documents(cache: Cache) -> dict[str, str]:
    """Returns document name -> sentence, for labels.json and dataset.json where they are missing. The sentence says
    what follows from the loss and what to do.

    A cache that `import` made needs neither document. A missing classes.json is reported by `Cache.classes`.
    """
    missing = [name for name in MAY_BE_ABSENT if not cache.is_imported and not cache.storage.exists(name)]
    return {
        name: f"{cache.root}/{name} does not exist: {MAY_BE_ABSENT[name]}. Early versions wrote none. {INDEX_AGAIN}"
        for name in missing
    }


def documents_advice(cache: Cache) -> list[str]:
    """Checks the documents that `index` writes beside clips.parquet, such as classes.json. Returns one message for each
    document that is missing or damaged. The message says what to do. Sealed shards stay valid without these documents.
    """
    told = [*absent_documents(cache).values()]
    readers: list[Callable[[], object]] = [
        lambda: cache.classes,
        lambda: cache.multi_label,
        lambda: cache.dataset,
    ]
    if has_windows(cache):
        readers.append(lambda: read_annotations(cache))
    for read in readers:
        try:
            read()
        except CacheError as error:
            told.append(str(error))
    return told

"""Checks the documents that `kinegraph index` writes beside clips.parquet. If a document is missing or damaged, a
message says what to do.
"""

from collections.abc import Callable

from kinegraph.cache_schemas.annotations import has_windows, read_annotations
from kinegraph.cache_schemas.cache import DATASET, INDEX_AGAIN, LABELS, Cache
from kinegraph.cache_schemas.errors import CacheError

MAY_BE_ABSENT = {  # early versions did not write these documents
    LABELS: "only the labels of a video say whether it may have many labels",
    DATASET: "nothing says whether the data set of a config is the one that was indexed",
}


def absent_documents(cache: Cache) -> dict[str, str]:
    """Looks for labels.json and dataset.json. Returns document name -> message for each of them that is missing. The
    message says what the cache cannot tell without the document, and what to do.

    A cache that `import` made needs neither document, so the result is then empty.
    """
    missing = [name for name in MAY_BE_ABSENT if not cache.is_imported and not cache.storage.exists(name)]
    return {
        name: f"{cache.root}/{name} does not exist: {MAY_BE_ABSENT[name]}. Early versions wrote none. {INDEX_AGAIN}"
        for name in missing
    }


def documents_advice(cache: Cache) -> list[str]:
    """Checks the documents that `kinegraph index` writes beside clips.parquet, such as classes.json. Returns one
    message for each missing or damaged document, which says what to do. Extracted features stay valid without these
    documents.
    """
    messages = [*absent_documents(cache).values()]
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
            messages.append(str(error))
    return messages

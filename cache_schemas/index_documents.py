"""Checks the documents that `index` writes beside the rows, and says what to do where they are missing or damaged."""

from kinegraph.cache_schemas.cache import DATASET, INDEX_AGAIN, LABELS, Cache
from kinegraph.cache_schemas.errors import CacheError

MAY_BE_ABSENT = {  # early versions did not write these documents
    LABELS: "whether a video may have many labels is told by its labels alone",
    DATASET: "nothing tells whether the data set of a config is the one that was indexed",
}


def absent_documents(cache: Cache) -> dict[str, str]:
    """Returns words about each missing document, by its name. The words say what follows and what to do.

    An imported cache needs none of these documents. A cache without classes.json cannot be read. `Cache.classes`
    reports that.
    """
    missing = [name for name in MAY_BE_ABSENT if not cache.is_imported and not cache.storage.exists(name)]
    return {
        name: f"{cache.root}/{name} does not exist: {MAY_BE_ABSENT[name]}. Early versions wrote none. {INDEX_AGAIN}"
        for name in missing
    }


def documents_advice(cache: Cache) -> list[str]:
    """Returns sentences about documents that are missing or damaged. The ledger does not need them."""
    told = [*absent_documents(cache).values()]
    for document in ("classes", "multi_label", "dataset"):
        try:
            getattr(cache, document)
        except CacheError as error:
            told.append(str(error))
    return told

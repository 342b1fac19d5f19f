"""Opens the store of a cache, which reads and writes its arrays as zarr or HDF5. cache.json says which."""

from collections.abc import Mapping
from typing import Any

from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.store import Store
from kinegraph.cache_schemas.zarr_shards import ZarrStore


def open_store(storage: Storage, layout: Mapping[str, Any]) -> Store:
    """Returns the Store of a cache, which reads and writes the arrays of the cache. `storage` holds the objects of the
    cache, and `layout` is the section `store` of cache.json.
    """
    if layout["kind"] == "hdf5":
        # imported here, because h5py takes longer to import than everything that planning needs
        from kinegraph.cache_schemas.hdf5_shards import Hdf5Store

        return Hdf5Store(storage, layout["shard_clips"])
    return ZarrStore(storage, layout["shard_clips"], layout["compression"])

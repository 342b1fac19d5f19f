"""Files mapped into memory, without a descriptor for each."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from kinegraph.cache_schemas.errors import out_of_descriptors
from kinegraph.cache_schemas.regular import require_regular


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file, uint8 [size], mapped and read-only.

    The file's descriptor is closed before this returns: numpy.memmap and mmap hold theirs (before Python 3.13), so that
    as many shards could be open as `ulimit -n` says. Raises FileNotFoundError, and TooManyOpenFiles where the process
    has no descriptor left.
    """
    require_regular(path)
    try:
        with pa.memory_map(str(path)) as file:  # the buffer keeps the mapping, not the descriptor
            return np.frombuffer(file.read_buffer(), np.uint8)
    except OSError as error:
        if full := out_of_descriptors(path, error):
            raise full from error
        raise

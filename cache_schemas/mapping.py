"""Maps files into memory without keeping their file descriptors open."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from kinegraph.cache_schemas.errors import out_of_descriptors
from kinegraph.cache_schemas.regular import require_regular


def mapped(path: Path) -> np.ndarray:
    """Maps a file into memory. Returns its bytes as a read-only array, uint8 [size]. No file descriptor stays open.

    Raises FileNotFoundError if `path` does not exist. Raises TooManyOpenFiles if the process has too many files open.
    """
    require_regular(path)
    try:
        # numpy.memmap and mmap keep the descriptor (before Python 3.13): `ulimit -n` would limit the open shards
        with pa.memory_map(str(path)) as file:  # the buffer keeps the mapping, not the descriptor
            return np.frombuffer(file.read_buffer(), np.uint8)
    except OSError as error:
        if full := out_of_descriptors(path, error):
            raise full from error
        raise

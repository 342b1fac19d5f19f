"""Reads arrays from .npy and .npz files. Torch-free.

The header of an array states its size. This size is compared with the size of the file before memory is allocated.
"""

import io
import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from kinegraph.cache_schemas.regular import open_regular

GIB = 1 << 30
MOST_EXPANSION = 100  # largest ratio of unpacked to stored bytes, for files that unpack to more than a GiB
BLOCK_BYTES = 1 << 26
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class ArrayFileError(ValueError):
    """Raised if a file of arrays is damaged, holds Python objects, is shorter than its header states, or unpacks to too
    many bytes.
    """


def read_npy(path: Path) -> np.ndarray:
    """Returns the array in the .npy file `path`.

    Raises OSError if the file cannot be opened. Raises ArrayFileError if the file is damaged, or if its values are
    Python objects or have fields.
    """
    with open_regular(path) as file, _naming_damage():
        size = file.seek(0, 2)
        file.seek(0)
        return _array(file, size)


def array_in(content: bytes) -> np.ndarray:
    """Returns the array in `content`, the bytes of a .npy file. Raises ArrayFileError if the bytes are damaged, or if
    the values are Python objects or have fields.
    """
    with _naming_damage():
        return _array(io.BytesIO(content), len(content))


def read_npz(path: Path, names: Iterable[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the arrays `names` from the .npz file `path`. Returns ({name: array}, list of the names of all arrays in
    the file).

    The dictionary lacks those `names` that the file does not have. Raises OSError if the file cannot be opened. Raises
    ArrayFileError if the file is damaged, or if a value of these arrays is a Python object or has fields.
    """
    with open_regular(path) as file, _naming_damage(), zipfile.ZipFile(file) as archive:
        stored = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        wanted = {name: stored[name] for name in names if name in stored}
        require_expansion(sum(entry.file_size for entry in wanted.values()), file.seek(0, 2))
        arrays = {}
        for name, entry in wanted.items():
            with archive.open(entry) as member:
                arrays[name] = _array(member, entry.file_size)
        return arrays, list(stored)


def require_expansion(unpacked_bytes: int, stored_bytes: int) -> None:
    """Raises ArrayFileError if a compressed file would unpack to too many bytes, because a small damaged or malicious
    file could fill the memory. `stored_bytes` is the size of the file, and `unpacked_bytes` its size after unpacking.

    The limit is 1 GiB, or MOST_EXPANSION times `stored_bytes` if that is more.
    """
    if unpacked_bytes > max(GIB, MOST_EXPANSION * stored_bytes):
        raise ArrayFileError(
            f"{stored_bytes} bytes would unpack to {unpacked_bytes}. The limit is 1 GiB, or {MOST_EXPANSION} times the "
            "stored bytes where that is more"
        )


def require_plain(dtype: np.dtype) -> None:
    """Raises ArrayFileError if values of `dtype` are Python objects, have fields, or have 0 bytes."""
    if dtype.hasobject:
        raise ArrayFileError("it holds Python objects or references, which are never loaded; numbers are expected")
    if dtype.names or not dtype.itemsize:
        raise ArrayFileError(f"it holds {dtype}; numbers are expected")


@contextmanager
def _naming_damage() -> Iterator[None]:
    """Turns every error in the `with` block into ArrayFileError, because a damaged file can cause errors of any type.

    OSError and MemoryError do not show damage, so they stay as they are.
    """
    try:
        yield
    except (OSError, MemoryError, ArrayFileError):
        raise
    except Exception as error:
        raise ArrayFileError(f"{type(error).__name__}: {error}") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of the .npy file `file`. Returns (shape, whether the values are in Fortran order, type of the
    values).

    Raises ArrayFileError if the header is damaged.
    """
    try:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise ArrayFileError(f"version {version} of the npy format is for types with fields; numbers are expected")
        return HEADERS[version](file)
    except OSError:
        raise
    except Exception as error:
        raise ArrayFileError(f"no header of a .npy file: {error or type(error).__name__}") from error


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Returns the array of the .npy file `file`, which is open at its first byte. `size` is the size of the file in
    bytes.

    Raises ArrayFileError if the file is damaged, or if its values are Python objects or have fields.
    """
    shape, is_fortran, dtype = _header(file)
    require_plain(dtype)
    if any(side < 0 for side in shape):
        raise ArrayFileError(f"its header says shape {list(shape)}, with a negative side")
    num_bytes, rest = math.prod(shape) * dtype.itemsize, size - file.tell()
    if num_bytes > rest:
        raise ArrayFileError(f"its header says {dtype}{list(shape)}, which is {num_bytes} bytes, and {rest} follow")
    values = np.empty(num_bytes, np.uint8)
    filled = 0
    while filled < num_bytes:
        count = file.readinto(values[filled : filled + BLOCK_BYTES])  # type: ignore[attr-defined]
        if not count:
            raise ArrayFileError(f"it ends after {filled} of the {num_bytes} bytes of its values")
        filled += count
    return values.view(dtype).reshape(shape, order="F" if is_fortran else "C")

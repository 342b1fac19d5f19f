"""Files of arrays whose headers lie, that would unpack to too much, or that hold objects are refused in words."""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from kinegraph.stages.number_files import ArrayFileError, read_npy, read_npz, require_expansion

KIB, GIB = 1 << 10, 1 << 30


def npy_of(shape: str, descr: str = "'<f4'", values: bytes = b"", version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + values


def saved(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


LIES = {
    "petabytes": (npy_of(f"({1 << 48},)", values=bytes(8)), r"1125899906842624 bytes, and"),
    "past int64": (npy_of(f"({1 << 70}, 2)", values=bytes(8)), r"bytes, and 8 follow"),
    "one value short": (npy_of("(3,)", values=bytes(8)), r"float32\[3\], which is 12 bytes, and 8 follow"),
    "negative": (npy_of("(-2, -3)", values=bytes(24)), r"shape \[-2, -3\], with a negative side"),
    "shape of words": (npy_of("('a',)"), "no header of a .npy file: shape is not valid"),
    "objects": (saved(np.array([{"a": 1}], object)), "Python objects or references, which are never loaded"),
    "fields": (saved(np.zeros(2, [("a", "f4"), ("b", "i4")])), r"it holds \[\('a'.*numbers are expected"),
    "fields of objects": (saved(np.zeros(2, [("a", "f4"), ("b", "O")])), "Python objects or references"),
    "no bytes a value": (npy_of(f"({1 << 60},)", "'<U0'"), "it holds <U0; numbers are expected"),
    "nested": (npy_of("-" * 9000 + "1"), "no header of a .npy file"),
    "no header": (b"words", "no header of a .npy file"),
    "empty": (b"", "no header of a .npy file"),
    "version 3": (npy_of("(1,)", values=bytes(4), version=3), r"version \(3, 0\) of the npy format"),
}  # fmt: skip
lies = pytest.mark.parametrize(("content", "words"), LIES.values(), ids=LIES)


@lies
def test_a_header_that_lies(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ArrayFileError, match=words):
        read_npy(path)


@lies
def test_a_member_whose_header_lies(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ArrayFileError, match=words):
        read_npz(path, ["x"])


@pytest.mark.parametrize(
    "array",
    [np.float32(3), np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
     np.zeros((0, 2**40)), np.array(["a", "bc"])],
)  # fmt: skip
def test_plain_arrays_are_read_as_numpy_reads_them(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", x=array, other=np.array([{}], object))
    arrays, names = read_npz(tmp_path / "x.npz", ["x", "absent"])
    assert (sorted(arrays), names) == (["x"], ["x", "other"])
    for found in (read_npy(tmp_path / "x.npy"), arrays["x"]):
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)


def declared(content: bytes, sizes: Mapping[bytes, int]) -> bytes:
    """The bytes of a zip file, with these unpacked sizes of its members in its directory."""
    changed = bytearray(content)
    for name, size in sizes.items():
        entry = changed.rindex(name) - 46
        assert changed[entry : entry + 4] == b"PK\x01\x02"
        changed[entry + 24 : entry + 28] = struct.pack("<I", size)
    return bytes(changed)


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return file.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb": (
        lambda: declared(zipped(npy_of("(3,)", values=bytes(12))), {b"x.npy": 3 * GIB}),
        r"bytes would unpack to 3221225472\. The limit is 1 GiB, or 100 times",
    ),
    "a directory that lies": (
        lambda: declared(zipped(npy_of(f"({100 << 20},)", "'|u1'", bytes(KIB))), {b"x.npy": 101 << 20}),
        "it ends after 1024 of the 104857600 bytes|Error",
    ),
    "cut": (lambda: zipped(saved(np.arange(99.0)))[:-30], "BadZipFile"),
    "no zip": (lambda: b"words", "BadZipFile"),
}


@pytest.mark.parametrize(("make", "words"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_lies(tmp_path: Path, make: Callable[[], bytes], words: str) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(make())
    with pytest.raises(ArrayFileError, match=words):
        read_npz(path, ["x"])


def test_the_limit_of_what_unpacks() -> None:
    require_expansion(GIB, 0)
    require_expansion(200 * GIB, 2 * GIB)
    with pytest.raises(ArrayFileError, match="would unpack to"):
        require_expansion(200 * GIB + 1, 2 * GIB)

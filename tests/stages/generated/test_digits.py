"""Reading MNIST's files, and which digits a split may show."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from kinegraph.stages.generated.digits import DigitsError, digits_of, read_idx


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, num_train: int = 30, num_test: int = 20) -> None:
    """Pictures whose every pixel is their number, test numbers from 100 on; train gzipped, test not."""
    for half, first, count in (("train", 0, num_train), ("t10k", 100, num_test)):
        numbers = np.arange(first, first + count).astype(np.uint8)
        pictures = np.broadcast_to(numbers[:, None, None], (count, 28, 28))
        for name, content in (("images-idx3", idx(pictures)), ("labels-idx1", idx(numbers % 10))):
            path = folder / f"{half}-{name}-ubyte"
            if half == "train":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)


def test_idx_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    numbers = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(numbers))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(numbers)))
    assert np.array_equal(read_idx(tmp_path / "plain"), numbers)
    assert np.array_equal(read_idx(tmp_path / "packed.gz"), numbers)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty", b"", "begins with nothing"),
        ("floats", bytes([0, 0, 13, 1]) + struct.pack(">If", 1, 0.5), "begins with 00000d01"),
        ("header", bytes([0, 0, 8, 3, 0, 0]), "begins with 00000803"),
        ("short", idx(np.zeros((2, 3), np.uint8))[:-1], r"5 values for the shape \(2, 3\)"),
        ("packed.gz", gzip.compress(idx(np.zeros(9, np.uint8)), mtime=0)[:-9], "cannot be unpacked"),
        ("plain.gz", idx(np.zeros(9, np.uint8)), "cannot be unpacked"),
    ],
)
def test_what_is_no_idx_file_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DigitsError, match=rf"{name}: .*{words}"):
        read_idx(tmp_path / name)


def test_splits_share_no_picture_of_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    shown = {split: digits_of(split, str(tmp_path), 10) for split in ("train", "val", "test")}
    assert shown["train"].images[:, 0, 0].tolist() == [*range(20)]
    assert shown["val"].images[:, 0, 0].tolist() == [*range(20, 30)]
    assert shown["test"].images[:, 0, 0].tolist() == [*range(100, 120)]
    assert shown["val"].values.tolist() == [*range(10)]
    assert [len(which) for which in shown["test"].by_value] == [2] * 10


def test_splits_share_no_bundled_picture() -> None:
    seen = [{image.tobytes() for image in digits_of(split, None, 100).images} for split in ("train", "val", "test")]
    assert [len(images) for images in seen] == [1200, 100, 497]
    assert not seen[0] & seen[2]
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert digits_of("train", None, 100).images.max() == 255


def test_missing_and_wrong_files_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(DigitsError, match=r"split train lack \[5, 6, 7, 8, 9\].*val_images is 25"):
        digits_of("train", str(tmp_path), 25)
    with pytest.raises(DigitsError, match=r"the 0 digits of split train lack .*val_images is 30"):
        digits_of("train", str(tmp_path), 30)
    assert not len(digits_of("val", str(tmp_path), 0))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(DigitsError, match=r"t10k has images \(20, 28, 28\) and labels \(19,\)"):
        digits_of("test", f"{tmp_path}/.", 0)  # another spelling: what was read stays in memory
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DigitsError, match=r"no file train-images-idx3-ubyte or train-images-idx3-ubyte\.gz in"):
        digits_of("train", f"{tmp_path}/.", 0)

"""Reads pictures of handwritten digits, from the files of MNIST or from scikit-learn. Generated data sets show these
digits. Imports no torch.
"""

import gzip
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from kinegraph.cache_schemas.regular import DOCUMENT_BYTES, MIB, open_regular, read_regular
from kinegraph.stages.errors import UsageError
from kinegraph.stages.generated.drawing import FIRST_UNSEEN_DIGIT, bundled_digits

SIDE_PX = 28
UInt8Array = npt.NDArray[np.uint8]
_UNSIGNED_BYTES = 0x0800  # the type in the first four bytes of an idx file; the fourth byte counts dimensions
_FILES = {"train": "train", "test": "t10k"}  # half of MNIST -> start of its file names


class DigitsError(UsageError):
    """Raised if a digit file is missing or is not a file of MNIST, or if a split lacks a digit. The message names the
    file or the split.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class DigitImages:
    """N pictures of digits in the form of MNIST. `images` is [N, 28, 28] uint8, with 0 as background. `values` [N] has
    the digit, 0 to 9, that each picture shows.
    """

    images: UInt8Array
    values: UInt8Array

    def __post_init__(self) -> None:
        if self.images.shape != (len(self.values), SIDE_PX, SIDE_PX):
            raise ValueError(f"{len(self.values)} values for images {self.images.shape}")

    def __len__(self) -> int:
        return len(self.values)

    def part(self, begin: int, end: int) -> "DigitImages":
        """Returns a DigitImages with the pictures from index `begin` to index `end` - 1."""
        return DigitImages(images=self.images[begin:end], values=self.values[begin:end])

    def below(self, value: int) -> "DigitImages":
        """Returns a DigitImages with only the pictures that show a digit less than `value`."""
        kept = self.values < value
        return DigitImages(images=self.images[kept], values=self.values[kept])

    @cached_property
    def by_value(self) -> tuple[npt.NDArray[np.intp], ...]:
        """Returns ten arrays, one for each digit from 0 to 9. Each array has the indices of the pictures that show the
        digit.
        """
        return tuple(np.flatnonzero(self.values == value) for value in range(10))

    @cached_property
    def digest(self) -> str:
        """Returns the xxh3_128 digest of all pictures and their digits, in hexadecimal."""
        return xxhash.xxh3_128_hexdigest(self.images.tobytes() + self.values.tobytes())


def digits_of(split: str, folder: str | None, num_val: int) -> DigitImages:
    """Returns the pictures of digits for the split `split`: "train", "val" or "test".

    `folder` is the folder of MNIST's idx files, gzipped or not. If it is None, the digits of scikit-learn are used,
    enlarged. "val" has the last `num_val` training images, and "train" has the other training images. Raises
    DigitsError if a file is missing or damaged, or if a split that is not empty lacks one of the ten digits.
    """
    if split == "test":
        digits = _half("test", folder)
    else:
        both = _half("train", folder)
        border = max(0, len(both) - num_val)
        digits = both.part(0, border) if split == "train" else both.part(border, len(both))
    missing = {*range(10)} - {*digits.values.tolist()}
    if missing and (len(digits) or split != "val"):
        raise DigitsError(
            f"the {len(digits)} digits of split {split} lack {sorted(missing)}: a video needs any of the ten. "
            f"dataset.val_images is {num_val}; it must leave each split enough images."
        )
    return digits


@cache
def _half(name: str, folder: str | None) -> DigitImages:
    if folder is not None:
        return read_mnist(Path(folder), _FILES[name])
    images, values = bundled_digits()
    enlarged = np.stack([_enlarged(image) for image in images])
    bundled = DigitImages(images=enlarged, values=values.astype(np.uint8))
    border = FIRST_UNSEEN_DIGIT
    return bundled.part(border, len(bundled)) if name == "test" else bundled.part(0, border)


def _enlarged(image: npt.NDArray[np.floating]) -> UInt8Array:
    """Returns `image` [8, 8] with values from 0 to 1 as [28, 28] uint8, resized bilinearly."""
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    return np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def read_mnist(folder: Path, half: str) -> DigitImages:
    """Returns the DigitImages of one half of MNIST. `half` is "train" (training images) or "t10k" (test images).

    The files in `folder` are `<half>-images-idx3-ubyte` and `<half>-labels-idx1-ubyte`, gzipped (.gz) or not. Raises
    DigitsError if a file is missing, is damaged, or has images of another size.
    """
    images, values = (
        read_idx(_present(folder, f"{half}-{name}")) for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    if images.shape[1:] != (SIDE_PX, SIDE_PX) or values.shape != images.shape[:1] or values.max(initial=0) > 9:
        raise DigitsError(
            f"{folder}: {half} has images {images.shape} and labels {values.shape} up to {values.max(initial=0)}; "
            f"expected [N, {SIDE_PX}, {SIDE_PX}] and N labels 0..9"
        )
    return DigitImages(images=images, values=values)


def _present(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DigitsError(f"dataset.digits: no file {name} or {name}.gz in {folder} (looked from {Path.cwd()})")


def _unpacked(path: Path) -> bytes:
    if path.suffix != ".gz":
        return read_regular(path)
    with open_regular(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
        content = unpacked.read(DOCUMENT_BYTES + 1)
    if len(content) > DOCUMENT_BYTES:
        raise ValueError(f"it unpacks to more than {DOCUMENT_BYTES // MIB} MiB")
    return content


def read_idx(path: Path) -> UInt8Array:
    """Returns the numbers in an idx file, the file format of MNIST, as an array uint8. The file is gzipped if its name
    ends in .gz.

    Raises DigitsError if the file is no idx file, has a type other than uint8, or is cut off.
    """
    try:
        content = _unpacked(path)
    except (OSError, EOFError, ValueError) as error:
        raise DigitsError(f"{path}: cannot be unpacked: {error}") from error
    magic, num_dimensions = content[:4], content[3] if len(content) > 3 else 0
    start = 4 + 4 * num_dimensions
    if int.from_bytes(magic, "big") != _UNSIGNED_BYTES + num_dimensions or len(content) < start:
        raise DigitsError(f"{path}: not an idx file of unsigned bytes: it begins with {magic.hex() or 'nothing'}")
    shape = struct.unpack(f">{num_dimensions}I", content[4:start])
    if len(content) - start != np.prod(shape, dtype=np.int64):
        raise DigitsError(f"{path}: {len(content) - start} values for the shape {shape}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)

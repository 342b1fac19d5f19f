"""Reads a folder of numbered images as a video. Image number i, from 0, is shown at i / rate seconds. Torch-free.

Images become 8-bit RGB, turned as their EXIF data says, without alpha. Images of kinds for which this is not possible
are refused. A folder with two series of images, along x and y, is optical flow. Its frames have x and y as their first
two channels.
"""

import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from PIL import Image, ImageOps, UnidentifiedImageError

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.regular import open_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.probing import Probe
from kinegraph.stages.decode.stream import TimedFrame
from kinegraph.stages.decode.timeline import FLOAT_NOISE_SECONDS, PresentedFrames

IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .ppm .tif .tiff .webp".split())
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow's other decoders are not used
MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA"))  # modes with only one conversion to RGB
NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[a-z]+)", re.DOTALL | re.IGNORECASE)
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # tag of EXIF, and its values for images turned by 90 degrees
SAMPLE_BYTES = 65536
READERS, MAX_AHEAD = 4, 8  # threads that read images of one folder, and images that are read ahead
Name = tuple[str, str, str]  # prefix, digits, ending


@dataclass(frozen=True, kw_only=True)
class NumberedImages:
    """Describes the numbered images of one folder. The images have the names `<prefix><number><ending>`, as in
    `img_00001.jpg`.
    """

    prefix: str  # the text before the number. In a folder of optical flow, this is the prefix of the images along x.
    width: int  # the smallest number of digits in a name. Numbers with fewer digits have zeros in front.
    ending: str  # the text after the number, such as ".jpg"
    first: int  # the number of the first image
    count: int  # the number of images. In a folder of optical flow, this is the number of pairs of images.
    # Why the images cannot be read as a video, for example because a number is missing. "" if they can.
    problem: str = ""
    # The prefix of the images along y in a folder of optical flow, such as "flow_y_". None in other folders.
    prefix_y: str | None = None

    @property
    def is_flow(self) -> bool:
        """Returns whether the images are optical flow. If not, they are pictures."""
        return self.prefix_y is not None

    @property
    def num_files(self) -> int:
        """Returns the number of image files. In a folder of optical flow it is twice `count`."""
        return 2 * self.count if self.is_flow else self.count

    def names(self, index: int) -> tuple[str, ...]:
        """Returns the file names of the images at position `index`, counted from 0: one picture, or the two images of
        optical flow along x and y.
        """
        prefixes = (self.prefix,) if self.prefix_y is None else (self.prefix, self.prefix_y)
        return tuple(f"{prefix}{self.first + index:0{self.width}d}{self.ending}" for prefix in prefixes)

    def name(self, index: int) -> str:
        """Returns the file name of the image at position `index`, counted from 0. In a folder of optical flow, this is
        the image along x.
        """
        return self.names(index)[0]


def numbered_name(name: str) -> Name | None:
    """Returns (prefix, digits, ending) of the file name of a numbered image: `img_01.jpg` -> ("img_", "01", ".jpg").
    Returns None for other names.
    """
    match = NUMBERED.fullmatch(name)
    return (match[1], match[2], match[3]) if match and match[3].lower() in IMAGE_SUFFIXES else None


def numbered_images(names: Iterable[str]) -> NumberedImages | None:
    """Returns the NumberedImages of a folder, from `names`, the names of the files in the folder. Returns None if no
    name is that of a numbered image.
    """
    parsed = sorted((int(name[1]), name) for name in map(numbered_name, names) if name is not None)
    if not parsed:
        return None
    prefixes = sorted({name[0] for _, name in parsed})
    if len(prefixes) != 2 or not _are_axes(*prefixes):
        return _series(parsed)
    along_x, along_y = (_series([each for each in parsed if each[1][0] == prefix]) for prefix in prefixes)
    problem = along_x.problem or along_y.problem
    if not problem and replace(along_y, prefix=along_x.prefix) != along_x:
        problem = f"it has {counted(along_x.count, 'image')} of flow along x from {along_x.name(0)} on, and "
        problem += f"{along_y.count:,} along y from {along_y.name(0)} on; as many are expected"
    return replace(along_x, prefix_y=along_y.prefix, problem=problem)


def _are_axes(first: str, second: str) -> bool:
    """Returns whether the prefixes `first` and `second` differ only by a part x and y, or u and v, as `flow_x_` and
    `flow_y_` do.
    """
    return any(
        second != first and second == re.sub(rf"(?<![a-zA-Z]){x}(?![a-zA-Z])", y, first)
        for x, y in ("xy", "XY", "uv", "UV")
    )


def _series(parsed: list[tuple[int, Name]]) -> NumberedImages:
    first, (prefix, digits, ending) = parsed[0]
    images = NumberedImages(prefix=prefix, width=len(digits), ending=ending, first=first, count=len(parsed))
    return replace(images, problem=_problem(images, parsed))


def _problem(images: NumberedImages, parsed: list[tuple[int, Name]]) -> str:
    schemes = {(name[0], name[2]): "".join(name) for _, name in parsed}
    if len(schemes) > 1:
        first, second, *_ = sorted(schemes.values())
        return f"its images are numbered in {len(schemes)} ways, as {first} and {second}; one is expected"
    if images.first > 1:
        return f"the image with number 1 is missing; the first is {images.name(0)}"
    for index, (number, name) in enumerate(parsed):
        if number > images.first + index:
            return f"the image {images.name(index)} is missing, so that later ones would be shown at wrong times"
        if number < images.first + index or "".join(name) != images.name(index):
            return f"{''.join(name)} does not continue the numbers before it, as {images.name(index)} would"
    return ""


def images_in(folder: str) -> NumberedImages:
    """Lists the folder `folder` and returns the NumberedImages of its images.

    Raises DecodeError. The reason is `missing` if there is no such folder. The reason is `unreadable` if the folder
    cannot be read or has no numbered images.
    """
    try:
        with os.scandir(on_disk(folder)) as entries:
            images = numbered_images(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError("missing", f"no folder {folder}") from None
    except OSError as error:
        raise DecodeError("unreadable", f"{folder}: {error.strerror}") from error
    if images is None:
        raise DecodeError("unreadable", f"{folder}: a folder without numbered images ({', '.join(IMAGE_SUFFIXES)})")
    return images


def probe_images(folder: str, rate: float, images: NumberedImages | None = None) -> Probe:
    """Returns the Probe of a folder of images that is read as a video with `rate` frames per second: the duration, the
    frame size and the number of frames. Only the header of the first image is read.

    `images` is the result of `images_in`, or None to list the folder. Raises DecodeError if the first image cannot be
    read, or if the images are no video, for example because numbers are missing.
    """
    images = images or images_in(folder)
    _require_video(folder, images)
    with _opened(folder, images.name(0)) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION) in ON_ITS_SIDE:
            width, height = height, width
    frames = PresentedFrames(number=images.count, rate=rate)
    return Probe(duration=images.count / rate, frame_width=width, frame_height=height, rate=rate, frames=frames)


def _require_video(folder: str, images: NumberedImages) -> None:
    if images.problem:
        raise DecodeError("unreadable", f"{folder}: {images.problem}")


class OpenImages:
    """A folder of images that is read as a video. It has the methods of `stream.OpenVideo` that decoding of clips
    needs. A frame is the position of an image in the folder, an int from 0.

    `rate` is in images per second. Threads of `pool` read images ahead.
    """

    complaints = ""
    stated_duration: float | None = None
    latest: TimedFrame | None = None
    slack_seconds = FLOAT_NOISE_SECONDS
    sizes: tuple[tuple[float, tuple[int, int]], ...] = ()  # `rgb` itself refuses an image of another size

    def __init__(self, folder: str, images: NumberedImages, rate: float, pool: ThreadPoolExecutor) -> None:
        self.folder, self.images, self.rate = folder, images, rate
        self.frame_period = 1 / rate
        self._size: tuple[int, int] | None = None
        self._pool = pool
        self._later: Iterator[int] = iter(())
        self._coming: dict[int, Future[np.ndarray]] = {}  # place -> image that is being read, in order

    def frames(self, deadline: float = float("inf")) -> Iterator[TimedFrame]:
        """Yields one TimedFrame for each image of the folder, without opening the images. The field `frame` of a
        TimedFrame is the position of the image in the folder, an int from 0.

        Raises DecodeError (`timeout`) once time.monotonic() is later than `deadline`.
        """
        for index in range(self.images.count):
            if time.monotonic() > deadline:
                raise DecodeError(
                    "timeout", f"{index:,} of {counted(self.images.count, 'image')} read when time was up"
                )
            yield TimedFrame(index / self.rate, index, index, index)

    def place(self, seconds: float) -> int:
        """Returns the position, from 0, of the image that is shown at the time `seconds`. After the last image, the
        result is the position of the last image.
        """
        return bisect_right(range(1, self.images.count), seconds, key=lambda i: i / self.rate - self.slack_seconds)

    def read_ahead(self, places: Iterable[int]) -> None:
        """Starts to read the images at the positions `places` in other threads, a few at a time. `places` must be in
        ascending order.

        A call of `rgb` for one of these images waits for the image, and raises the error if the image cannot be read.
        """
        self._later = iter(dict.fromkeys(min(place, self.images.count - 1) for place in places))
        self._submit()

    def _submit(self) -> None:
        while len(self._coming) < MAX_AHEAD and (place := next(self._later, None)) is not None:
            self._coming[place] = self._pool.submit(self._pixels, place)

    def rgb(self, frame: Any) -> np.ndarray:
        """Returns an image of the folder as uint8 [H, W, 3], with H rows and W columns. `frame` is the position of the
        image in the folder, an int from 0.

        Raises DecodeError if the image cannot be read or has another size than the first image.
        """
        if self._size is None:
            probe = probe_images(self.folder, self.rate, self.images)
            self._size = probe.frame_width, probe.frame_height
        for passed in [place for place in self._coming if place < frame]:
            self._coming.pop(passed).cancel()
        coming = self._coming.pop(frame, None)
        self._submit()
        pixels = self._pixels(frame) if coming is None else stopping.result(coming)
        height, width = pixels.shape[:2]
        if (width, height) != self._size:
            first = f"{self.images.name(0)} has {self._size[0]}x{self._size[1]}"
            words = f"{self.images.name(frame)} has {width}x{height} px, {first}; one size is expected"
            raise DecodeError("unreadable", words)
        return pixels

    def _pixels(self, place: int) -> np.ndarray:
        if self.images.is_flow:
            return self._flow(place)
        name = self.images.name(place)
        with _opened(self.folder, name) as image:
            if image.mode not in MODES:
                raise DecodeError("unreadable", f"{name}: of kind {image.mode}; expected 8-bit grey, palette or RGB")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))

    def _flow(self, place: int) -> np.ndarray:
        """Returns the optical flow at position `place`, uint8 [H, W, 3] with H rows and W columns. Channel 0 is along
        x, channel 1 along y, and channel 2 is 0.
        """
        planes = []
        for name in self.images.names(place):
            with _opened(self.folder, name) as image:
                if image.mode != "L":
                    raise DecodeError("unreadable", f"{name}: of kind {image.mode}; flow is expected as 8-bit grey")
                planes.append(np.asarray(image))
        if planes[0].shape != planes[1].shape:
            sizes = " and ".join(f"{plane.shape[1]}x{plane.shape[0]}" for plane in planes)
            raise DecodeError(
                "unreadable", f"{' and '.join(self.images.names(place))} have {sizes} px; one is expected"
            )
        return np.stack([*planes, np.zeros_like(planes[0])], 2)


@contextmanager
def open_images(folder: str, rate: float) -> Iterator[OpenImages]:
    """Opens a folder of numbered images as a video, for a `with` block, as an OpenImages. `rate` is in images per
    second.

    Raises DecodeError if the folder cannot be read, or if its images are no video.
    """
    images = images_in(folder)
    _require_video(folder, images)
    with stopping.threads(READERS, "image") as pool:
        yield OpenImages(folder, images, rate, pool)


@contextmanager
def _opened(folder: str, name: str) -> Iterator[Image.Image]:
    """Opens the image `name` in `folder` for a `with` block. Every error in the block becomes a DecodeError that names
    the image.
    """
    try:
        with open_regular(os.path.join(on_disk(folder), name)) as file, Image.open(file, formats=FORMATS) as image:  # noqa: PTH118
            yield image
    except FileNotFoundError:
        raise DecodeError("missing", f"no file {folder}/{name}") from None
    except UnidentifiedImageError:
        raise DecodeError("unreadable", f"{folder}/{name}: no image; expected one of {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError("unreadable", f"{folder}/{name}: {error}") from error


def images_identity(folder: str) -> Source | None:
    """Returns the Source that identifies the images in `folder`. Returns None if the folder cannot be read.

    `size` is the size of all images together in bytes. `digest` covers the names and sizes of all images, and the first
    64 KiB of the first, middle and last image. `mtime_ns` is the latest time of change of the folder and these three
    images.
    """
    path = on_disk(folder)
    try:
        names = _image_names(path)
        sizes = [os.stat(os.path.join(path, name)).st_size for name in names]  # noqa: PTH116, PTH118
        listed = "".join(f"{name}\0{size}\n" for name, size in zip(names, sizes, strict=True))
        digest = xxhash.xxh3_128(listed.encode("utf-8", "replace"))
        for name in _sampled(names):
            with open_regular(os.path.join(path, name)) as file:  # noqa: PTH118
                digest.update(file.read(SAMPLE_BYTES))
        return Source(size=sum(sizes), mtime_ns=_newest_ns(path, names), digest=digest.hexdigest())
    except (OSError, ValueError):
        return None


def images_changed(folder: str, source: Source) -> bool:
    """Returns whether the images in `folder` have changed since they were extracted. `source` is their Source at that
    time.

    The images count as unchanged if the newest time of change of the folder and of its first, middle and last image
    equals `source.mtime_ns`. Otherwise sizes and digest are compared. A folder that cannot be read counts as unchanged.
    """
    path = on_disk(folder)
    try:
        if _newest_ns(path, _image_names(path)) == source.mtime_ns:
            return False
    except OSError:
        return False
    now = images_identity(folder)
    return now is not None and (now.size, now.digest) != (source.size, source.digest)


def _image_names(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if numbered_name(entry.name) and entry.is_file())


def _sampled(names: list[str]) -> list[str]:
    return [names[place] for place in sorted({0, len(names) // 2, len(names) - 1})] if names else []


def _newest_ns(path: str, names: list[str]) -> int:
    return max(Path(path, name).stat().st_mtime_ns for name in (".", *_sampled(names)))

"""Reads which pixels a network of transformers expects, from the file of its processor. Torch-free.

A processor is the object of transformers that makes the input of a network from images or videos. Its file lies in the
folder of the network. A value that the file lacks is not taken from the class of the processor, because in some classes
it differs from the value in the training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.crops import Resize
from kinegraph.stages.weights.sources import Channels, Pixels
from kinegraph.stages.weights.transformers_files import json_object

# File -> the entry of the file that has the processor, or None if the file is the processor. The first file is taken.
OF_VIDEOS = {
    "video_preprocessor_config.json": None,
    "processor_config.json": "video_processor",
    "preprocessor_config.json": None,
}
OF_IMAGES = {"preprocessor_config.json": None, "processor_config.json": "image_processor"}
RESIZES: dict[int, Resize] = {2: "pillow", 3: "bicubic"}  # numbers of Pillow's filters
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The values in the file of a processor, which say how frames become the input of a network. `file` is the path of
    the file.
    """

    file: Path
    pixels: Pixels  # the normalisation of pixels
    size: int  # side in px of the square input of the network
    # Short side in px to which the whole frame is resized before the square is cut. None if the whole frame is squeezed
    # into the square.
    resize_short: int | None
    filter: int | None  # Pillow's number of the filter that resizes. None if the file does not name it.
    num_frames: int | None  # number of frames of a clip. None if the file does not name it.

    @property
    def resize(self) -> Resize:
        """Returns the value of the config's option `resize` that is nearest to the filter of the processor: "pillow" or
        "bicubic".
        """
        return RESIZES.get(self.filter or 0, "pillow")

    @property
    def remarks(self) -> list[str]:
        """Returns sentences for the user about what kinegraph does in another way than the processor, such as the
        filter that resizes frames.
        """
        sentences = []
        if self.filter not in RESIZES:
            how = "an unknown filter" if self.filter is None else FILTERS.get(self.filter, f"filter {self.filter}")
            sentences.append(f"{self.file.name} resizes frames with {how}, here `resize: {self.resize}` resizes them")
        return sentences


def read_processor(
    folder: Path, *, of_videos: bool, must_have: tuple[str, ...] = (), short_of_crop: float | None = None
) -> Processor:
    """Reads the file of the processor in `folder`. Returns a Processor.

    `of_videos` says whether the network takes videos. `must_have` are keys that the file must have. If `short_of_crop`
    is given, the short side of the resized frame is `short_of_crop` times the side of the crop. Raises ValueError if
    there is no file of a processor, or if the processor is not supported.
    """
    file, document = processor_document(folder, OF_VIDEOS if of_videos else OF_IMAGES)
    for key in ("image_mean", "image_std", *must_have):
        if key not in document and (key in must_have or document.get("do_normalize", True)):
            raise ValueError(f"{file}: has no {key}. Add it as it was in the training of the network")
    pixels = processor_pixels(file, document)
    size, short = _sides(file, document)
    frames = document.get("num_frames")
    return Processor(
        file=file,
        pixels=pixels,
        size=size,
        resize_short=int(size * short_of_crop) if short_of_crop is not None and short is not None else short,
        filter=_filter(file, document.get("resample")),
        num_frames=frames if isinstance(frames, int) else None,
    )


def processor_document(folder: Path, files: Mapping[str, str | None]) -> tuple[Path, Mapping[str, Any]]:
    """Finds the description of the processor in `folder`. Returns (path of its file, the JSON object that describes the
    processor).

    `files` is {file name: key}. The value of this key in the file describes the processor. A key None means that the
    whole file describes it. The first file with a description is taken. Raises ValueError if no file has one.
    """
    for name, part in files.items():
        file = folder / name
        if not file.is_file():
            continue
        content = json_object(file)
        document = content if part is None else content.get(part)
        if isinstance(document, dict):
            return file, document
    raise ValueError(
        f"{folder}: has no {next(iter(files))}, which says how frames become the input of the network. Copy it from "
        "where the network was published. Or write one, for example "
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2, '
        '"size": {"shortest_edge": 224}, "crop_size": 224}'
    )


def processor_pixels(file: Path, document: Mapping[str, Any]) -> Pixels:
    """Returns the Pixels, the normalisation for values from 0 to 1, of the processor that `document` describes. `file`
    is its path, for messages.

    The processor multiplies bytes by a factor, subtracts 1 if `offset` is true, then subtracts the mean and divides by
    the standard deviation. Raises ValueError for a wrong value.
    """
    scale = 255 * _number(file, document, "rescale_factor", 1 / 255) if document.get("do_rescale", True) else 255.0
    offset = 1.0 if document.get("offset", False) else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if document.get("do_normalize", True):
        mean, std = _channels(file, document, "image_mean"), _channels(file, document, "image_std")
    if scale <= 0 or min(std) <= 0:
        raise ValueError(f"{file}: rescale_factor and image_std: given {scale / 255:g} and {std}, allowed: above 0")
    red, green, blue = ((offset + value) / scale for value in mean)
    return Pixels(
        mean=(red, green, blue),
        std=(std[0] / scale, std[1] / scale, std[2] / scale),
        channel_order="BGR" if document.get("do_flip_channel_order", False) else "RGB",
    )


def _sides(file: Path, document: Mapping[str, Any]) -> tuple[int, int | None]:
    """Returns (side of the square input, short side of the resized frame) in px. The short side is None if the
    processor squeezes the whole frame into the square.
    """
    if not document.get("do_resize", True):
        raise ValueError(f"{file}: do_resize: given false, allowed: true, because videos have many sizes")
    given = document.get("size")
    sides = {"shortest_edge": given} if isinstance(given, int) else given if isinstance(given, dict) else {}
    crops = document.get("do_center_crop", "crop_size" in document)
    if "shortest_edge" in sides and isinstance(given, int) and not crops:
        sides = {"height": given, "width": given}  # as processors of images have read it
    crop = _square(file, "crop_size", document.get("crop_size", given)) if crops else None
    if "shortest_edge" in sides:
        short = _side(file, "size", sides["shortest_edge"])
        return (short if crop is None else crop), short
    side = _square(file, "size", sides or given)
    if crop not in (None, side):
        raise ValueError(f"{file}: crop_size: given {crop}, allowed: {side}, to which the whole frame is squeezed")
    return side, None


def _square(file: Path, key: str, value: Any) -> int:
    sides = [*value.values()] if isinstance(value, dict) else [value]
    has_names = not isinstance(value, dict) or {*value} in ({"height", "width"}, {"shortest_edge"})
    if not has_names or any(side != sides[0] for side in sides):
        raise ValueError(f"{file}: {key}: given {value}, allowed: one number of px, or equal `height` and `width`")
    return _side(file, key, sides[0])


def _side(file: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file}: {key}: given {value!r}, allowed: a whole number of px")
    return value


def _filter(file: Path, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{file}: resample: given {value!r}, allowed: the number of a filter of Pillow, {FILTERS}")
    return value


def _number(file: Path, document: Mapping[str, Any], key: str, default: float) -> float:
    value = document.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{file}: {key}: given {value!r}, allowed: a number")
    return float(value)


def _channels(file: Path, document: Mapping[str, Any], key: str) -> Channels:
    value = document[key]
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
        raise ValueError(f"{file}: {key}: given {value!r}, allowed: three numbers")
    return float(value[0]), float(value[1]), float(value[2])

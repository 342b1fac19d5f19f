"""Describes a detector of the package transformers, from the files of its folder. Torch-free.

DETECTORS has one entry for each kind of detector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kinegraph.stages.options import need
from kinegraph.stages.weights.sources import Pixels
from kinegraph.stages.weights.transformers_files import (
    CONFIG,
    TRANSFORMERS_PREFIX,
    config_digest,
    find_folder,
    read_config,
    unknown_type,
)
from kinegraph.stages.weights.transformers_processor import OF_IMAGES, processor_document, processor_pixels

BILINEAR = 2  # Pillow's number of the filter with which whole frames are resized
OTHERWISE = "Boxes of another detector come from files that you write: `proposals: {source: file}`"
MOST_CLASSES = 32_767  # numbers of classes are stored as int16


@dataclass(frozen=True, kw_only=True)
class DetectorFamily:
    """The description of all detectors of one kind, such as DETR. The `config.json` of such a detector has the
    `model_type` of this description.
    """

    model_type: str
    about: str  # the detector in words
    usual: str  # the name of one published network of the kind. Lists show its numbers as an example.
    num_params: int  # the number of parameters of the network `usual`
    gmacs: float  # the billions of multiplications of `usual` in convolutions, linear layers and attention
    counted_size: tuple[int, int]  # the size (rows, columns) in px of the input for which `gmacs` was counted
    module: str  # the file of transformers with the two classes, below `transformers.models`
    # `network`, `config`: the name of the class of the network, and the name of the class of its config
    network: str
    config: str
    # Whether the last class means "no object". Scores are then a softmax. Otherwise they are sigmoids.
    has_no_object: bool
    # The sides of the input must be multiples of this number of px. 1 means that any size is right.
    size_multiple: int = 1


_DETR = DetectorFamily(
    model_type="detr",
    about="DETR (Carion et al. 2020)",
    usual="DETR R50",
    num_params=41_501_895,
    gmacs=81.165,
    counted_size=(800, 1066),
    module="detr.modeling_detr",
    network="DetrForObjectDetection",
    config="DetrConfig",
    has_no_object=True,
)
_RT_DETR = DetectorFamily(
    model_type="rt_detr",
    about="RT-DETR (Zhao et al. 2023)",
    usual="RT-DETR R50",
    num_params=42_731_082,
    gmacs=68.717,
    counted_size=(640, 640),
    module="rt_detr.modeling_rt_detr",
    network="RTDetrForObjectDetection",
    config="RTDetrConfig",
    has_no_object=False,
    size_multiple=32,
)
_RT_DETR_V2 = replace(
    _RT_DETR,
    model_type="rt_detr_v2",
    about="RT-DETR v2 (Lv et al. 2024)",
    usual="RT-DETR v2 R50",
    module="rt_detr_v2.modeling_rt_detr_v2",
    network="RTDetrV2ForObjectDetection",
    config="RTDetrV2Config",
)

DETECTORS: dict[str, DetectorFamily] = {family.model_type: family for family in (_DETR, _RT_DETR, _RT_DETR_V2)}


@dataclass(frozen=True, kw_only=True)
class Detector:
    """The description of the detector in the folder `path`. `config` is the content of its `config.json`."""

    path: Path
    family: DetectorFamily  # the kind of the detector
    config: Mapping[str, Any]
    classes: tuple[str, ...]  # the names of its classes, in the order of their numbers
    pixels: Pixels  # the normalisation of its input
    # (rows, columns) in px to which a frame is squeezed, or (short side, longest side) if `keeps_aspect` is true
    size: tuple[int, int]
    keeps_aspect: bool

    @property
    def identity(self) -> dict[str, Any]:
        """Returns {option: value} by which the fingerprint of a cache identifies the detector. The result does not
        contain the path of the folder, because a folder may be moved.
        """
        return {
            "network": f"{TRANSFORMERS_PREFIX}{self.family.model_type}",
            "config_sha256": config_digest(self.config),
            "mean": [*self.pixels.mean],
            "std": [*self.pixels.std],
            "size": [*self.size],
            "keeps_aspect": self.keeps_aspect,
        }

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size (rows, columns) in px to which a frame of `height` x `width` px is resized. Sides are
        rounded as in transformers.
        """
        if not self.keeps_aspect:
            return self.size
        target, longest = self.size
        short_side, long_side = min(height, width), max(height, width)
        exact: float = target
        if long_side / short_side * target > longest:
            exact = longest * short_side / long_side
            target = round(exact)
        if short_side == target:
            return height, width
        other = max(1, int(exact * long_side / short_side))
        return (target, other) if height <= width else (other, target)


def is_detector(model: str) -> bool:
    """Returns whether `model` names a detector that kinegraph knows, by the `config.json` of its folder. Returns False
    if there is no such folder.

    `model` is `transformers/` and the path of a folder, or `transformers/` and the id of a repository in the hub's
    local cache.
    """
    try:
        config = read_config(find_folder(model.removeprefix(TRANSFORMERS_PREFIX)))
    except ValueError:
        return False
    return config.get("model_type") in DETECTORS


def read_detector(model: str) -> Detector:
    """Returns the description of the detector `model`, from the files in its folder.

    `model` is `transformers/` and the path of a folder, or `transformers/` and the id of a repository in the hub's
    local cache. Raises ValueError if there is no such folder, if its detector or processor is not supported, or if the
    folder has code.
    """
    folder = find_folder(model.removeprefix(TRANSFORMERS_PREFIX))
    files = (folder / name for name in (CONFIG, *OF_IMAGES))
    return _read(folder, tuple(file.stat().st_mtime_ns for file in files if file.is_file()))


@lru_cache(maxsize=16)
def _read(folder: Path, mtimes_ns: tuple[int, ...]) -> Detector:
    """Reads `folder`. `mtimes_ns` are the times of change of its files. The result is read again if they differ."""
    config = read_config(folder)
    family = DETECTORS.get(str(config.get("model_type")))
    if family is None:
        raise unknown_type(folder, config, DETECTORS, OTHERWISE)
    file, document = processor_document(folder, OF_IMAGES)
    filter_number = document.get("resample", BILINEAR)
    need(filter_number == BILINEAR, f"{file}: resample", filter_number, f"{BILINEAR}, which is bilinear")
    need(document.get("pad_size") is None, f"{file}: pad_size", document.get("pad_size"), "null")
    if document.get("do_normalize", True) and not {"image_mean", "image_std"} <= document.keys():
        raise ValueError(f"{file}: has no image_mean or no image_std. Add them as in the training of the network")
    pixels = processor_pixels(file, document)
    need(pixels.channel_order == "RGB", f"{file}: do_flip_channel_order", True, "false")
    size, keeps_aspect = _size(file, document)
    multiple = family.size_multiple
    fits = multiple == 1 or not (keeps_aspect or any(side % multiple for side in size))
    need(fits, f"{file}: size", [*size], f"`height` and `width`, multiples of {multiple} px")
    return Detector(
        path=folder,
        family=family,
        config=config,
        classes=_classes(folder / CONFIG, config),
        pixels=pixels,
        size=size,
        keeps_aspect=keeps_aspect,
    )


def _classes(file: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the classes. transformers leaves out `id2label` if there are two classes."""
    named = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    numbers = [str(number) for number in range(len(named))] if isinstance(named, dict) else []
    if not numbers or {*numbers} != {*named} or len(numbers) > MOST_CLASSES:
        raise ValueError(f"{file}: id2label: allowed: the names of classes numbered from 0, at most {MOST_CLASSES:,}")
    return tuple(str(named[number]) for number in numbers)


def _size(file: Path, document: Mapping[str, Any]) -> tuple[tuple[int, int], bool]:
    """Returns (size, whether frames keep their aspect ratio), as the fields of `Detector`."""
    need(document.get("do_resize", True), f"{file}: do_resize", False, "true, because videos have many sizes")
    given = document.get("size")
    sides = {"shortest_edge": given, "longest_edge": document.get("max_size")} if isinstance(given, int) else given
    for keys, keeps_aspect in ((("shortest_edge", "longest_edge"), True), (("height", "width"), False)):
        values = [sides.get(key) for key in keys] if isinstance(sides, dict) else []
        if all(isinstance(value, int) and value > 0 for value in values) and len(values) == len(keys):
            return (int(values[0] or 0), int(values[1] or 0)), keeps_aspect
    raise ValueError(
        f"{file}: size: given {given!r}, allowed: `height` and `width`, or `shortest_edge` and `longest_edge`, in px"
    )

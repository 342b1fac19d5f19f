"""Draws random views of clips for fine-tuning. A view is a random change of a clip: another part of the frame,
mirroring, other colours, or other times.

A view depends only on the seed, the epoch and the clip. It does not depend on the order of clips, on workers or on
interruptions. All frames of a clip have the same view. Imports no torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import FULL, Rectangle, base_of
from kinegraph.stages.options import StageOptions, need


class ViewOptions(StageOptions):
    """The options of random views in fine-tuning: how a square is cut (`short_side`, `region`), whether it is mirrored,
    how colours change, and at which times frames are taken. With the default options, the network sees each clip as the
    extraction saw it.
    """

    short_side: tuple[int, int] | None = Field(
        None,
        description="px: a square of the network's input size is cut at a random place, as if the short side of the "
        "region had a random length in this range; [256, 320] is that of many papers; null: the crop of the row",
    )
    region: Literal["crop", "frame"] = Field(
        "crop", description="where squares are cut: in the crop of the row, or in the frame, which needs rows of full"
    )
    mirror: bool | Literal["always"] = Field(
        False,
        description="half of the views are mirrored, with their boxes; true is refused where class names have left "
        "or right; always: allowed there, too",
    )
    brightness: float = Field(0.0, ge=0, lt=1, description="pixels are multiplied by 1 - x to 1 + x")
    contrast: float = Field(
        0.0, ge=0, lt=1, description="distances from the mean grey are multiplied by 1 - x to 1 + x"
    )
    saturation: float = Field(0.0, ge=0, lt=1, description="distances from grey are multiplied by 1 - x to 1 + x")
    offsets: Literal["cached", "random"] = Field(
        "cached",
        description="frames of clips with `clips.sampling: uniform`. cached: those of the cache; random: each from a "
        "random place in its segment of the video, as TSN draws them in training",
    )

    @model_validator(mode="after")
    def _range_rises(self) -> "ViewOptions":
        if self.short_side is not None:
            low, high = self.short_side
            need(0 < low <= high, "short_side", [low, high], "two numbers that do not fall, above 0")
        return self

    @model_serializer(mode="wrap")
    def _as_recorded(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Returns the options as a dictionary. The key `offsets` is left out if it has the default value, because the
        options that earlier versions stored lack this key.
        """
        recorded: dict[str, Any] = dump(self)
        if self.offsets == "cached":
            del recorded["offsets"]
        return recorded

    @property
    def is_off(self) -> bool:
        """Returns True if no option changes a clip, so that the network sees each clip as the extraction saw it."""
        return self == ViewOptions(region=self.region)


@dataclass(frozen=True, kw_only=True)
class View:
    """One random view of a clip: how fine-tuning changes the clip before the network sees it.

    A factor of 1 changes nothing.
    """

    # The part of the frames that the network sees, (x1, y1, x2, y2) in px of the video. None means the crop of the row.
    rectangle: Rectangle | None = None
    mirrored: bool = False  # if true, left and right are swapped. A row that is mirrored already is swapped back.
    brightness: float = 1.0  # the factor of all pixel values
    contrast: float = 1.0  # the factor of the distances from the mean grey of a frame
    saturation: float = 1.0  # the factor of the distances of colours from grey
    times: tuple[float, ...] | None = None  # the times of the frames in seconds, or None for the times of the row


def check_views(
    options: ViewOptions, size: int, crops: Iterable[str], sampling: str = "uniform", of_frames: Sequence[str] = ()
) -> None:
    """Raises ValueError if a random view could show a part of a frame, or a frame, for which the cache has no boxes.

    `size`: the side of the network's input in px.
    `crops`: the names of the crops of the rows.
    `sampling`: the option `clips.sampling` of the cache.
    `of_frames`: the names of the cached arrays, such as boxes, that the head reads together with the pixels.
    """
    if options.offsets == "random":
        need(
            sampling == "uniform",
            "views.offsets",
            "random",
            f"cached with clips.sampling {sampling}; uniform has segments",
        )
        beside = ", ".join(of_frames)
        need(not beside, "views.offsets", "random", f"cached, because {beside} belong to the cached frames")
    if options.short_side is not None:
        low, high = options.short_side
        need(low >= size, "views.short_side", [low, high], f"from {size} px on, the input of the network")
    cut = [crop for crop in crops if base_of(crop) != FULL]
    need(
        options.region == "crop" or not cut,
        "views.region",
        f"frame, for rows of crop {', '.join(cut)}",
        "crop, because the cache has no boxes outside of their crop; or a cache with `clips.crops: [full]`",
    )


def view_of(row: ClipRow, size: int, options: ViewOptions, seed: int, epoch: int) -> View:
    """Returns the random View in which the network sees the clip `row` in one epoch. Equal arguments return equal
    Views.

    `size`: the side of the network's input in px.
    `options`: options that have passed `check_views`.
    `seed`: the seed of the training.
    `epoch`: the number of the epoch, from 1.
    """
    generator = np.random.default_rng(xxhash.xxh3_128_intdigest(f"{seed}:{epoch}:{row.clip_id}".encode()))
    draws = generator.random(7)

    def factor(change: float, draw: float) -> float:
        return 1 + change * (2 * draw - 1)

    return View(
        rectangle=None if options.short_side is None else _square(row, size, options, draws[:3]),
        mirrored=bool(options.mirror) and draws[3] < 0.5,
        brightness=factor(options.brightness, draws[4]),
        contrast=factor(options.contrast, draws[5]),
        saturation=factor(options.saturation, draws[6]),
        times=_random_times(row, generator) if options.offsets == "random" else None,
    )


def _random_times(row: ClipRow, generator: np.random.Generator) -> tuple[float, ...]:
    """Returns T times in seconds, one at a random place in each of T equal segments of the part of the video that `row`
    represents. T is the number of frames of the row (TSN, Wang et al. 2016, section 3.1).
    """
    count = len(row.target_times)
    places = (np.arange(count) + generator.random(count)) / count
    return tuple((row.start_seconds + places * (row.end_seconds - row.start_seconds)).tolist())


def _square(row: ClipRow, size: int, options: ViewOptions, draws: np.ndarray) -> Rectangle:
    """Returns a random square (x1, y1, x2, y2) inside the crop of `row`, in px of the video.

    The network sees the square resized to `size` px. The option `short_side` limits the side of the square. Three
    random numbers `draws` from 0 to 1 decide the side, x1 and y1.
    """
    assert options.short_side is not None
    low, high = options.short_side
    x1, y1, x2, y2 = row.crop
    side = min(x2 - x1, y2 - y1) * size / (low + (high - low) * draws[0])
    x, y = x1 + (x2 - x1 - side) * draws[1], y1 + (y2 - y1 - side) * draws[2]
    return float(x), float(y), float(x + side), float(y + side)

"""Draws random views of clips for fine-tuning: another rectangle of the frame, a mirrored one, other colours.

A view is a pure function of the seed, the epoch and the clip. It does not depend on the order of clips, on workers or
on interruptions. All frames of a clip have one view. Imports no torch.
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
    """The options of random views of training clips: how a square is cut (`short_side`, `region`), whether it is
    mirrored, and how its colours change. If no key is set, the network sees each clip as the extraction saw it.
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
        "or right; always: also there",
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
        """Returns the options as a dictionary. It has `offsets` only if that is not the default, because the recorded
        options of earlier versions lack it.
        """
        recorded: dict[str, Any] = dump(self)
        if self.offsets == "cached":
            del recorded["offsets"]
        return recorded

    @property
    def is_off(self) -> bool:
        """Returns true if the network sees each clip as the extraction saw it, and false if an option changes clips."""
        return self == ViewOptions(region=self.region)


@dataclass(frozen=True, kw_only=True)
class View:
    """One random variant of a clip for fine-tuning: the part of the frames that is used, mirroring, and colours.

    The network sees the part `rectangle` (x1, y1, x2, y2) of the video, in px of the video. If `rectangle` is None, it
    sees the rectangle of the clip's row in clips.parquet. If `mirrored` is true, left and right are swapped, also for a
    row that is mirrored already. `brightness`, `contrast` and `saturation` are factors. A factor of 1 changes nothing.
    `times` are the times of the frames in seconds, or None for those of the row.
    """

    rectangle: Rectangle | None = None
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    times: tuple[float, ...] | None = None


def check_views(
    options: ViewOptions, size: int, crops: Iterable[str], sampling: str = "uniform", of_frames: Sequence[str] = ()
) -> None:
    """Raises ValueError if a random view could show something for which the cache has no boxes. A view is what a
    network sees of a clip in fine-tuning. It may show another part of the frame, or other frames, as `options` say.

    `size` is the side of the network's input in px, and `crops` are the names of the crops of the rows. `sampling` is
    how the frames of the rows were chosen. `of_frames` are the cached arrays, such as boxes, that the head reads beside
    the pixels.
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
    """Returns the random View in which a network sees the clip `row` in the epoch `epoch`, counted from 1. `seed` is
    the seed of the training. Equal arguments return equal Views.

    A View says which part of the video the network sees, and whether it is mirrored. It also has the factors by which
    brightness, contrast and saturation change. `size` is the side of the network's input in px. `options` must have
    passed `check_views`.
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
    """Returns a random square (x1, y1, x2, y2) inside the crop of `row`, in pixels of the video.

    The network sees the square resized to `size` px. The option `short_side` limits the side of the square. Three
    random numbers `draws` from 0 to 1 decide the side, x1 and y1.
    """
    assert options.short_side is not None
    low, high = options.short_side
    x1, y1, x2, y2 = row.crop
    side = min(x2 - x1, y2 - y1) * size / (low + (high - low) * draws[0])
    x, y = x1 + (x2 - x1 - side) * draws[1], y1 + (y2 - y1 - side) * draws[2]
    return float(x), float(y), float(x + side), float(y + side)

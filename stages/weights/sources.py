"""Describes weight files that have a name in configs, and what their networks expect. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kinegraph.cache_schemas.crops import Framing, Resize
from kinegraph.cache_schemas.words import counted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINETICS_MEAN, KINETICS_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
PRETRAINED = "pretrained"  # a value of `weights`: those that timm publishes, or those of the folder of transformers

Channels = tuple[float, float, float]
ChannelOrder = Literal["RGB", "BGR"]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The normalisation of pixels that a network expects: (value - `mean`) / `std`, for values from 0 to 1.

    `mean` and `std` have one number per channel. `channel_order`, "RGB" or "BGR", is the order of the channels in
    `mean`, in `std` and in the input. Published values for pixels from 0 to 255 are divided by 255.
    """

    mean: Channels
    std: Channels
    channel_order: ChannelOrder = "RGB"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The clips that a network was trained on. A clip has `num_frames` frames.

    `fps` is the number of frames that were taken from each second of video. It is None if the frames were spread over
    the whole video.
    """

    num_frames: int
    fps: float | None

    def __str__(self) -> str:
        return f"{counted(self.num_frames, 'frame')} " + (
            "over the whole video" if self.fps is None else f"at {self.fps:g} fps"
        )


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of the repository `repository` on huggingface.co. `names` are the names that the file may have.

    kinegraph uses the first of these names whose file is already in Hugging Face's folder on this machine. Nothing is
    downloaded.
    """

    repository: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """A weights file that has a name in configs: where it comes from, and what its network expects. The file is public
    (`url`, or `hub` on huggingface.co), or part of this package (`path`).
    """

    # Name of the file on this machine, unique among all named files. If two public files have the same name, one of
    # them has a prefix here.
    file_name: str
    licence: str  # the licence and the data set of the training, in words
    sha256: str = ""  # all 64 hex digits or the first digits, as published. Empty if no sha256 is published.
    url: str | None = None
    path: str | None = None  # path of a file in this package, below the folder `stages`
    hub: HubFile | None = None
    # The normalisation of pixels that the network expects. None if it is that of the network's catalogue entry.
    pixels: Pixels | None = None
    sampling: Sampling | None = None  # the clips that the network was trained on. None for a network of images.
    # `short_side_px`, `crop_px`: short side of the resized frame, and side of the crop, with which the network was
    # tested
    short_side_px: int | None = None
    crop_px: int | None = None
    # How frames were resized to `short_side_px`. None if it is unknown, or if no config can state it.
    resize: Resize | None = None
    classes: int | None = None  # number of classes of the classifier in the file. The classifier itself is not loaded.
    # Options of the trained network that the shapes of the weights do not show, such as `res5_stride`
    geometry: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def framing(self) -> Framing | None:
        """Returns a Framing: how frames were resized and cut to the square input when the network was tested.

        Returns None if the framing is unknown, or if no config can state it.
        """
        if self.resize is None or self.crop_px is None:
            return None
        return Framing(size=self.crop_px, resize_short=self.short_side_px, resize=self.resize)

    def __post_init__(self) -> None:
        if [self.url, self.path, self.hub].count(None) != 2:
            raise ValueError(f"weights {self.file_name}: exactly one of url, path and hub is needed")


def known_source(weights: str, sources: Mapping[str, WeightSource]) -> WeightSource | None:
    """Returns the WeightSource that describes the weights `weights`, or None if there is no description.

    `weights` is a key of `sources`, or the path of a local file. For a local file, the WeightSource in `sources` with
    the same file name is returned.
    """
    by_file = {source.file_name: source for source in sources.values()}
    return sources.get(weights) or by_file.get(Path(weights).name)


def is_random(weights: str) -> bool:
    """Returns whether `weights`, an option of a config, asks for random weights: `random:<seed>` or
    `inflate:random:<seed>`.
    """
    return weights.removeprefix("inflate:").startswith("random:")


def check_weights(weights: str, sources: Mapping[str, WeightSource], other_forms: Sequence[str] = ()) -> None:
    """Raises ValueError if `weights` is not an allowed value of the option `weights`. Allowed are a name in `sources`,
    `random:<seed>`, an existing file, and every text that looks like a path.

    A path need not exist on this machine, because another machine may load the weights. `other_forms` are further
    allowed forms, such as `inflate:...`, which the caller checks itself. The message lists them too.
    """
    path = Path(weights).expanduser()
    kind, _, seed = weights.partition(":")
    is_random = kind == "random" and seed.isdecimal()
    if weights in sources or is_random or path.suffix or len(path.parts) > 1 or path.is_file():
        return
    allowed = ", ".join([*sources, "random:<seed>", *other_forms])
    raise ValueError(f"given {weights!r}, allowed: {allowed}, or the path of a file")

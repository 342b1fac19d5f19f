"""Describes weight files that are known by name, and what their networks expect. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kinegraph.cache_schemas.crops import Framing, Resize
from kinegraph.cache_schemas.words import counted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINETICS_MEAN, KINETICS_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

Channels = tuple[float, float, float]
ChannelOrder = Literal["RGB", "BGR"]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Describes the pixels that a network expects: from 0 to 1, minus `mean`, divided by `std`, in `channel_order`.

    The three values of `mean` and `std` are in `channel_order` too. For a network trained on 0 to 255, the published
    mean and std are divided by 255.
    """

    mean: Channels
    std: Channels
    channel_order: ChannelOrder = "RGB"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Describes the clips that a network was trained on.

    fps: frames of a clip per second of video, or None where the frames are spread over the whole video.
    """

    num_frames: int
    fps: float | None

    def __str__(self) -> str:
        return f"{counted(self.num_frames, 'frame')} " + (
            "over the whole video" if self.fps is None else f"at {self.fps:g} fps"
        )


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """A weight file that is known by name. The file is public (`url`) or part of this package (`path`).

    file_name: unique among all sources; a prefix distinguishes two public files of one name.
    sha256: all 64 hex digits or the leading ones, as published; empty where none is published.
    path: the path of a shipped file below the folder of the package `stages`.
    pixels: None where the file expects the pixels that the network's catalogue entry states.
    sampling: None for networks of single images.
    short_side_px, crop_px: sizes of the frames that the file was tested on.
    classes: number of classes of the classifier, which is left out.
    resize: how whole frames were resized to the short side before the cut; None: in another way, or unknown.
    geometry: options of the network in which the file was trained, which its weights do not show.
    """

    file_name: str
    licence: str
    sha256: str = ""
    url: str | None = None
    path: str | None = None
    pixels: Pixels | None = None
    sampling: Sampling | None = None
    short_side_px: int | None = None
    crop_px: int | None = None
    resize: Resize | None = None
    classes: int | None = None
    geometry: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def framing(self) -> Framing | None:
        """Returns the framing (how a frame becomes a square input) with which the file was tested. Returns None where a
        config cannot state this framing.
        """
        if self.resize is None or self.crop_px is None:
            return None
        return Framing(size=self.crop_px, resize_short=self.short_side_px, resize=self.resize)

    def __post_init__(self) -> None:
        if (self.url is None) == (self.path is None):
            raise ValueError(f"weights {self.file_name}: exactly one of url and path is needed")


def known_source(weights: str, named: Mapping[str, WeightSource]) -> WeightSource | None:
    """Returns the source of `weights`, or None where nothing is known about them.

    `weights` is a name from `named`, or a local file whose file name is that of a source in `named`.
    """
    by_file = {source.file_name: source for source in named.values()}
    return named.get(weights) or by_file.get(Path(weights).name)


def is_random(weights: str) -> bool:
    """Returns whether `weights` names random weights: `random:<seed>` or `inflate:random:<seed>`."""
    return weights.removeprefix("inflate:").startswith("random:")


def check_word(weights: str, named: Mapping[str, WeightSource], other_words: Sequence[str] = ()) -> None:
    """Raises ValueError for weights that cannot exist.

    A name from `named`, `random:<seed>`, a file, and every text that looks like a path are accepted. The machine that
    loads the weights checks later whether the path has a file. other_words: values that the caller accepts besides
    these. The message names them.
    """
    path = Path(weights).expanduser()
    kind, _, seed = weights.partition(":")
    is_random = kind == "random" and seed.isdecimal()
    if weights in named or is_random or path.suffix or len(path.parts) > 1 or path.is_file():
        return
    allowed = ", ".join([*named, "random:<seed>", *other_words])
    raise ValueError(f"given {weights!r}, allowed: {allowed}, or the path of a file")

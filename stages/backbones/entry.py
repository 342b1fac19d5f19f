"""Describes a backbone before it is built. Imports no torch, because plans are made from the description."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.options import need
from kinegraph.stages.weights.sources import WeightSource, known_source

ModelOptions = Mapping[str, int | str]
Tokens = Literal["patch", "class", "both"]  # what a tap stores: the map of patches, the class token, or both
GEOMETRY, AS_TRAINED, PAPER = "geometry", "as_trained", "paper"  # the option that sets defaults of other options
INFLATE = "inflate:"  # prefix of weights that are made from weights of a 2D network


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The size and the cost of a network with its classifier, as papers count them."""

    num_params: int  # the number of trainable parameters
    gmacs: float  # billions of multiplications for one clip, in convolutions, linear layers and attention
    # `num_frames`, `size`: the clip has `num_frames` frames of `size` x `size` px
    num_frames: int
    size: int
    num_classes: int  # the number of classes of the classifier. 0 means that there is no classifier.


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """The description of a backbone in the catalogue."""

    name: str  # the name of the backbone in configs
    taps: tuple[Tap, ...]  # its taps, the named layers whose output can be cached
    size: int  # the input is a square of `size` x `size` px
    # `mean`, `std`: normalise the pixels of the input, RGB from 0 to 1
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # {name: WeightSource}, the weights files that have a name
    weights: Mapping[str, WeightSource] = field(default_factory=dict)
    counts: Counts | None = None  # its published parameter counts and costs, or None
    # {option of the network: allowed values}. The first value is that of the paper.
    options: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    # {option: value} of the options that have another value than in the paper
    chosen: ModelOptions = field(default_factory=dict)
    min_frames: int = 1  # a clip should have at least this number of frames
    # The name of the 2D backbone whose weights can become weights of this network (inflation), or None
    inflates: str | None = None
    sees_single_frames: bool = False  # whether the maps of a frame depend on this frame alone
    sees: Literal["rgb", "flow"] = "rgb"  # "rgb" for pictures, "flow" for optical flow
    # The number of channels of the output `head` after the last tap. None if there is no such output.
    head_channels: int | None = None
    folder: str = ""  # the path of the user's folder that describes the network, or ""
    # {option: value} by which a fingerprint identifies a network of a folder. Empty for other networks.
    identity: Mapping[str, int | str] = field(default_factory=dict)
    # Sentences for the user about what kinegraph does in another way than the network's own processor
    remarks: tuple[str, ...] = ()

    @property
    def other_forms(self) -> list[str]:
        """Returns a list of texts for a message: what the option `weights` allows for this network in addition to
        names, paths and `random:<seed>`. The list is `["inflate:<weights of NAME>"]` if the weights can be made from
        those of the 2D network NAME, otherwise empty.
        """
        return [f"{INFLATE}<weights of {self.inflates}>"] if self.inflates else []

    def tap(self, name: str) -> Tap:
        """Returns the Tap, the description of a named layer, with the name `name`. Raises ValueError if there is no
        such tap. The message lists all taps.
        """
        for tap in self.taps:
            if tap.name == name:
                return tap
        names = ", ".join(tap.name for tap in self.taps)
        raise ValueError(f"backbone {self.name} has no tap {name!r}; its taps are {names}")

    def check_outputs(self, taps: Sequence[str], tokens: Tokens, *, head: bool, section: str = "") -> None:
        """Raises ValueError if the network lacks an output that the config asks for. If `tokens` is "class" or "both",
        the config asks for class tokens at `taps`. If `head` is true, it asks for the output `head` after the last tap.

        `section` is put before the name of the option in the message, for example `backbones.vit.`.
        """
        lacking = [name for name in taps if self.tap(name).class_token is None] if tokens != "patch" else []
        has_none = f"{', '.join(lacking)} of {self.name} has no class token"
        allowed = f"patch, because {has_none}. `tokens: patch` with `store: [pooled]` stores the mean of its map"
        need(not lacking, f"{section}tokens", tokens, allowed)
        allowed = f"false, because {self.name} has no output after its last tap"
        need(self.head_channels is not None or not head, f"{section}head", head, allowed)

    def head_shape(self, num_frames: int) -> tuple[int, ...]:
        """Returns the shape of the output `head` for a clip of `num_frames` frames, with C channels. The shape is
        (num_frames, C) for a network that sees each frame alone, and (C,) for a network that sees whole clips.
        """
        assert self.head_channels is not None
        return (num_frames, self.head_channels) if self.sees_single_frames else (self.head_channels,)

    def recorded_options(self, taps: Sequence[str]) -> dict[str, int | str]:
        """Returns {option of the network: value} for the options that the fingerprint of a cache covers. `taps` are the
        taps in the cache.
        """
        return dict(self.chosen)

    def choose(self, options: ModelOptions, weights: str) -> dict[str, int | str]:
        """Returns {option: value} of the options of the network that differ from the paper's values.

        A value in `options` is used as it is. Any other option has the value with which `weights` were trained. If the
        training is not known, or if `options` has `geometry: paper`, any other option has the paper's value. Raises
        ValueError if an option or a value does not exist.
        """
        for key, value in options.items():
            if key not in self.options:
                names = ", ".join(self.options) or "none"
                raise ValueError(f"backbone {self.name} has no option {key!r}; its options: {names}")
            if value not in self.options[key]:
                raise ValueError(f"{key}: given {value!r}, allowed: {', '.join(map(str, self.options[key]))}")
        source = known_source(weights, self.weights) if options.get(GEOMETRY) != PAPER else None
        wanted = {**(source.geometry if source else {}), **options}
        return {key: value for key, value in wanted.items() if key != GEOMETRY and value != self.options[key][0]}

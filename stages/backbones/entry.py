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
    """The size and the cost of a network with its classifier, as papers count them.

    `num_params` is the number of trainable parameters. `gmacs` is the number of multiplications for one clip, in
    billions. It counts convolutions, linear layers and attention. The clip has `num_frames` frames of `size` x `size`
    px. The classifier has `num_classes` classes. If there is no classifier, `num_classes` is 0.
    """

    num_params: int
    gmacs: float
    num_frames: int
    size: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """The description of the backbone `name` in the catalogue. `taps` are its taps. `weights` maps the names of its
    weights to their WeightSource. `counts` are its published parameter counts and costs, or None.

    The input is a square of `size` x `size` px, in RGB from 0 to 1, normalised by `mean` and `std`. A clip should have
    `min_frames` frames or more. `options` maps each option of the network to its allowed values, first the value of the
    paper. `chosen` maps an option to its value in this entry, if the paper has another value. `inflates` is the name of
    a 2D backbone, or None. The weights of that backbone can be turned into weights of this network (inflation).
    `sees` says whether the input is pictures (rgb) or optical flow.
    `sees_single_frames` is true if the maps of a frame depend on this frame alone.
    `head_channels` is the number of channels of the output `head`, which the network computes after its last tap. It is
    None if the network has no such output.
    `folder` is the path of the user's folder that describes the network, and `identity` has the options by which a
    fingerprint knows the network. Both are empty for other networks, which the fingerprint knows by their name.
    `remarks` are sentences for the user.
    """

    name: str
    taps: tuple[Tap, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Mapping[str, WeightSource] = field(default_factory=dict)
    counts: Counts | None = None
    options: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    chosen: ModelOptions = field(default_factory=dict)
    min_frames: int = 1
    inflates: str | None = None
    sees_single_frames: bool = False
    sees: Literal["rgb", "flow"] = "rgb"
    head_channels: int | None = None
    folder: str = ""
    identity: Mapping[str, int | str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def other_words(self) -> list[str]:
        """Returns additional forms of the option `weights` for this backbone, as a list of texts for an error message.

        The list has `inflate:...` if the weights can be made from those of a 2D network. Otherwise it is empty.
        """
        return [f"{INFLATE}<weights of {self.inflates}>"] if self.inflates else []

    def tap(self, name: str) -> Tap:
        """Returns the Tap with the name `name`. Raises ValueError with the list of taps if there is no such tap."""
        for tap in self.taps:
            if tap.name == name:
                return tap
        names = ", ".join(tap.name for tap in self.taps)
        raise ValueError(f"backbone {self.name} has no tap {name!r}; its taps are {names}")

    def check_outputs(self, taps: Sequence[str], tokens: Tokens, *, head: bool, section: str = "") -> None:
        """Raises ValueError if `tokens` asks for class tokens and the network has none at one of `taps`. Raises it also
        if `head` asks for an output that the network does not have.

        `section` is the prefix of the option in the message, such as `backbones.vit.`.
        """
        lacking = [name for name in taps if self.tap(name).class_token is None] if tokens != "patch" else []
        has_none = f"{', '.join(lacking)} of {self.name} has no class token"
        allowed = f"patch, because {has_none}. `tokens: patch` with `store: [pooled]` stores the mean of its map"
        need(not lacking, f"{section}tokens", tokens, allowed)
        allowed = f"false, because {self.name} has no output after its last tap"
        need(self.head_channels is not None or not head, f"{section}head", head, allowed)

    def head_shape(self, num_frames: int) -> tuple[int, ...]:
        """Returns the shape of the output `head` for a clip of `num_frames` frames. It is (T, C) for a network that
        sees each frame alone, with T frames and C channels, and (C,) for a network that sees whole clips.
        """
        assert self.head_channels is not None
        return (num_frames, self.head_channels) if self.sees_single_frames else (self.head_channels,)

    def recorded_options(self, taps: Sequence[str]) -> dict[str, int | str]:
        """Returns the options of the network that the fingerprint of a cache with `taps` covers, as option -> value."""
        return dict(self.chosen)

    def choose(self, options: ModelOptions, weights: str) -> dict[str, int | str]:
        """Returns the options of the network that differ from the paper's values, as option -> value.

        An option in `options` keeps its value. Any other option has the value with which `weights` were trained. If
        that value is not known, or with `geometry: paper` in `options`, it has the paper's value. Raises ValueError if
        an option or a value does not exist.
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

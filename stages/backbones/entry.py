"""Describes a backbone before it is built. Imports no torch, because plans are made from the description."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.weights.sources import WeightSource, known_source

ModelOptions = Mapping[str, int | str]
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
    `sees_single_frames` is true if the maps of a frame depend on this frame alone.
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

    def choose(self, options: ModelOptions, weights: str) -> dict[str, int | str]:
        """Returns the options of the network that differ from the paper's values, as option -> value.

        An option in `options` keeps its value. Any other option has the value with which `weights` were trained. If
        that value is not known, or with `geometry: paper` in `options`, it has the paper's value. Raises ValueError if
        an option or a value does not exist.
        """
        for key, value in options.items():
            if key not in self.options:
                raise ValueError(f"backbone {self.name} has no option {key!r}; its options are {[*self.options]}")
            if value not in self.options[key]:
                raise ValueError(f"{key}: given {value!r}, allowed: {', '.join(map(str, self.options[key]))}")
        source = known_source(weights, self.weights) if options.get(GEOMETRY) != PAPER else None
        wanted = {**(source.geometry if source else {}), **options}
        return {key: value for key, value in wanted.items() if key != GEOMETRY and value != self.options[key][0]}

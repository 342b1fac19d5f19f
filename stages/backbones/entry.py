"""Describes a backbone before it is built. Imports no torch, because plans are made from this."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.weights.sources import WeightSource, known_source

ModelOptions = Mapping[str, int | str]
GEOMETRY, AS_TRAINED, PAPER = "geometry", "as_trained", "paper"  # the option that sets defaults of other options
INFLATE = "inflate:"  # prefix of weights that are made from weights of a 2D network


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Size and cost of a network as papers count them: with its classifier, for one clip of the usual input.

    num_params: the number of trainable parameters.
    gmacs: 1e9 multiplications of convolutions, linear layers and attention.
    """

    num_params: int
    gmacs: float
    num_frames: int
    size: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """Describes a backbone as it is trained.

    The input is square, `size` px a side, RGB in 0..1, normalised by `mean` and `std`.

    options: choices of the geometry, the paper's value first, and `geometry` itself.
    chosen: options that differ from the paper's values.
    min_frames: the fewest frames of a clip for which the network makes sense.
    inflates: the 2D backbone whose weights fit this network after inflation.
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

    @property
    def other_words(self) -> list[str]:
        """Returns the words that `weights` may be besides names, files and `random:<seed>`, for messages."""
        return [f"{INFLATE}<weights of {self.inflates}>"] if self.inflates else []

    def tap(self, name: str) -> Tap:
        """Returns the tap of this name. Raises ValueError, with the list of taps, if there is no such tap."""
        for tap in self.taps:
            if tap.name == name:
                return tap
        names = ", ".join(tap.name for tap in self.taps)
        raise ValueError(f"backbone {self.name} has no tap {name!r}; its taps are {names}")

    def choose(self, options: ModelOptions, weights: str) -> dict[str, int | str]:
        """Returns the options that differ from the paper's values.

        `options` have priority. Other values are those in which `weights` were trained, where that is known. Raises
        ValueError for an option or value that does not exist.
        """
        for key, value in options.items():
            if key not in self.options:
                raise ValueError(f"backbone {self.name} has no option {key!r}; its options are {[*self.options]}")
            if value not in self.options[key]:
                raise ValueError(f"{key}: given {value!r}, allowed: {', '.join(map(str, self.options[key]))}")
        source = known_source(weights, self.weights) if options.get(GEOMETRY) != PAPER else None
        wanted = {**(source.geometry if source else {}), **options}
        return {key: value for key, value in wanted.items() if key != GEOMETRY and value != self.options[key][0]}

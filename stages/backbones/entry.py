"""What is known of a backbone before it is built. Imports no torch: plans are made from this."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.weights.sources import WeightSource, known_source

Options = Mapping[str, int | str]
GEOMETRY, AS_TRAINED, PAPER = "geometry", "as_trained", "paper"  # what the other options start from
INFLATE = "inflate:"  # before the name of weights of the 2D network that an entry inflates


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Size and cost of the network counted as in papers: with its classifier, for one clip of the usual input.

    num_params: all trainable numbers. gmacs: 1e9 multiplications of convolutions, linear layers and attention.
    """

    num_params: int
    gmacs: float
    num_frames: int
    size: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """A backbone as it is trained: square input of `size` px, RGB in 0..1 normalised by `mean` and `std`.

    options: what of its geometry can be chosen, the paper's first, and `geometry`. chosen: what differs from the
    paper's. min_frames: of a clip it makes sense for. inflates: the 2D backbone whose weights, inflated, fit it.
    """

    name: str
    taps: tuple[Tap, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Mapping[str, WeightSource] = field(default_factory=dict)
    counts: Counts | None = None
    options: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    chosen: Options = field(default_factory=dict)
    min_frames: int = 1
    inflates: str | None = None

    @property
    def other_words(self) -> list[str]:
        """What `weights` may be besides names, files and `random:<seed>`, for messages."""
        return [f"{INFLATE}<weights of {self.inflates}>"] if self.inflates else []

    def tap(self, name: str) -> Tap:
        """The tap of this name. Raises ValueError, listing the taps, if there is none."""
        for tap in self.taps:
            if tap.name == name:
                return tap
        known = ", ".join(tap.name for tap in self.taps)
        raise ValueError(f"backbone {self.name} has no tap {name!r}; its taps are {known}")

    def choose(self, options: Options, weights: str) -> dict[str, int | str]:
        """What differs from the paper: as `options` say, else as `weights` were trained where that is known.

        Raises ValueError for what cannot be chosen.
        """
        for key, value in options.items():
            if key not in self.options:
                raise ValueError(f"backbone {self.name} has no option {key!r}; its options are {[*self.options]}")
            if value not in self.options[key]:
                raise ValueError(f"{key}: given {value!r}, allowed: {', '.join(map(str, self.options[key]))}")
        source = known_source(weights, self.weights) if options.get(GEOMETRY) != PAPER else None
        wanted = {**(source.geometry if source else {}), **options}
        return {key: value for key, value in wanted.items() if key != GEOMETRY and value != self.options[key][0]}

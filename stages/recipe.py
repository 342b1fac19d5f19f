"""The half of a config that fingerprints cover: which clips, and what is made from them. Torch-free."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import framing_of
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.options import DatasetOptions
from kinegraph.stages.decode.wanted import Wanted
from kinegraph.stages.options import StageOptions, need
from kinegraph.stages.proposals.options import ProposalOptions
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.scene_graphs.options import GraphOptions

EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Recipe(StageOptions):
    """A section for each kind of stage; one that is not given is not extracted.

    The kinds themselves check that their sections fit together (`StageKind.check`).
    """

    dataset: DatasetOptions | None = None
    clips: ClipOptions = ClipOptions()
    backbones: dict[EntryName, BackboneOptions] = Field(default_factory=dict)
    proposals: ProposalOptions | None = None
    regions: RegionOptions | None = None
    graphs: GraphOptions | None = None

    def tap_of(self, name: str, tap: str) -> Tap:
        return self.entry_of(name).tap(tap)

    def entry_of(self, name: str) -> BackboneEntry:
        options = self.backbones[name]
        return entry(options.model, options.options, options.weights)

    def framing_of(self, name: str) -> Framing:
        """How frames become the square input of backbone entry `name`."""
        return framing_of(self.backbones[name], self.entry_of(name))

    def size_of(self, name: str) -> int:
        """Side of the square input of backbone entry `name`, px."""
        return self.framing_of(name).size

    def frame_step_of(self, name: str, tap: str) -> int:
        """Input frames per row of the time axis of a tap."""
        return self.backbones[name].every * self.tap_of(name, tap).temporal_stride

    def wanted(self, **more: Any) -> Wanted:
        """The frames of each clip, and what of `Wanted` a stage needs of them besides."""
        return Wanted(num_frames=self.clips.num_frames, short=self.clips.short, **more)

    def check_every(self, key: str, every: int) -> None:
        """Raise ValueError unless every k-th frame of a clip, as `key` asks for, are equally many of all clips."""
        frames = self.clips.num_frames
        need(frames % every == 0, key, every, f"a divisor of num_frames {frames}")

"""Defines the part of a config that fingerprints cover: the clips, and the stages made from them. Torch-free."""

from pathlib import Path
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
from kinegraph.stages.tracks.options import TrackOptions

EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Recipe(StageOptions):
    """The sections of a config that describe stages, one for each kind of stage.

    A stage without a section is not extracted. Each kind checks that its section fits the other sections
    (`StageKind.check`).
    """

    dataset: DatasetOptions | None = None
    clips: ClipOptions = ClipOptions()
    backbones: dict[EntryName, BackboneOptions] = Field(default_factory=dict)
    proposals: ProposalOptions | None = None
    regions: RegionOptions | None = None
    graphs: GraphOptions | None = None
    tracks: TrackOptions | None = None

    def document(self) -> dict[str, Any]:
        """Returns the sections of the recipe as the config states them, without the data set. Paths of weight files
        become absolute.
        """
        sections = self.model_dump(mode="json", include={*Recipe.model_fields} - {"dataset"}, exclude_unset=True)
        for options in (*sections.get("backbones", {}).values(), sections.get("proposals") or {}):
            if Path(weights := options.get("weights") or "").is_file():
                options["weights"] = str(Path(weights).resolve())
        return sections

    def tap_of(self, name: str, tap: str) -> Tap:
        """Returns the tap `tap` of the backbone entry `name`. A tap is a named layer whose output is stored.

        Raises ValueError for a tap that the backbone does not have.
        """
        return self.entry_of(name).tap(tap)

    def entry_of(self, name: str) -> BackboneEntry:
        """Returns the catalogue entry of the network that the backbone entry `name` of the config uses."""
        options = self.backbones[name]
        return entry(options.model, options.options, options.weights)

    def framing_of(self, name: str) -> Framing:
        """Returns how a frame becomes the square input of the backbone entry `name`."""
        return framing_of(self.backbones[name], self.entry_of(name))

    def size_of(self, name: str) -> int:
        """Returns the side of the square input of the backbone entry `name`, in px."""
        return self.framing_of(name).size

    def frame_step_of(self, name: str, tap: str) -> int:
        """Returns how many sampled frames one step of the time axis stands for, in the output of the tap `tap` of
        `name`.
        """
        return self.backbones[name].every * self.tap_of(name, tap).temporal_stride

    def wanted(self, **more: Any) -> Wanted:
        """Returns the frames that a stage needs of each clip. `more` has the fields of `Wanted` that are special to the
        stage.
        """
        return Wanted(num_frames=self.clips.num_frames, short=self.clips.short, **more)

    def check_every(self, key: str, every: int) -> None:
        """Raises ValueError unless `every` divides the number of frames of a clip.

        `key` is the option of the config that has the value `every`.
        """
        frames = self.clips.num_frames
        need(frames % every == 0, key, every, f"a divisor of num_frames {frames}")

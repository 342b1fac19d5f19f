"""Defines the part of a config that fingerprints cover: the clips, and the stages made from them. Torch-free."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import framing_of
from kinegraph.stages.backbones.taps import Tap, spread_frames
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.options import DatasetOptions
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.decode.wanted import Square, Wanted
from kinegraph.stages.options import StageOptions, need
from kinegraph.stages.proposals.options import ProposalOptions
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.scene_graphs.options import GraphOptions
from kinegraph.stages.tracks.options import TrackOptions
from kinegraph.stages.weights.transformers_files import absolute

EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Recipe(StageOptions):
    """The part of a config that says what an extraction computes: the data set, the clips, and one section for each
    kind of stage (`backbones`, `proposals`, ...). A kind of stage without a section is not extracted.
    """

    dataset: DatasetOptions | None = None
    clips: ClipOptions = ClipOptions()
    backbones: dict[EntryName, BackboneOptions] = Field(default_factory=dict)
    proposals: ProposalOptions | None = None
    regions: RegionOptions | None = None
    graphs: GraphOptions | None = None
    tracks: TrackOptions | None = None

    def document(self) -> dict[str, Any]:
        """Returns the sections as a dictionary, {section: {option: value}}, without the section `dataset`.

        The dictionary has only the options that the config sets. Paths of weight files and of the folders of networks
        are absolute.
        """
        sections = self.model_dump(mode="json", include={*Recipe.model_fields} - {"dataset"}, exclude_unset=True)
        for options in (*sections.get("backbones", {}).values(), sections.get("proposals") or {}):
            if Path(weights := options.get("weights") or "").is_file():
                options["weights"] = str(Path(weights).resolve())
            if "model" in options:
                options["model"] = absolute(options["model"])
        return sections

    def tap_of(self, name: str, tap: str) -> Tap:
        """Returns the Tap `tap` of the backbone that the config has under `backbones.<name>`. A tap is a named layer of
        a network, whose output (maps) can be stored.

        Raises ValueError if the backbone does not have the tap.
        """
        return self.entry_of(name).tap(tap)

    def entry_of(self, name: str) -> BackboneEntry:
        """Returns the BackboneEntry of the backbone that the config has under `backbones.<name>`. A BackboneEntry is
        the description of a network in the catalogue.
        """
        options = self.backbones[name]
        return entry(options.model, options.options, options.weights)

    def framing_of(self, name: str) -> Framing:
        """Returns the Framing of the backbone that the config has under `backbones.<name>`. A Framing says how video
        frames are resized and cut to the square input of a network.
        """
        return framing_of(self.backbones[name], self.entry_of(name))

    def square_of(self, name: str) -> Square:
        """Returns the Square of the backbone that the config has under `backbones.<name>`. A Square says how video
        frames are resized and cut to the input of the network, and which frames of a clip the network takes.
        """
        of_flow = self.entry_of(name).sees == "flow"
        return Square(**asdict(self.framing_of(name)), every=self.backbones[name].every, of_flow=of_flow)

    def size_of(self, name: str) -> int:
        """Returns the side, in px, of the square input of the backbone that the config has under `backbones.<name>`."""
        return self.framing_of(name).size

    def frame_step_of(self, name: str, tap: str) -> int:
        """Returns the distance between neighbouring maps of a tap, in frames of the clip. The tap is `tap` of the
        backbone that the config has under `backbones.<name>`.

        For example, the result is 4 if the backbone takes every second frame (its option `every` is 2) and its layers
        halve the number of frames.
        """
        return self.backbones[name].every * self.tap_of(name, tap).temporal_stride

    def frame_index_of(self, name: str, tap: str) -> tuple[int, ...] | None:
        """Returns one number for each map of a tap: the index, from 0, of the frame of the clip to which the map
        belongs. Returns None if the maps are equally far apart. The tap is `tap` of the backbone that the config has
        under `backbones.<name>`.
        """
        known, step = self.tap_of(name, tap), self.frame_step_of(name, tap)
        num_maps, every = self.clips.num_frames // step, self.backbones[name].every
        if not known.is_spread:
            return None
        return tuple(every * frame for frame in spread_frames(num_maps * known.temporal_stride, num_maps))

    def wanted(self, **more: Any) -> Wanted:
        """Returns a Wanted, which says which frames of each clip a stage needs. The values of the Wanted come from the
        section `clips`.

        `more` sets further fields of the Wanted, for example `numbered=True` for a stage that needs the numbers of
        frames.
        """
        clips, has_windows = self.clips, self.clips.has_windows
        return Wanted(
            num_frames=clips.num_frames,
            short="fail" if clips.is_annotated else clips.short,  # the last frame of a video is not an annotated one
            may_repeat=has_windows or clips.is_annotated,
            overlapping=has_windows,
            torchcodec_device=clips.torchcodec_device,
            **more,
        )

    def check_annotated(self, key: str) -> None:
        """Raises ValueError if the data set is not Action Genome, or if the clips do not consist of its annotated
        frames.

        `key` is the option of the config that needs annotated frames. The message starts with `key`.
        """
        has_frames = self.clips.is_annotated and isinstance(self.dataset, ActionGenomeOptions)
        need(has_frames, key, "action_genome", "only with dataset.kind action_genome and clips.sampling annotated")

    def check_every(self, key: str, every: int) -> None:
        """Raises ValueError if `every` does not divide the number of frames of a clip.

        `key` is the option of the config that has the value `every`. The message starts with `key`.
        """
        frames = self.clips.num_frames
        need(frames % every == 0, key, every, f"a divisor of num_frames {frames}")

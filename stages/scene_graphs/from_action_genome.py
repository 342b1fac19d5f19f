"""Makes the scene graphs of clips from the annotations of Action Genome. Imports no torch."""

from pathlib import PurePosixPath

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.action_genome.errors import ReleaseError
from kinegraph.stages.action_genome.frames import VOCABULARY, GenomeFrame, GenomeFrames
from kinegraph.stages.action_genome.release import open_release
from kinegraph.stages.scene_graphs.options import ActionGenomeGraphOptions
from kinegraph.stages.scene_graphs.source import ClipGraphs, GraphError


class GenomeGraphs:
    """The scene graphs of Action Genome, for clips that consist of annotated frames. Graph i of a clip describes frame
    i. If a short clip repeats its last frame, the repeated frames have no graph.

    `options` are the options of scene graphs. `folder` has the two pickles with the annotations, which are read at the
    first call of `graphs`.
    """

    def __init__(self, options: ActionGenomeGraphOptions, folder: str) -> None:
        self.options, self.folder = options, folder
        names = options.vocabulary.relations
        all_names = enumerate(VOCABULARY.relations)
        self._number_of = {number: names.index(name) for number, name in all_names if name in names}

    def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
        try:
            frames = open_release(self.folder)
        except ReleaseError as error:
            raise GraphError("unreadable", str(error)) from error
        out = ClipGraphs.empty(self.options.shape(len(frame_times)))
        for t, number in enumerate(dict.fromkeys(row.target_frames or ())):
            out.times[t] = max(0.0, frame_times[t] - row.start_seconds)
            self._fill(out, t, annotated_frame(frames, row, number))
        return out

    def _fill(self, out: ClipGraphs, t: int, frame: GenomeFrame) -> None:
        """Writes the visible objects of `frame` to graph number `t` of `out`. Raises GraphError if the frame shows more
        objects than the option `max_objects` allows.
        """
        visible = [listed for listed in frame.objects if listed.is_visible]
        if len(visible) > self.options.max_objects:
            raise GraphError(
                "unreadable",
                f"frame {frame.number} shows {counted(len(visible), 'object')}, graphs.max_objects is "
                f"{self.options.max_objects}: raise it",
            )
        out.count[t] = len(visible)
        for place, listed in enumerate(visible):
            out.objects[t, place] = listed.class_number
            out.linked[t, place] = bool(listed.relations)
            out.relations[t, place, [self._number_of[r] for r in listed.relations if r in self._number_of]] = 1


def annotated_frame(frames: GenomeFrames, row: ClipRow, number: int) -> GenomeFrame:
    """Returns the annotations of the frame `number`, counted from 0, of the video of `row`. `frames` has all annotated
    frames.

    Raises GraphError if the frame is not annotated, which means that the annotations have changed since `kinegraph
    index` ran.
    """
    frame = frames.frame(PurePosixPath(row.video_name).stem, number + 1)
    if frame is None:
        raise GraphError("missing", f"frame {number + 1} of {row.video_name} is not annotated now, as it was for index")
    return frame

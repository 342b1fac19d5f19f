"""Makes the scene graphs of clips from the user's files, one file per video. Imports no torch.

A clip gets the graphs whose time lies between the start and the end of the clip.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.scene_graphs.graph_files import FrameGraph, GraphFileError, read_graphs
from kinegraph.stages.scene_graphs.options import GraphFileOptions
from kinegraph.stages.scene_graphs.source import ClipGraphs, GraphError

log = logging.getLogger("kinegraph")


class FileGraphs:
    """The scene graphs in the user's files, one file per video. The option `files` has the pattern of their paths.

    The graphs of the last file stay in memory, because the clips of one video usually follow each other.
    """

    def __init__(self, options: GraphFileOptions) -> None:
        self.options = options
        self._last: tuple[str, tuple[FrameGraph, ...]] | None = None
        self._has_thinned = False

    def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
        path = self.options.file_of(row.video_name)
        try:
            frames = self._read(path)
        except FileNotFoundError:
            raise GraphError("missing", f"no file of scene graphs {path} for {row.video_name}") from None
        except (GraphFileError, OSError) as error:
            raise GraphError("unreadable", f"file of scene graphs {path} of {row.video_name}: {error}") from error
        within = [frame for frame in frames if row.start_seconds <= frame.seconds < row.end_seconds]
        if len(within) > self.options.max_frames and not self._has_thinned:
            self._has_thinned = True
            log.warning(
                "%s has %d scene graphs, of which graphs.max_frames takes %d, evenly spaced. Others may have too many "
                "as well; this is said once.", row.clip_id, len(within), self.options.max_frames,
            )  # fmt: skip
        return self._arrays(evenly_spaced(within, self.options.max_frames), row.start_seconds)

    def _read(self, path: str) -> tuple[FrameGraph, ...]:
        if self._last is None or self._last[0] != path:
            self._last = path, read_graphs(Path(path), self.options)
        return self._last[1]

    def _arrays(self, frames: Sequence[FrameGraph], start_seconds: float) -> ClipGraphs:
        out = ClipGraphs.empty(self.options.shape(0))
        for t, frame in enumerate(frames):
            out.times[t] = frame.seconds - start_seconds
            out.count[t] = len(frame.objects)
            for place, listed in enumerate(frame.objects):
                out.objects[t, place] = listed.class_number
                out.linked[t, place] = listed.relations is not None
                out.relations[t, place, list(listed.relations or ())] = 1
        return out


def evenly_spaced(frames: Sequence[FrameGraph], most: int) -> Sequence[FrameGraph]:
    """Returns `most` evenly spaced graphs of `frames`, or all of them if there are not more than `most`. For example,
    the result has the graphs 1, 3 and 5 of 6 graphs if `most` is 3.

    The selection has the graphs with the numbers floor((i + 0.5) n / most), for i from 0 to `most` - 1 and n graphs.
    """
    if len(frames) <= most:
        return frames
    return [frames[(2 * i + 1) * len(frames) // (2 * most)] for i in range(most)]

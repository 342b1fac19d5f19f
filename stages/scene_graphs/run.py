"""Writes the scene graphs of clips from a source to the cache. Imports no torch."""

from collections.abc import Callable

from kinegraph.stages.datasets.options import DatasetOptions
from kinegraph.stages.scene_graphs.options import GraphOptions
from kinegraph.stages.scene_graphs.source import GraphError
from kinegraph.stages.scene_graphs.sources import build_graph_source
from kinegraph.stages.stage import StageBatch


class GraphRunner:
    """The runner of the stage `graphs`. It gets the scene graphs of each clip from one source and writes them to the
    cache. If the source cannot return the graphs of a clip, the clip is marked as failed.
    """

    digest = ""

    def __init__(
        self, options: GraphOptions, dataset: DatasetOptions | None, file_of: Callable[[str], str] | None
    ) -> None:
        """Builds the source of scene graphs that `options` and `dataset`, the options of the data set, describe.
        `file_of` maps the id of a video to the path of the file that the source reads. It is None if the source reads
        no files.
        """
        self._file_of, self._source = file_of, build_graph_source(options, dataset)

    def run(self, batch: StageBatch) -> None:
        for slot in batch.slots:
            row = batch.rows[slot]
            batch.note_file(slot, self._file_of(row.video_name) if self._file_of else None)
            try:
                graphs = self._source.graphs(row, batch.clip(slot).frame_times)
            except GraphError as error:
                batch.fail(slot, error.reason, error.detail)
                continue
            for name, values in vars(graphs).items():
                batch.write(f"graphs/{name}", [slot], values[None])

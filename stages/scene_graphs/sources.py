"""Builds the source of scene graphs that a config names. Imports no torch."""

from kinegraph.stages.datasets.options import DatasetOptions, InteractionsOptions
from kinegraph.stages.scene_graphs.from_files import FileGraphs
from kinegraph.stages.scene_graphs.from_interactions import InteractionGraphs
from kinegraph.stages.scene_graphs.options import GraphFileOptions, GraphOptions
from kinegraph.stages.scene_graphs.source import GraphSource


def build_graph_source(options: GraphOptions, dataset: DatasetOptions | None) -> GraphSource:
    """Returns the GraphSource (the source of scene graphs) that `options` describe.

    `dataset` has the options of the data set. It is needed only for scene graphs with `source: interactions`, and must
    then be an InteractionsOptions.
    """
    if isinstance(options, GraphFileOptions):
        return FileGraphs(options)
    assert isinstance(dataset, InteractionsOptions)
    return InteractionGraphs(options, dataset.seed)

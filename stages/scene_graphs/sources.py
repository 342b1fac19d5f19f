"""Builds the source of scene graphs that a config names. Imports no torch."""

from kinegraph.stages.datasets.options import DatasetOptions, InteractionsOptions
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.scene_graphs.from_action_genome import GenomeGraphs
from kinegraph.stages.scene_graphs.from_files import FileGraphs
from kinegraph.stages.scene_graphs.from_interactions import InteractionGraphs
from kinegraph.stages.scene_graphs.options import ActionGenomeGraphOptions, GraphFileOptions, GraphOptions
from kinegraph.stages.scene_graphs.source import GraphSource


def build_graph_source(options: GraphOptions, dataset: DatasetOptions | None) -> GraphSource:
    """Returns the source that `options` describe. Its method `graphs` returns the scene graphs of a clip.

    `dataset` has the options of the data set. With `source: interactions`, it must be an InteractionsOptions. With
    `source: action_genome`, it must be an ActionGenomeOptions. With `source: file`, it may be None.
    """
    if isinstance(options, GraphFileOptions):
        return FileGraphs(options)
    if isinstance(options, ActionGenomeGraphOptions):
        assert isinstance(dataset, ActionGenomeOptions)
        return GenomeGraphs(options, dataset.annotations)
    assert isinstance(dataset, InteractionsOptions)
    return InteractionGraphs(options, dataset.seed)

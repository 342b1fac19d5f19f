"""Builds the source of proposals that a config names, such as a network, a file of boxes or a grid.

torchvision takes nearly as long to import as torch, so the sources with a network are imported where they are built.
"""

from collections.abc import Callable
from typing import Any

import torch

from kinegraph.stages.datasets.options import DatasetOptions
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.proposals.from_action_genome import GenomeBoxes
from kinegraph.stages.proposals.from_files import FileSource
from kinegraph.stages.proposals.grid import GridSource
from kinegraph.stages.proposals.options import (
    ActionGenomeBoxOptions,
    CheckpointOptions,
    Detectron2Options,
    FileOptions,
    GridOptions,
    ProposalOptions,
    TinyOptions,
    TorchvisionOptions,
    TransformersOptions,
)
from kinegraph.stages.proposals.source import ProposalSource


def _network(options: Any, device: torch.device, dataset: DatasetOptions | None) -> ProposalSource:
    from kinegraph.stages.proposals.from_networks import NetworkSource

    return NetworkSource(options, device)


def _detectron2(options: Detectron2Options, device: torch.device, dataset: DatasetOptions | None) -> ProposalSource:
    from kinegraph.stages.proposals.from_detectron2 import Detectron2Source

    return Detectron2Source(options, device)


def _transformers(options: TransformersOptions, device: torch.device, dataset: DatasetOptions | None) -> ProposalSource:
    from kinegraph.stages.proposals.from_transformers import TransformersSource

    return TransformersSource(options, device)


def _genome_boxes(options: ActionGenomeBoxOptions, device: torch.device, dataset: DatasetOptions | None) -> GenomeBoxes:
    assert isinstance(dataset, ActionGenomeOptions)
    return GenomeBoxes(options, dataset.annotations)


SOURCES: dict[type, Callable[[Any, torch.device, DatasetOptions | None], ProposalSource]] = {
    TorchvisionOptions: _network,
    TinyOptions: _network,
    CheckpointOptions: _network,
    Detectron2Options: _detectron2,
    TransformersOptions: _transformers,
    FileOptions: lambda options, device, dataset: FileSource(options),
    GridOptions: lambda options, device, dataset: GridSource(options),
    ActionGenomeBoxOptions: _genome_boxes,
}


def build_source(
    options: ProposalOptions, device: torch.device, dataset: DatasetOptions | None = None
) -> ProposalSource:
    """Returns the ProposalSource that `options` name, with its network loaded. A worker process calls this function
    once. `dataset` has the options of the data set, which only the source `action_genome` needs.

    Raises WeightsError if weights cannot be read or do not belong to the network. Raises UsageError if a package is
    missing, or if the source cannot run with these options on `device`.
    """
    return SOURCES[type(options)](options, device, dataset)

"""Builds the source that the `proposals` section of a config names. SOURCES has one line per source."""

from collections.abc import Callable
from typing import Any

import torch

from kinegraph.stages.proposals.from_detectron2 import Detectron2Source
from kinegraph.stages.proposals.from_files import FileSource
from kinegraph.stages.proposals.from_networks import NetworkSource
from kinegraph.stages.proposals.grid import GridSource
from kinegraph.stages.proposals.options import (
    CheckpointOptions,
    Detectron2Options,
    FileOptions,
    GridOptions,
    ProposalOptions,
    TinyOptions,
    TorchvisionOptions,
)
from kinegraph.stages.proposals.source import ProposalSource

SOURCES: dict[type, Callable[[Any, torch.device], ProposalSource]] = {
    TorchvisionOptions: NetworkSource,
    TinyOptions: NetworkSource,
    CheckpointOptions: NetworkSource,
    Detectron2Options: Detectron2Source,
    FileOptions: lambda options, device: FileSource(options),
    GridOptions: lambda options, device: GridSource(options),
}


def build_source(options: ProposalOptions, device: torch.device) -> ProposalSource:
    """Returns the source, with its networks loaded.

    Call it once per worker process. Raises WeightsError, UsageError.
    """
    return SOURCES[type(options)](options, device)

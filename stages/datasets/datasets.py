"""The table of data sets: which function lists the videos of which options. Torch-free."""

from collections.abc import Callable, Mapping
from typing import Any

from kinegraph.stages.datasets.folder import list_folder
from kinegraph.stages.datasets.interactions import list_interactions
from kinegraph.stages.datasets.listing import Listing, Progress
from kinegraph.stages.datasets.options import DatasetOptions, FolderOptions, InteractionsOptions, SyncMnistOptions
from kinegraph.stages.datasets.sync_mnist import list_sync_mnist

LISTERS: Mapping[type, Callable[[Any, Progress | None, int], Listing]] = {
    FolderOptions: list_folder,
    InteractionsOptions: list_interactions,
    SyncMnistOptions: list_sync_mnist,
}


def list_videos(options: DatasetOptions, progress: Progress | None = None, *, tries: int = 1) -> Listing:
    """List a data set; a generated one is made first where it is missing.

    `progress` gets the number of videos made since its last call. A URL is asked `tries` times while the network fails.

    Raises DatasetError for a missing folder or csv, a csv without the columns, labels that the options do not allow, or
    no video at all; for a URL also what `Remote` does.
    """
    return LISTERS[type(options)](options, progress, tries)

"""Lists the videos of a data set of any kind. A table maps the class of the options to the lister. Torch-free."""

from collections.abc import Callable, Mapping
from typing import Any

from kinegraph.stages.datasets.action_genome import list_action_genome
from kinegraph.stages.datasets.activitynet import list_activitynet
from kinegraph.stages.datasets.charades import list_charades
from kinegraph.stages.datasets.folder import list_folder
from kinegraph.stages.datasets.hmdb51 import list_hmdb51
from kinegraph.stages.datasets.interactions import list_interactions
from kinegraph.stages.datasets.json_list import list_json
from kinegraph.stages.datasets.kinetics import list_kinetics
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.options import DatasetOptions, FolderOptions, InteractionsOptions, SyncMnistOptions
from kinegraph.stages.datasets.owners_options import (
    ActionGenomeOptions,
    ActivityNetOptions,
    CharadesOptions,
    Hmdb51Options,
    JsonOptions,
    KineticsOptions,
    SomethingSomethingOptions,
    Thumos14Options,
    Ucf101Options,
)
from kinegraph.stages.datasets.something_something import list_something_something
from kinegraph.stages.datasets.sync_mnist import list_sync_mnist
from kinegraph.stages.datasets.thumos14 import list_thumos14
from kinegraph.stages.datasets.ucf101 import list_ucf101

LISTERS: Mapping[type, Callable[[Any, OnVideosMade | None, int], Listing]] = {
    CharadesOptions: list_charades,
    FolderOptions: list_folder,
    InteractionsOptions: list_interactions,
    SyncMnistOptions: list_sync_mnist,
    Ucf101Options: list_ucf101,
    ActivityNetOptions: list_activitynet,
    Thumos14Options: list_thumos14,
    JsonOptions: list_json,
    SomethingSomethingOptions: list_something_something,
    KineticsOptions: list_kinetics,
    Hmdb51Options: list_hmdb51,
    ActionGenomeOptions: list_action_genome,
}


def list_videos(options: DatasetOptions, progress: OnVideosMade | None = None, *, tries: int = 1) -> Listing:
    """Returns the Listing of a data set: its videos, labels and splits. A generated data set is made first if it is
    missing.

    - `options`: the config section `dataset`.
    - `progress`: called with the number of videos that were generated since its last call.
    - `tries`: the number of requests for a URL if the network fails.

    Raises DatasetError if a folder or label file is missing or wrong, or if there is no video. Raises NetworkError,
    CredentialsError or UnknownStorage if a URL cannot be read.
    """
    return LISTERS[type(options)](options, progress, tries)

"""Lists the videos of SyncMNIST, a generated data set of moving digits. Torch-free."""

import os
from pathlib import Path

from kinegraph.stages.datasets.folder import entries_of_csv
from kinegraph.stages.datasets.listing import Listing, OnVideosMade, listing_of
from kinegraph.stages.datasets.options import SyncMnistOptions
from kinegraph.stages.generated.sync_mnist import classes, generate


def list_sync_mnist(options: SyncMnistOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos below `options.root`. Videos that are missing are generated first.

    `progress` is called with the number of videos that were generated since its last call. `tries` is not used.
    """
    generate(options, workers=os.cpu_count() or 1, progress=progress)
    entries = entries_of_csv(options.root, str(Path(options.root, "annotations.csv")))
    return listing_of(entries, {}, classes(options.digit_values))

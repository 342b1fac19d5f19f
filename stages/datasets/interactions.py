"""Lists the videos of the generated data set of the demo. Torch-free."""

import os
from pathlib import Path

from kinegraph.stages.datasets.folder import list_folder
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.options import FolderOptions, InteractionsOptions
from kinegraph.stages.generated.interactions import generate

SPLITS = ("train", "val", "test")


def list_interactions(options: InteractionsOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos below `options.root`. Videos that are missing are generated first.

    `progress` is called with the number of videos that were generated since its last call. `tries` is not used.
    """
    root = Path(options.root)
    counts = {split: getattr(options, split) for split in SPLITS}
    generate(root, videos=counts, seed=options.seed, workers=os.cpu_count() or 1, progress=progress)
    return list_folder(FolderOptions(kind="folder", root=str(root), annotations=str(root / "annotations.csv")))

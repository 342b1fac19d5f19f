"""Chooses the reader for the features at a path. Torch-free."""

from collections.abc import Callable
from pathlib import Path

import h5py

from kinegraph.cache_schemas.regular import NotRegularError, require_regular
from kinegraph.stages.imports.bottom_up import BottomUpFiles, BottomUpFrames, are_frames
from kinegraph.stages.imports.features import FeatureFileError, FeatureFiles
from kinegraph.stages.imports.hdf5_file import Hdf5File
from kinegraph.stages.imports.npy_files import NpyFiles

KINDS: dict[str, Callable[[Path, str | None], FeatureFiles]] = {
    "npy": lambda path, dataset: NpyFiles(path),
    "hdf5": Hdf5File,
    "bottom_up": lambda path, dataset: BottomUpFiles(path),
    "bottom_up_frames": lambda path, dataset: BottomUpFrames(path),
}


def open_features(path: Path, kind: str | None = None, dataset: str | None = None) -> FeatureFiles:
    """Returns a FeatureFiles for the features at `path`, which is a folder or an HDF5 file.

    `kind` is a key of KINDS, such as "npy". None means the kind that the files show. `dataset` is the last part of the
    name of each video's dataset in an HDF5 file (`features` in `walk/1/features`). Raises FeatureFileError if there is
    nothing to read, or if `kind` or `dataset` does not fit the path. Raises it also if the files show several kinds and
    `kind` is None.
    """
    if not path.exists():
        raise FeatureFileError(f"no {path} (looked from {Path.cwd()})")
    if not path.is_dir():
        try:
            require_regular(path)
        except NotRegularError as error:
            raise FeatureFileError(str(error)) from error
    kind = kind or recognised(path)
    if (kind == "hdf5") != path.is_file():
        is_a, needed = ("file", "folder") if path.is_file() else ("folder", "file")
        raise FeatureFileError(f"{path} is a {is_a}, and --kind {kind} needs a {needed}")
    if dataset is not None and kind != "hdf5":
        raise FeatureFileError(f"--dataset {dataset}: {path} is {kind}, not hdf5")
    files = KINDS[kind](path, dataset)
    if not files.videos():
        raise FeatureFileError(f"{path} has nothing to import as {kind}")
    return files


def recognised(path: Path) -> str:
    """Returns the kind of the feature files at `path`: "hdf5", "npy", "bottom_up" or "bottom_up_frames".

    Raises FeatureFileError if the files are of no known kind, or of more than one.
    """
    if path.is_file():
        if h5py.is_hdf5(path):
            return "hdf5"
        raise FeatureFileError(f"{path} is not an HDF5 file; name a folder of .npy or .npz files, or an HDF5 file")
    npy, npz = (next(path.rglob(f"*.{ending}"), None) for ending in ("npy", "npz"))
    if npy and npz:
        raise FeatureFileError(f"{path} has .npy files ({npy}) and .npz files ({npz}); choose by --kind")
    if npz:
        return "bottom_up_frames" if are_frames(path) else "bottom_up"
    if npy:
        return "npy"
    raise FeatureFileError(f"{path} has neither .npy nor .npz files; an HDF5 file is named itself")

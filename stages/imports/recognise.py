"""Chooses the class that reads the feature files at a path. Torch-free."""

from collections.abc import Callable
from pathlib import Path

import h5py

from kinegraph.cache_schemas.regular import NotRegularError, require_regular
from kinegraph.stages.imports.bottom_up import BottomUpFiles, BottomUpFrames, are_frames
from kinegraph.stages.imports.features import FeatureFileError, FeatureFiles
from kinegraph.stages.imports.hdf5_file import Hdf5File
from kinegraph.stages.imports.npy_files import NpyFiles
from kinegraph.stages.imports.pt_files import SUFFIXES, PtFiles
from kinegraph.stages.imports.tar_files import TAR, TarFiles

KINDS: dict[str, Callable[[Path, str | None], FeatureFiles]] = {
    "npy": lambda path, dataset: NpyFiles(path),
    "hdf5": Hdf5File,
    "bottom_up": lambda path, dataset: BottomUpFiles(path),
    "bottom_up_frames": lambda path, dataset: BottomUpFrames(path),
    "pt": PtFiles,
    "webdataset": TarFiles,
}
OF_FILES = ("hdf5", "webdataset")  # kinds that are one file
OF_DATASETS = ("hdf5", "pt", "webdataset")  # kinds that take --dataset


def open_features(path: Path, kind: str | None = None, dataset: str | None = None) -> FeatureFiles:
    """Returns an object that reads the features at `path` (a FeatureFiles). `path` is a folder, an HDF5 file or a tar
    file.

    - `kind`: a key of KINDS, such as "npy". None means that the kind is recognised from the files.
    - `dataset`: chooses one array if a video has several. In HDF5: the last part of the dataset's name, such as
      "features". In a .pt file: the key of the tensor. In a tar file: the name of the file after the key of the sample,
      such as "features.npy".

    Raises FeatureFileError if there is nothing to read, if `kind` or `dataset` does not fit the path, or if the files
    are of several kinds and `kind` is None.
    """
    if not path.exists():
        raise FeatureFileError(f"no {path} (looked from {Path.cwd()})")
    if not path.is_dir():
        try:
            require_regular(path)
        except NotRegularError as error:
            raise FeatureFileError(str(error)) from error
    kind = kind or recognised(path)
    if (kind == "hdf5" and path.is_dir()) or (kind not in OF_FILES and path.is_file()):
        is_a, needed = ("file", "folder") if path.is_file() else ("folder", "file")
        raise FeatureFileError(f"{path} is a {is_a}, and --kind {kind} needs a {needed}")
    if dataset is not None and kind not in OF_DATASETS:
        raise FeatureFileError(f"--dataset {dataset}: {path} is {kind}, not {', '.join(OF_DATASETS)}")
    files = KINDS[kind](path, dataset)
    if not files.videos():
        raise FeatureFileError(f"{path} has nothing to import as {kind}")
    return files


def recognised(path: Path) -> str:
    """Returns the kind of the feature files at `path`, a key of KINDS such as "npy".

    Raises FeatureFileError if the files are of no known kind, or of several kinds.
    """
    if path.is_file():
        if h5py.is_hdf5(path):
            return "hdf5"
        if path.suffix == TAR:
            return "webdataset"
        raise FeatureFileError(
            f"{path} is not an HDF5 file and not .tar; name a folder of .npy, .npz, .pt or .tar files, or an HDF5 file"
        )
    found = {ending: next(path.rglob(f"*{ending}"), None) for ending in (".npy", ".npz", *SUFFIXES, TAR)}
    kinds = {".npy": "npy", ".npz": "npz", TAR: "webdataset"} | dict.fromkeys(SUFFIXES, "pt")
    files = {kinds[ending]: file for ending, file in found.items() if file}
    if len(files) > 1:
        text = " and ".join(f"files of {file.suffix} ({file})" for file in files.values())
        raise FeatureFileError(f"{path} has {text}; choose by --kind")
    if not files:
        raise FeatureFileError(f"{path} has no .npy, .npz, .pt, .pth or .tar files; an HDF5 file is named itself")
    if "npz" in files:
        return "bottom_up_frames" if are_frames(path) else "bottom_up"
    return next(iter(files))

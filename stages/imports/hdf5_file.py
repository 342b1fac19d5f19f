"""Reads one HDF5 file that has a dataset or a group for each video. Torch-free.

The program hloc, which computes features of images, writes files with a group for each image.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import xxhash

from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.words import first_of
from kinegraph.stages.datasets.folders import VIDEO_SUFFIXES
from kinegraph.stages.imports.features import FeatureFileError, UnusableError, VideoFeatures, as_features
from kinegraph.stages.number_files import ArrayFileError, require_expansion, require_plain


class Hdf5File:
    """Reads the features of videos from one HDF5 file with one dataset per video. A dataset is [C], [T, C] or [T, C, H,
    W].

    The id of a video is the path of its dataset. If all paths end with the same name, the id lacks this name:
    `walk/1/features` -> `walk/1`. If a video has several datasets, such as `walk/1/features` and `walk/1/logits`,
    `dataset` names the one to read: "features". If `dataset` is ".", every dataset is a video. Links are not followed.
    """

    kind = "hdf5"

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.path, self.dataset = path, dataset

    def videos(self) -> Sequence[str]:
        return sorted(self._names)

    def where(self, video: str) -> str:
        return f"{self.path}:{self._names[video]}"

    def source(self, video: str) -> Source:
        """Returns the Source that identifies the features of a video: the size of the values in bytes, the time of
        change of the HDF5 file, and a digest of the type, the shape and the values of the dataset. The digest does not
        depend on chunks or compression.
        """
        try:
            array = self._array(video)
        except UnusableError:
            array = np.empty(0)
        digest = xxhash.xxh3_128(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
        return Source(size=array.nbytes, mtime_ns=self.path.stat().st_mtime_ns, digest=digest.hexdigest())

    def read(self, video: str) -> VideoFeatures:
        return as_features(self._array(video), self.where(video))

    def _array(self, video: str) -> np.ndarray:
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                dataset = file[self._names[video]]
                _require_own_values(dataset, self.path.stat().st_size)
                values: np.ndarray = np.asarray(dataset[()])
        except (OSError, RuntimeError, ArrayFileError) as error:
            raise UnusableError("unreadable", f"{self.where(video)}: {error}") from error
        return values

    @cached_property
    def _names(self) -> dict[str, str]:
        """Returns {video id: path of the video's dataset}, for example {"walk/1": "walk/1/features"}.

        `--dataset` chooses the last name of the paths, here "features". Without the option, it is the last name that
        all paths share. If each dataset is a video, the id is the whole path.

        Raises FeatureFileError if no path ends with the chosen name, or if every group has several datasets and the
        option is missing.
        """
        names = self._dataset_names()
        chosen = self._last_name(names) if self.dataset is None else self.dataset
        if chosen == ".":
            return {name: name for name in names}
        full_names = {name.removesuffix(f"/{chosen}"): name for name in names if name.endswith(f"/{chosen}")}
        if not full_names:
            lasts = _some({name.rpartition("/")[2] for name in names})
            raise FeatureFileError(f"--dataset {chosen}: {self.path} has datasets called {lasts}")
        return full_names

    def _last_name(self, names: Sequence[str]) -> str:
        """Returns the last name that the paths of all datasets share, such as "features" for `walk/1/features` and
        `walk/2/features`. Returns "." if each dataset is a video, with a path such as `walk/1`.

        Raises FeatureFileError if every group has the same two or more datasets, because the user must then choose one.
        """
        groups, lasts = ({name.rpartition("/")[part] for name in names} for part in (0, 2))
        are_videos = any(PurePosixPath(last).suffix.lower() in VIDEO_SUFFIXES for last in lasts)
        if are_videos or "" in groups:
            return "."
        if len(lasts) == 1:
            return lasts.pop()
        if len(groups) > 1 and len(names) == len(groups) * len(lasts):
            raise FeatureFileError(
                f"{self.path} has {_some(lasts)} in every group. Choose one by --dataset NAME; if each of them is a "
                "video, --dataset ."
            )
        return "."

    def _dataset_names(self) -> list[str]:
        names: list[str] = []

        def note(name: str, entry: object) -> None:
            if isinstance(entry, h5py.Dataset):
                names.append(name)

        with h5py.File(self.path, "r", locking=False) as file:
            file.visititems(note)
        return names


def _require_own_values(dataset: h5py.Dataset, file_bytes: int) -> None:
    """Raises ArrayFileError if the values of `dataset` are not numbers, lie outside of the HDF5 file, or would unpack
    to far more bytes than are stored. `file_bytes` is the size of the file.
    """
    if dataset.external or dataset.is_virtual:
        kind = "external storage" if dataset.external else "a virtual dataset"
        raise ArrayFileError(f"it is {kind}: its values lie in another place, which is not read. Copy them here")
    require_plain(dataset.dtype)
    if dataset.shape is None:
        raise ArrayFileError("it has no values (a null dataspace)")
    require_expansion(math.prod(dataset.shape) * dataset.dtype.itemsize, min(dataset.id.get_storage_size(), file_bytes))


def _some(names: set[str]) -> str:
    return first_of(sorted(names), 8)

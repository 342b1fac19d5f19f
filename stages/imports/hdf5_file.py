"""One HDF5 file with a dataset per video, or a group per video as hloc writes them. Torch-free."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import xxhash

from cache_schemas.ledger import Source
from stages.clips.folders import VIDEO_SUFFIXES
from stages.imports.features import FeatureFileError, UnusableError, VideoFeatures, as_features


class Hdf5File:
    """[C], [T, C] or [T, C, H, W] of one video a dataset.

    Where all datasets have one and the same last name, or `dataset` gives one, the group above is the video's id; else,
    or with `dataset` ".", the dataset's own path is. Ids may contain slashes: those are nested groups. Links are not
    followed.
    """

    kind = "hdf5"

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.path, self.dataset = path, dataset

    def videos(self) -> Sequence[str]:
        return sorted(self._names)

    def where(self, video: str) -> str:
        return f"{self.path}:{self._names[video]}"

    def source(self, video: str) -> Source:
        """Of the values, type and shape alone: how HDF5 lays them out makes no difference."""
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
                found: np.ndarray = np.asarray(file[self._names[video]][()])
        except (OSError, RuntimeError) as error:
            raise UnusableError("unreadable", f"{self.where(video)}: {error}") from error
        return found

    @cached_property
    def _names(self) -> dict[str, str]:
        """Video -> full name of its dataset."""
        names = self._dataset_names()
        chosen = self._last_name(names) if self.dataset is None else self.dataset
        if chosen == ".":
            return {name: name for name in names}
        found = {name.removesuffix(f"/{chosen}"): name for name in names if name.endswith(f"/{chosen}")}
        if not found:
            lasts = _some({name.rpartition("/")[2] for name in names})
            raise FeatureFileError(f"--dataset {chosen}: {self.path} has datasets called {lasts}")
        return found

    def _last_name(self, names: Sequence[str]) -> str:
        """The last name that all datasets share; "." where each stands for itself.

        Raises FeatureFileError where every group has the same several datasets.
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
        found: list[str] = []

        def note(name: str, entry: object) -> None:
            if isinstance(entry, h5py.Dataset):
                found.append(name)

        with h5py.File(self.path, "r", locking=False) as file:
            file.visititems(note)
        return found


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")

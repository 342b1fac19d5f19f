"""HDF5 files are refused before reading where values lie elsewhere, are no numbers, or do not fit into the file."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.hdf5_shards import Hdf5ShardView, shard_image
from kinegraph.stages.imports.features import UnusableError
from kinegraph.stages.imports.hdf5_file import Hdf5File
from kinegraph.stages.imports.recognise import open_features
from tests.foreign import C, features, write_hdf5


def external(file: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(4 * C))
    file.create_dataset("v", (1, C), "f4", external=[(str(folder / "raw"), 0, 4 * C)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((1, C), "f4")
    layout[:] = h5py.VirtualSource(str(write_hdf5(folder / "other.h5", {"w": features(0, 1, C)})), "w", (1, C))
    file.create_virtual_dataset("v", layout)


CASES: dict[str, tuple[Callable[[h5py.File, Path], object], str]] = {
    "external": (external, "it is external storage: its values lie in another place, which is not read"),
    "virtual": (virtual, "it is a virtual dataset: its values lie in another place"),
    "words": (lambda file, _: file.create_dataset("v", (2,), h5py.string_dtype()), "Python objects or references"),
    "references": (lambda file, _: file.create_dataset("v", (2,), h5py.ref_dtype), "Python objects or references"),
    "fields": (lambda file, _: file.create_dataset("v", (2,), [("a", "f4")]), "numbers are expected"),
    "null": (lambda file, _: file.create_dataset("v", data=h5py.Empty("f4")), "it has no values"),
    "sparse": (
        lambda file, _: file.create_dataset("v", (1 << 45, 1), "f8", chunks=(1024, 1)),
        "0 bytes would unpack to 281474976710656",
    ),
    "contiguous": (lambda file, _: file.create_dataset("v", (1 << 45,), "f8"), "0 bytes would unpack to"),
}


@pytest.mark.parametrize(("make", "words"), CASES.values(), ids=CASES)
def test_values_that_are_not_in_the_file(tmp_path: Path, make: Callable[[h5py.File, Path], object], words: str) -> None:
    path = write_hdf5(tmp_path / "x.h5", {"good": features(0, 2, C)})
    with h5py.File(path, "a") as file:
        make(file, tmp_path)
    files = open_features(path)
    assert files.videos() == ["good", "v"]
    with pytest.raises(UnusableError, match=f"x.h5:v: .*{words}") as caught:
        files.read("v")
    assert (caught.value.reason, files.source("v").size) == ("unreadable", 0)
    np.testing.assert_array_equal(files.read("good").arrays["pooled"], features(0, 2, C))


def test_links_are_not_followed(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "x.h5", {"good": features(0, 2, C)})
    with h5py.File(path, "a") as file:
        file["away"] = h5py.ExternalLink(str(write_hdf5(tmp_path / "other.h5", {"w": features(0, 2, C)})), "w")
        file["soft"] = h5py.SoftLink("/good")
    assert Hdf5File(path).videos() == ["good"]


def test_packed_values_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("v", data=np.zeros((1 << 14, C), "f4"), compression="gzip", chunks=(1 << 14, C))
    assert open_features(tmp_path / "x.h5").read("v").num_frames == 1 << 14


def test_a_shard_that_leads_to_another_file_is_damaged(tmp_path: Path) -> None:
    spec = ArraySpec(
        name="features/r/res4", stage="features/r", shape=(C,), dtype="float32", dims=("channel",), fill=0, about=""
    )
    other = tmp_path / "other.h5"
    other.write_bytes(shard_image([(spec, features(0, 4, C))], 4))
    np.testing.assert_array_equal(Hdf5ShardView(other, spec, 4).row(2), features(0, 4, C)[2])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = h5py.ExternalLink(str(other), "features")
    with pytest.raises(ValueError, match=r"x.h5: not a whole shard file .*a link leads to it"):
        Hdf5ShardView(tmp_path / "x.h5", spec, 4)

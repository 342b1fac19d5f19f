"""Stores arrays in HDF5: one file for each shard of each stage, and the file data.h5, which shows all shards of an
array as one array.

In data.h5 an array is a virtual dataset, a view over its shard files. The rows of a missing shard file read as fill
values. A file appears only when all its bytes are written, and a shard file is never opened for writing again. So a
crash leaves no file that HDF5 cannot open, and readers take no locks.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from kinegraph.cache_schemas.arrays import ABOUT, SCHEMA_VERSION, ArraySpec
from kinegraph.cache_schemas.coordinates import Made
from kinegraph.cache_schemas.errors import CacheError, out_of_descriptors
from kinegraph.cache_schemas.mapping import mapped
from kinegraph.cache_schemas.regular import require_regular
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.store import Shard, Written

DATA = "data.h5"
ALIGNMENT_BYTES = 8  # chunks start at multiples of this, so that mapped rows are aligned


def object_name(key: str, shard: int) -> str:
    """Returns the path of the file that holds shard number `shard` of the stage `key`, relative to the cache."""
    return f"shards/{key}/{shard:06d}.h5"


@contextmanager
def _in_memory() -> Iterator[h5py.File]:
    with h5py.File(
        "image", "w", driver="core", backing_store=False, libver="latest",
        alignment_threshold=1, alignment_interval=ALIGNMENT_BYTES,
    ) as file:  # fmt: skip
        yield file


def _image(file: h5py.File) -> bytes:
    file.flush()
    image: bytes = file.id.get_file_image()
    return image


def shard_image(arrays: Sequence[tuple[ArraySpec, np.ndarray]], shard_clips: int) -> bytes:
    """Returns the bytes of one shard file. `arrays` has one pair (spec, rows) for each array of the stage.

    Each array in the file has `shard_clips` rows. If there are fewer rows, the missing rows take no space.
    """
    with _in_memory() as file:
        for spec, rows in arrays:
            chunks = (spec.inner_rows(shard_clips), *spec.shape)
            dataset = file.create_dataset(
                spec.name, (shard_clips, *spec.shape), spec.dtype, chunks=chunks, fillvalue=spec.fill, track_times=False
            )
            dataset[: len(rows)] = rows
        return _image(file)


def _opened(path: Path) -> h5py.File:
    """Opens an HDF5 file for reading and returns it. The file is opened without locks. HDF5 refuses this if the process
    already has the file open with locks. The file is then opened with locks, too.
    """
    require_regular(path)
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")


def _own(file: h5py.File, name: str) -> h5py.Dataset:
    """Returns the dataset `name` of `file`. Raises KeyError if there is none, or if `name` is a link, which may lead
    into another file.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        if not isinstance(file.get("/".join(parts[:depth]), getlink=True), h5py.HardLink):
            raise KeyError(f"{name} is missing, or a link leads to it")
    return file[name]


class Hdf5ShardView:
    """One array of one shard, mapped into memory from the HDF5 file `path`. `spec` describes the array, and
    `shard_clips` is the number of rows of a full shard. No HDF5 handle stays open.

    Raises FileNotFoundError if there is no file, ValueError if the file is damaged, and TooManyOpenFiles if the process
    has too many files open.
    """

    def __init__(self, path: Path, spec: ArraySpec, shard_clips: int) -> None:
        self._inner_rows, self._spec = spec.inner_rows(shard_clips), spec
        try:
            with _opened(path) as file:
                self._offsets = _chunk_offsets(_own(file, spec.name), spec, shard_clips)
        except FileNotFoundError:
            raise
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and (full := out_of_descriptors(path, error)):
                raise full from error
            raise ValueError(f"{path}: not a whole shard file ({error}); run `kinegraph verify`") from error
        self._mapped = mapped(path)

    def row(self, index: int) -> np.ndarray:
        """Returns one row as a read-only view of the mapped file. `index` is the number of the row in the shard, from
        0.
        """
        inner, within = divmod(index, self._inner_rows)
        start = self._offsets[inner] + within * self._spec.row_bytes
        return self._mapped[start : start + self._spec.row_bytes].view(self._spec.dtype).reshape(self._spec.shape)


def _chunk_offsets(dataset: h5py.Dataset, spec: ArraySpec, shard_clips: int) -> dict[int, int]:
    """Returns chunk number -> byte offset in the file, for every chunk of `dataset` that was written. Chunks are
    numbered from 0 along the rows.

    Raises ValueError if the dataset does not have the shape, type and chunks that `spec` requires for `shard_clips`
    rows.
    """
    inner_rows = spec.inner_rows(shard_clips)
    expected = ((shard_clips, *spec.shape), np.dtype(spec.dtype), (inner_rows, *spec.shape))
    if (dataset.shape, dataset.dtype, dataset.chunks) != expected:
        raise ValueError(f"{spec.name} is {dataset.dtype}{dataset.shape}")
    offsets: dict[int, int] = {}

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        offsets[chunk.chunk_offset[0] // inner_rows] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return offsets


def _attach_scales(dataset: h5py.Dataset, dims: Sequence[str]) -> None:
    """Names the axes of `dataset` as netCDF-4 does, by attaching a dimension scale to each axis. A dimension scale is
    an empty dataset whose name is the name of the axis, for example `frame`. Two datasets of a group that have an axis
    `frame` share its scale.

    `dims` are the names of the axes after the first, which is `row`.
    """
    for axis, name in enumerate(["row", *dims]):
        size, group = dataset.shape[axis], dataset.parent
        if name not in group:
            scale = group.create_dataset(name, (size,), ">f4", track_times=False)  # the scale stores no values
            scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
        scale = group[name]  # an array of the cache may have this name
        if isinstance(scale, h5py.Dataset) and scale.is_scale and len(scale) == size:
            dataset.dims[axis].attach_scale(scale)


class Hdf5Store:
    """Stores the arrays of a cache in HDF5 files, one for each shard of each stage: shards/<key>/<nnnnnn>.h5. The file
    data.h5 shows all shards of an array as one array. A shard has `shard_clips` rows.

    Raises CacheError for a cache at a URL, because HDF5 needs files on a POSIX path.
    """

    def __init__(self, storage: Storage, shard_clips: int) -> None:
        self.storage, self.shard_clips = storage, shard_clips
        self._local(DATA)

    def _local(self, name: str) -> Path:
        path = self.storage.local_path(name)
        if path is None:
            raise CacheError(f"{self.storage.root}: HDF5 needs a POSIX path. Use `store.kind: zarr` for a URL.")
        return path

    def declare(
        self, specs: Sequence[ArraySpec], num_rows: int, coordinates: Made | None = None, *, renew: bool = False
    ) -> None:
        """Writes data.h5, which shows each array of `specs` with `num_rows` rows. Writes nothing if data.h5 already has
        exactly these arrays and this number of rows.

        `coordinates` and `renew` are ignored, because the HDF5 store has no coordinates.
        """
        layout = {"rows": num_rows, "shard_clips": self.shard_clips, "arrays": [s.name for s in specs]}
        declared = json.dumps({"schema": SCHEMA_VERSION, "scales": True} | layout)
        if self._declared() == declared:
            return
        with _in_memory() as file:
            file.attrs.update(ABOUT | {"kinegraph": declared})
            for spec in specs:
                self._join(file, spec, num_rows)
            for spec in specs:
                _attach_scales(file[spec.name], spec.dims)
            self.storage.put(DATA, [_image(file)])

    def misdeclared(self, specs: Sequence[ArraySpec], num_rows: range) -> list[str]:
        """Checks the file data.h5, through which the rows of all shard files are read. Returns ["data.h5"] if the file
        is missing, is damaged or does not list all shard files, else [].

        Only the arrays of `specs` are checked. An array may have any number of rows in the range `num_rows`.
        """
        try:
            with _opened(self._local(DATA)) as file:
                joined = all(self._joins(_own(file, spec.name), spec, num_rows) for spec in specs)
        except (OSError, KeyError, RuntimeError):
            joined = False
        return [] if joined else [DATA]

    def _joins(self, dataset: h5py.Dataset, spec: ArraySpec, num_rows: range) -> bool:
        """Returns whether `dataset` of data.h5 is a correct view over all shard files of the array `spec`. The shape,
        type, fill value and list of files must be right, and the number of rows must be in `num_rows`.
        """
        rows = dataset.shape[0]
        if dataset.dtype != np.dtype(spec.dtype) or dataset.shape[1:] != spec.shape or rows not in num_rows:
            return False
        sources = [(source.file_name, source.dset_name) for source in dataset.virtual_sources()]
        expected = [(object_name(spec.stage, shard), spec.name) for shard in range(-(-rows // self.shard_clips))]
        return sources == expected and np.array_equal(dataset.fillvalue, np.dtype(spec.dtype).type(spec.fill), True)

    def _declared(self) -> str:
        """Returns the JSON text in data.h5 that says for which arrays and how many rows `declare` wrote the file.
        Returns "" if data.h5 is missing or damaged.
        """
        try:
            with _opened(self._local(DATA)) as file:
                return str(file.attrs["kinegraph"])
        except (OSError, KeyError, RuntimeError):
            return ""

    def _join(self, file: h5py.File, spec: ArraySpec, num_rows: int) -> None:
        """Adds the array `spec` to `file`, the open data.h5, as a virtual dataset with `num_rows` rows. A virtual
        dataset is a view over several files, here over all shard files of the array. Rows of missing shard files read
        as fill values.
        """
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)  # h5py's VirtualLayout would store the time of day
        settings.set_layout(h5py.h5d.VIRTUAL)
        settings.set_obj_track_times(False)
        settings.set_fill_value(np.array([spec.fill], spec.dtype))
        whole = h5py.h5s.create_simple((num_rows, *spec.shape))
        source = h5py.h5s.create_simple((self.shard_clips, *spec.shape))
        origin = (0,) * len(spec.shape)
        for start in range(0, num_rows, self.shard_clips):
            size = (min(self.shard_clips, num_rows - start), *spec.shape)
            whole.select_hyperslab((start, *origin), size)
            source.select_hyperslab((0, *origin), size)
            name = object_name(spec.stage, start // self.shard_clips)
            settings.set_virtual(whole, name.encode(), spec.name.encode(), source)
        group, _, name = spec.name.rpartition("/")
        kind = h5py.h5t.py_create(np.dtype(spec.dtype), logical=True)
        parent = file.require_group(group).id
        dataset = h5py.Dataset(h5py.h5d.create(parent, name.encode(), kind, whole, settings))
        dataset.attrs["dimension_names"] = ["row", *spec.dims]
        for key, value in spec.attributes().items():
            dataset.attrs[key] = json.dumps(value) if isinstance(value, dict) else value

    def declared_shard_clips(self, specs: Sequence[ArraySpec]) -> int | None:
        """Returns the number of rows per shard that data.h5 states, or None if data.h5 is missing or damaged. `specs`
        is ignored.
        """
        with suppress(ValueError, KeyError, TypeError):
            rows = json.loads(self._declared())["shard_clips"]
            return rows if isinstance(rows, int) else None
        return None

    def objects_per_shard(self, num_arrays: int) -> int:
        """Returns 1, the number of files in which a shard of a stage is stored. One HDF5 file holds all `num_arrays`
        arrays.
        """
        return 1

    def write_shard(self, key: str, shard: int, arrays: Sequence[tuple[ArraySpec, np.ndarray]]) -> Written:
        """Writes shard number `shard` of the stage `key` as one file. `arrays` has one pair (spec, rows) for each array
        of the stage.

        Returns file name -> (size in bytes, xxh3_128 digest). Raises ValueError for rows whose shape or type is not
        that of their array.
        """
        for spec, rows in arrays:
            spec.check_rows(rows, self.shard_clips)
        name = object_name(key, shard)
        return {name: self.storage.put(name, [shard_image(arrays, self.shard_clips)])}

    def open_shard(self, spec: ArraySpec, shard: int) -> Hdf5ShardView:
        """Opens the array `spec` of shard number `shard`, mapped into memory. Returns an Hdf5ShardView, which has the
        method `row`.

        Raises FileNotFoundError if there is no shard file, and ValueError if the file is damaged.
        """
        return Hdf5ShardView(self._local(object_name(spec.stage, shard)), spec, self.shard_clips)

    def open_shards(self, wanted: Sequence[tuple[ArraySpec, int]]) -> list[Hdf5ShardView]:
        """Opens several shards for reading. Returns one Hdf5ShardView for each (array, shard number) in `wanted`.

        Raises FileNotFoundError if a shard file is missing, and ValueError if a shard file is damaged.
        """
        return [self.open_shard(spec, shard) for spec, shard in wanted]

    def rows(self, places: Sequence[tuple[Shard, int]]) -> Iterable[np.ndarray]:
        """Returns one row for each item of `places`, in this order, as a read-only view. An item is a pair (opened
        shard, number of the row in the shard).
        """
        return (shard.row(index) for shard, index in places)

"""Lists what a cache holds: the name, shape, type, dimensions and units of every array.

Axis 0 of every array is the row. A row is one clip under one crop of one video. The shapes in this file are the shapes
of one row, without axis 0.

Four conventions hold for all arrays. Boxes are x1, y1, x2, y2 in pixels of the video frame after its rotation. The
centre of pixel i lies at i + 0.5. Times are seconds from the first presented frame. An interval [start, end) contains
its start and not its end.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

SCHEMA_VERSION = 1  # of all documents except those that an upgrade writes
UPGRADE_SCHEMA_VERSION = 2  # of documents that an upgrade writes; earlier readers refuse them in words
ABOUT: dict[str, object] = {  # attributes of data.zarr, of the groups in data.zarr, and of data.h5
    "title": "kinegraph cache: features of videos, one row for each clip and crop",
    "comment": "Row i of every array is row i of clips.parquet, which lies beside this file and has clip_id, video_id, "
    "split, labels (places in classes.json) and times.",
}
SMALL_ROW_BYTES = 4096  # rows below this size share one inner chunk; an index entry per row would cost more
CLASS_SUFFIX, HEAD = "_class", "head"  # `features/<entry>/<tap>_class` and `features/<entry>/head`

CLIPS, FRAME_TIMES = "clips", "clips/frame_times"  # all other keys are made from this key; this is its only array
MAY_HOLD_NAN = frozenset({"graphs/times"})  # float arrays whose rows may hold NaN; NaN means "no graph here"
STATUS_NOT_RUN, STATUS_OK, STATUS_FAILED, STATUS_WARNED = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Describes one array of the cache.

    `name` is the path below data.zarr, for example `proposals/boxes`. `stage` is the key of the stage that writes the
    array, for example `proposals`. `shape` is the shape of one row, and `dtype` the type of its numbers. `dims` are the
    names of the axes of one row. `fill` is the value of rows that are not written yet. `units` are the units of the
    values, such as s. `about` describes the array in words. `frame_step` is the number of sampled frames per step of
    the time axis, or None for an array without a time axis. If the steps are not at equal distances, `frame_step` is
    None, and `frame_index` has the sampled frame of each step, counted from 0.
    """

    name: str
    stage: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    fill: float | int
    about: str
    units: str = ""
    frame_step: int | None = None
    frame_index: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.shape):
            raise ValueError(f"{self.name}: {len(self.shape)} axes but {len(self.dims)} dimension names")

    @property
    def row_bytes(self) -> int:
        """Returns the size in bytes of one row of this array, without compression."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def inner_rows(self, shard_clips: int) -> int:
        """Returns the number of rows in one inner chunk of a shard. A shard consists of inner chunks, and each chunk is
        compressed alone.

        If a row has fewer than SMALL_ROW_BYTES bytes, one chunk has all `shard_clips` rows of the shard. Otherwise each
        row is a chunk.
        """
        return shard_clips if self.row_bytes < SMALL_ROW_BYTES else 1

    def check_rows(self, rows: np.ndarray, shard_clips: int) -> None:
        """Raises ValueError unless `rows` has the shape [n, *shape], the array's type, and at most `shard_clips` rows.
        n is the number of rows.
        """
        if rows.shape[1:] != self.shape or rows.dtype != np.dtype(self.dtype) or len(rows) > shard_clips:
            raise ValueError(f"{self.name}: {rows.dtype}{rows.shape} is no shard of {self.dtype}{self.shape}")

    def empty(self, rows: int) -> np.ndarray:
        """Returns an array [rows, *shape] in which every value is the fill value of this array, the value of rows
        without data.
        """
        return np.full((rows, *self.shape), self.fill, dtype=self.dtype)

    def attributes(self) -> dict[str, object]:
        """Returns the attributes of the array, such as `frame_step`, the description and the units.

        The zarr store and the HDF5 store write these attributes beside the array.
        """
        attributes: dict[str, object] = {
            "kinegraph": {"schema": SCHEMA_VERSION, "stage": self.stage},
            "long_name": self.about,
        }
        if self.units:
            attributes["units"] = self.units
        if self.frame_step is not None:
            attributes["frame_step"] = self.frame_step
        if self.frame_index is not None:
            attributes["frame_index"] = [*self.frame_index]
        return attributes

    def document(self) -> dict[str, object]:
        """Returns this description of the array as a dict for a JSON document. `frame_index` is left out where it is
        None.
        """
        values = asdict(self) | {"fill": repr(self.fill)}
        if self.frame_index is None:
            del values["frame_index"]
        return values


def frame_dim(frame_step: int, frame_index: tuple[int, ...] | None = None) -> str:
    """Returns the name of the time axis of an array with one step per `frame_step` sampled frames: `frame` for 1,
    `frame_by_4` for 4. If `frame_index` has the sampled frames of 8 steps, it is `frame_spread_8`. So
    axes of different lengths have different names, which xarray needs.
    """
    if frame_index is not None:
        return f"frame_spread_{len(frame_index)}"
    return "frame" if frame_step == 1 else f"frame_by_{frame_step}"


def status_array(stage: str) -> ArraySpec:
    """Returns the ArraySpec of the array `status/<stage>`. The array has one number per row: 0 not run, 1 success, 2
    failure, 3 success with warnings of the decoder.
    """
    about = "0 not run, 1 ok, 2 failed, 3 ok with decoder warnings"
    return ArraySpec(
        name=f"status/{stage}",
        stage=stage,
        shape=(),
        dtype="uint8",
        dims=(),
        fill=STATUS_NOT_RUN,
        about=about,
    )


def clip_arrays(num_frames: int) -> tuple[ArraySpec, ...]:
    """Returns the ArraySpecs of the stage `clips`. There is one, of the array `clips/frame_times`. The array holds the
    presentation times of the `num_frames` sampled frames of a clip, in seconds.
    """
    return (
        ArraySpec(
            name=FRAME_TIMES,
            stage=CLIPS,
            shape=(num_frames,),
            dtype="float64",
            dims=("frame",),
            fill=math.nan,
            about="presentation time of each sampled frame",
            units="s",
            frame_step=1,
        ),
    )


def crop_array(entry: str = "") -> ArraySpec:
    """Returns the ArraySpec of an array that holds the crop of every row. A crop is the rectangle of the frame that a
    network sees. The array is not stored: readers compute its values from clips.parquet.

    With `entry` "", the array is `clips/crop`, which has the crops of clips.parquet. Some backbones see another
    rectangle, because they resize the whole frame before they cut the crop. For such a backbone, `entry` is its name in
    the config, and the array is `clips/crop/<entry>`.
    """
    return ArraySpec(
        name=f"clips/crop/{entry}" if entry else "clips/crop",
        stage=CLIPS,
        shape=(4,),
        dtype="float64",
        dims=("box_edge",),
        fill=math.nan,
        about="x1, y1, x2, y2 of the row's crop in the rotated frame; x1 > x2 where it is mirrored",
        units="px",
    )


def feature_arrays(
    backbone: str,
    tap: str,
    shape: tuple[int, int, int, int],
    frame_step: int,
    store: tuple[str, ...],
    dtype: str,
    frame_index: tuple[int, ...] | None = None,
) -> tuple[ArraySpec, ...]:
    """Returns the specs of the arrays of the tap `tap`, a named layer of `backbone` whose output is stored.

    `shape` is the shape (T, C, H, W) of the output: T frames, C channels, maps of H rows and W columns. `store`
    contains `maps`, `pooled` or both, and the result has one spec for each of them. `frame_step` is the number of
    sampled frames per map, and `dtype` is the stored type. If the maps are not at equal distances, `frame_index` has
    their sampled frames. The array for `maps` holds the output (T, C, H, W). The array for `pooled` holds the mean of
    the output over H and W (T, C).
    """
    T, C, H, W = shape
    stage, time = f"features/{backbone}", frame_dim(frame_step, frame_index)
    step = frame_step if frame_index is None else None
    arrays = []
    if "maps" in store:
        dims = (time, f"{tap}_channel", f"{tap}_y", f"{tap}_x")
        arrays.append(
            ArraySpec(
                name=f"{stage}/{tap}",
                stage=stage,
                shape=(T, C, H, W),
                dtype=dtype,
                dims=dims,
                fill=math.nan,
                about=f"feature maps of {backbone} at {tap}",
                frame_step=step,
                frame_index=frame_index,
            )
        )
    if "pooled" in store:
        arrays.append(
            ArraySpec(
                name=f"{stage}/{tap}_pooled",
                stage=stage,
                shape=(T, C),
                dtype="float32",
                dims=(time, f"{tap}_channel"),
                fill=math.nan,
                about=f"mean over height and width of {backbone} at {tap}",
                frame_step=step,
                frame_index=frame_index,
            )
        )
    return tuple(arrays)


def class_token_array(backbone: str, tap: str, shape: tuple[int, int], frame_step: int | None) -> ArraySpec:
    """Returns the ArraySpec of the class token of the tap `tap`, a named layer of `backbone`. A class token is a vector
    beside the map, which a transformer computes for the whole frame or the whole clip.

    `shape` is (T, C): T time steps and C channels. `frame_step` is the number of sampled frames per time step. It is
    None if the network has one class token for the whole clip. T is 1 then.
    """
    return ArraySpec(
        name=f"features/{backbone}/{tap}{CLASS_SUFFIX}",
        stage=f"features/{backbone}",
        shape=shape,
        dtype="float32",
        dims=("clip_token" if frame_step is None else frame_dim(frame_step), f"{tap}_channel"),
        fill=math.nan,
        about=f"class token of {backbone} at {tap}",
        frame_step=frame_step,
    )


def head_array(backbone: str, shape: tuple[int, ...], frame_step: int | None) -> ArraySpec:
    """Returns the ArraySpec of the output `head` of `backbone`: what the network itself computes after its last tap,
    such as a projection or a pooled vector.

    `shape` is (T, C) for a network that sees each frame alone, with T frames and C channels, and (C,) for a network
    that sees whole clips. `frame_step` is the number of sampled frames per time step, or None for a whole clip.
    """
    return ArraySpec(
        name=f"features/{backbone}/{HEAD}",
        stage=f"features/{backbone}",
        shape=shape,
        dtype="float32",
        dims=(f"{HEAD}_channel",) if frame_step is None else (frame_dim(frame_step), f"{HEAD}_channel"),
        fill=math.nan,
        about=f"output of {backbone} after its last tap",
        frame_step=frame_step,
    )


class _Column(NamedTuple):
    """Describes one array of a stage by its `name`, its `dtype` and its number of axes `rank`. `fill` is the value of
    rows without data. `about` describes the array in words.

    The shape of the array is the first `rank` sizes of the stage's axes. For example, for the axes T, N, 4 and rank 2,
    the shape is (T, N).
    """

    name: str
    dtype: str
    rank: int
    fill: float | int
    about: str
    units: str = ""


def _columns(stage: str, sizes: Mapping[str, int], frame_step: int | None, *columns: _Column) -> tuple[ArraySpec, ...]:
    """Returns the ArraySpecs of the stage with the key `stage`, one for each of `columns`. An array has the name
    `<stage>/<name of the column>`.

    `sizes` maps the name of each axis of the stage to the size of the axis, in the order of the axes. `frame_step` is
    the number of sampled frames per step of the time axis. It is None if the stage stores a time of its own for each
    step.
    """
    return tuple(
        ArraySpec(
            name=f"{stage}/{column.name}",
            stage=stage,
            shape=tuple(sizes.values())[: column.rank],
            dtype=column.dtype,
            dims=tuple(sizes)[: column.rank],
            fill=column.fill,
            about=column.about,
            units=column.units,
            frame_step=frame_step if column.rank else None,
        )
        for column in columns
    )


def proposal_arrays(
    num_frames: int, top: int, frame_step: int, *, scores_are: str = "objectness logit", has_labels: bool = False
) -> tuple[ArraySpec, ...]:
    """Returns the specs of the arrays of region proposals. Region proposals are boxes around possible objects of any
    class. The boxes of a frame are sorted from the best score to the worst. `scores_are` says in words what a score is.

    The arrays are boxes (T, N, 4), scores (T, N) and count (T), where T is `num_frames` and N is `top`. A box is x1,
    y1, x2, y2 in pixels of the upright frame. The first `count` boxes of a frame are valid. One of every `frame_step`
    sampled frames has boxes. If `has_labels` is true, there is also the array labels (T, N), with the number of the
    class of each box.
    """
    labels = _Column("labels", "int16", 2, -1, "class number of each box, in `labels` of the options; -1: no box")
    return _columns(
        "proposals",
        {frame_dim(frame_step): num_frames, "proposal": top, "box_edge": 4},
        frame_step,
        _Column("boxes", "float32", 3, math.nan, "x1, y1, x2, y2 in the rotated frame", "px"),
        _Column("scores", "float32", 2, math.nan, f"{scores_are}, descending within the first `count`"),
        _Column("count", "int16", 1, -1, "valid proposals; rows past it are 0; -1 in a failed row"),
        *((labels,) if has_labels else ()),
    )


def region_arrays(
    backbone: str,
    tap: str,
    shape: tuple[int, int, int],
    frame_step: int,
    dtype: str,
    grid_size: int | None = None,
    frame_index: tuple[int, ...] | None = None,
) -> tuple[ArraySpec, ...]:
    """Returns the ArraySpecs of the region features of the tap `tap` of a backbone. A region feature describes the part
    of a feature map inside the box of a proposal. Every proposal has one vector, and also one grid of vectors if
    `grid_size` is set. The operation RoIAlign samples them from the map.

    `backbone` is the name of the backbone's entry, and `dtype` is the type of the features. `shape` is (T, N, D): T
    frames, N proposals per frame, D channels. The array of vectors has the shape (T, N, D). The array of grids has the
    shape (T, N, D, grid_size, grid_size). `frame_step` is the number of sampled frames per frame of the array. If these
    are not at equal distances, `frame_index` has the sampled frame of each of them.
    """
    dims = (frame_dim(frame_step, frame_index), "proposal", f"{tap}_channel")

    def spec(name: str, bins: tuple[int, ...], about: str) -> ArraySpec:
        return ArraySpec(
            name=f"regions/{backbone}/{name}",
            stage=f"regions/{backbone}",
            shape=shape + bins,
            dtype=dtype,
            dims=dims + ("bin_y", "bin_x")[: len(bins)],
            fill=math.nan,
            about=f"{backbone} at {tap}, RoIAligned {about}; 0 past proposals/count",
            frame_step=frame_step if frame_index is None else None,
            frame_index=frame_index,
        )

    arrays = [spec(tap, (), "and reduced over each proposal")]
    if grid_size is not None:
        arrays.append(spec(f"{tap}_grid", (grid_size, grid_size), "on a grid over each proposal"))
    return tuple(arrays)


def graph_arrays(shape: tuple[int, int, int], frame_step: int | None) -> tuple[ArraySpec, ...]:
    """Returns the specs of the arrays of scene graphs. A scene graph lists the objects around one person at one time,
    and the relations between each object and the person.

    `shape` is (T, M, R): T graphs per row, at most M objects per graph, R kinds of relations. `frame_step` is None
    where every graph has a time of its own. Otherwise there is one graph per `frame_step` sampled frames.
    """
    time = "graph" if frame_step is None else frame_dim(frame_step)
    return _columns(
        "graphs",
        dict(zip((time, "object", "relation"), shape, strict=True)),
        frame_step,
        _Column("times", "float64", 1, math.nan, "since the start of the clip; NaN where there is no graph", "s"),
        _Column("count", "int16", 1, -1, "objects besides the person; -1 where there is no graph"),
        _Column("objects", "int16", 2, -1, "class number of each object; -1 past count"),
        _Column("linked", "uint8", 2, 0, "1 where an edge leads from the object to the person"),
        _Column("relations", "uint8", 3, 0, "1 where the object has the relation; 0 where it is not linked"),
    )


def track_arrays(scores: ArraySpec) -> tuple[ArraySpec, ...]:
    """Returns the ArraySpecs of the arrays of tracks. A track is a series of boxes that follow one object from frame to
    frame. The array `tracks/id` (T, N) holds the number of the track that each box belongs to. The array `tracks/count`
    holds the number of tracks of the clip.

    `scores` is the ArraySpec of proposals/scores. T, the number of frames, and N, the number of boxes per frame, are
    taken from the shape of `scores`.
    """
    return _columns(
        "tracks",
        dict(zip(scores.dims, scores.shape, strict=True)),
        scores.frame_step,
        _Column("id", "int32", 2, -1, "track of each box, by first frame, then rank in that frame; -1: no box"),
        _Column("count", "int32", 0, -1, "tracks of the clip, numbered from 0; -1 in a failed row"),
    )


def every_array() -> list[ArraySpec]:
    """Returns the ArraySpecs of all arrays that a cache can hold, for the table in SPEC.md. Parts of names that depend
    on the config are written as placeholders (`features/<backbone>/<tap>`).
    """
    either, taps = "float16 or float32", ("maps", "pooled")
    return [
        *clip_arrays(0),
        *feature_arrays("<backbone>", "<tap>", (0, 0, 0, 0), 1, taps, either),
        class_token_array("<backbone>", "<tap>", (0, 0), 1),
        head_array("<backbone>", (0, 0), 1),
        *proposal_arrays(0, 0, 1, has_labels=True),
        *region_arrays("<backbone>", "<tap>", (0, 0, 0), 1, either, 0),
        *graph_arrays((0, 0, 0), None),
        *track_arrays(proposal_arrays(0, 0, 1)[1]),
        status_array("<key>"),
    ]


ARRAY_KINDS = tuple(dict.fromkeys(spec.name.partition("/")[0] for spec in every_array()))  # first parts of their names

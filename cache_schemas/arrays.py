"""Lists what a cache holds: the name, shape, type, dimensions and units of every array.

Axis 0 of every array is the row. A row is one clip under one crop of one video. The shapes in this file are those of
one row, without axis 0.

Boxes are x1, y1, x2, y2 in pixels of the video frame after its rotation. The centre of pixel i lies at i + 0.5. Times
are seconds from the first shown frame. An interval is [start, end).
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
    """Describes one array of the cache."""

    name: str  # the path below data.zarr, for example `proposals/boxes`
    stage: str  # the key of the stage that writes the array, for example `proposals`
    shape: tuple[int, ...]  # the shape of one row
    dtype: str  # the type of the numbers, for example "float32"
    dims: tuple[str, ...]  # the names of the axes of one row
    fill: float | int  # the value of rows that are not written yet
    about: str  # a description in words
    units: str = ""  # the unit of the values, for example "s"
    # The number of sampled frames per step of the time axis. It is None without a time axis, or if the steps are not at
    # equal distances.
    frame_step: int | None = None
    # The sampled frame of each step, counted from 0, for example (0, 4, 8, 13). It is None if the steps are at equal
    # distances.
    frame_index: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.shape):
            raise ValueError(f"{self.name}: {len(self.shape)} axes but {len(self.dims)} dimension names")

    @property
    def row_bytes(self) -> int:
        """Returns the size in bytes of one row of this array, without compression."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def inner_rows(self, shard_clips: int) -> int:
        """Returns the number of rows in one inner chunk of a shard with `shard_clips` rows. A shard consists of inner
        chunks, and each inner chunk is compressed alone.

        If a row has fewer than SMALL_ROW_BYTES bytes, one inner chunk holds all rows of the shard. Otherwise each row
        is an inner chunk.
        """
        return shard_clips if self.row_bytes < SMALL_ROW_BYTES else 1

    def check_rows(self, rows: np.ndarray, shard_clips: int) -> None:
        """Raises ValueError unless `rows` has the shape [n, *shape] and the type of this array. n, the number of rows,
        may be at most `shard_clips`.
        """
        if rows.shape[1:] != self.shape or rows.dtype != np.dtype(self.dtype) or len(rows) > shard_clips:
            raise ValueError(f"{self.name}: {rows.dtype}{rows.shape} is no shard of {self.dtype}{self.shape}")

    def empty(self, rows: int) -> np.ndarray:
        """Returns an array [rows, *shape] in which every value is the fill value, which stands for "no data"."""
        return np.full((rows, *self.shape), self.fill, dtype=self.dtype)

    def attributes(self) -> dict[str, object]:
        """Returns attribute name -> value, for example `units` -> "s". A store writes them with the array."""
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
        """Returns this description as a dict for a JSON document. `frame_index` is left out if it is None."""
        values = asdict(self) | {"fill": repr(self.fill)}
        if self.frame_index is None:
            del values["frame_index"]
        return values


def frame_dim(frame_step: int, frame_index: tuple[int, ...] | None = None) -> str:
    """Returns the name of the time axis of an array. Time axes of different lengths have different names, because
    xarray requires it. Examples:

    `frame`: one step per sampled frame (`frame_step` 1).
    `frame_by_4`: one step per 4 sampled frames (`frame_step` 4).
    `frame_spread_8`: 8 steps at unequal distances (`frame_index` has 8 frames).
    """
    if frame_index is not None:
        return f"frame_spread_{len(frame_index)}"
    return "frame" if frame_step == 1 else f"frame_by_{frame_step}"


def status_array(stage: str) -> ArraySpec:
    """Returns the ArraySpec of the array `status/<stage>`, which says for each row whether the stage succeeded. The
    values are 0 (not run), 1 (success), 2 (failure) and 3 (success with warnings of the decoder).
    """
    about = "0 not run, 1 ok, 2 failed, 3 ok with decoder warnings"
    return ArraySpec(
        name=f"status/{stage}", stage=stage, shape=(), dtype="uint8", dims=(), fill=STATUS_NOT_RUN, about=about
    )


def crop_array(entry: str = "") -> ArraySpec:
    """Returns the ArraySpec of an array with the crop of every row, the part of a frame that a network sees. The array
    is not stored. Readers compute it from clips.parquet.

    If `entry` is "", the array is `clips/crop`. Some backbones resize the whole frame before they cut the crop, so they
    see another rectangle. For such a backbone, `entry` is its name in the config, and the array is
    `clips/crop/<entry>`.
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
    """Returns the ArraySpecs of the features of one tap. A tap is a named layer of a backbone whose output is stored.

    - `shape`: the shape (T, C, H, W) of the output: T maps with C channels.
    - `frame_step`: the number of sampled frames per map.
    - `store`: "maps", "pooled" or both. The result has one ArraySpec for each: maps (T, C, H, W), and pooled (T, C),
      the mean over H and W.
    - `dtype`: the type of the stored maps, for example "float16".
    - `frame_index`: the sampled frame of each map, if the maps are not at equal distances.
    """
    T, C, H, W = shape
    time = frame_dim(frame_step, frame_index)

    def spec(name: str, row: tuple[int, ...], stored_as: str, dims: tuple[str, ...], about: str) -> ArraySpec:
        return ArraySpec(
            name=f"features/{backbone}/{name}",
            stage=f"features/{backbone}",
            shape=row,
            dtype=stored_as,
            dims=(time, f"{tap}_channel", *dims),
            fill=math.nan,
            about=f"{about} {backbone} at {tap}",
            frame_step=frame_step if frame_index is None else None,
            frame_index=frame_index,
        )

    arrays = {
        "maps": spec(tap, (T, C, H, W), dtype, (f"{tap}_y", f"{tap}_x"), "feature maps of"),
        "pooled": spec(f"{tap}_pooled", (T, C), "float32", (), "mean over height and width of"),
    }
    return tuple(arrays[kind] for kind in arrays if kind in store)


def class_token_array(backbone: str, tap: str, shape: tuple[int, int], frame_step: int | None) -> ArraySpec:
    """Returns the ArraySpec of the class token of the tap `tap`, a named layer of `backbone`. A class token is a vector
    that a transformer computes for a frame or a clip, beside its maps.

    `shape` is (T, C): T time steps and C channels. `frame_step` is the number of sampled frames per time step. It is
    None if there is one class token for the whole clip. T is then 1.
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
    """Returns the ArraySpec of `features/<backbone>/head`, the final output of a backbone network, for example a pooled
    vector.

    `shape` is (T, C) for a network that sees each of T frames alone and computes C channels. `shape` is (C,) for a
    network that sees whole clips. `frame_step` is the number of sampled frames per time step, or None for a network
    that sees whole clips.
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
    """One array of a stage, for `_columns`. `fill` is the value of rows without data. `about` describes the array in
    words.

    The shape of a row of the array is the first `rank` sizes of the stage's axes. For example, for the axes T, N, 4 and
    the rank 2, the shape is (T, N).
    """

    name: str
    dtype: str
    rank: int
    fill: float | int
    about: str
    units: str = ""


def _columns(stage: str, sizes: Mapping[str, int], frame_step: int | None, *columns: _Column) -> tuple[ArraySpec, ...]:
    """Returns one ArraySpec for each of `columns`, the arrays of the stage with the key `stage`. The name of an array
    is `<stage>/<name of the column>`.

    `sizes` maps the names of the stage's axes to their sizes, in the order of the axes. `frame_step` is the number of
    sampled frames per step of the time axis. It is None if the stage stores a time for each step.
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


def clip_arrays(num_frames: int) -> tuple[ArraySpec, ...]:
    """Returns a tuple with the ArraySpec of `clips/frame_times`, the only array of the stage `clips`. A row of the
    array holds the times at which the `num_frames` sampled frames of a clip are shown, in seconds.
    """
    times = _Column("frame_times", "float64", 1, math.nan, "presentation time of each sampled frame", "s")
    return _columns(CLIPS, {frame_dim(1): num_frames}, 1, times)


def proposal_arrays(
    num_frames: int, top: int, frame_step: int, *, scores_are: str = "objectness logit", has_labels: bool = False
) -> tuple[ArraySpec, ...]:
    """Returns the ArraySpecs of region proposals, which are boxes around possible objects. The boxes of a frame are
    sorted from the best score to the worst.

    The arrays are boxes (T, N, 4), scores (T, N) and count (T), with T = `num_frames` and N = `top`. One of every
    `frame_step` sampled frames has boxes. A box is x1, y1, x2, y2 in pixels of the upright frame. Only the first
    `count` boxes are valid. `scores_are` says in words what a score is. If `has_labels` is true, there is also the
    array labels (T, N), the class number of each box.
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
    """Returns the ArraySpecs of region features. A region feature is a vector that describes the part of a feature map
    inside one box. RoIAlign computes it.

    - `backbone`, `tap`: the name of the backbone in the config, and the layer whose maps are used.
    - `shape`: the shape (T, N, D) of one row: T time steps, N boxes, D channels.
    - `frame_step`: the number of sampled frames per time step.
    - `dtype`: the type of the features.
    - `grid_size`: if it is set, there is a second array (T, N, D, grid_size, grid_size), with a grid of vectors per
      box.
    - `frame_index`: the sampled frame of each time step, if the time steps are not at equal distances.
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
    """Returns the ArraySpecs of scene graphs. A scene graph lists the objects around one person at one time, and the
    relations of each object to the person.

    `shape` is (T, M, R): T graphs per row, at most M objects per graph, and R kinds of relations. `frame_step` is the
    number of sampled frames per graph, or None if every graph has its own time.
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
    """Returns the ArraySpecs of tracks. A track is a series of boxes that follow one object from frame to frame.

    The array `tracks/id` (T, N) holds the number of the track of each box, for T frames with N boxes. The array
    `tracks/count` holds the number of tracks of the clip. `scores` is the ArraySpec of `proposals/scores`, whose shape
    is (T, N).
    """
    return _columns(
        "tracks",
        dict(zip(scores.dims, scores.shape, strict=True)),
        scores.frame_step,
        _Column("id", "int32", 2, -1, "track of each box, by first frame, then rank in that frame; -1: no box"),
        _Column("count", "int32", 0, -1, "tracks of the clip, numbered from 0; -1 in a failed row"),
    )


def every_array() -> list[ArraySpec]:
    """Returns an ArraySpec for each array that a cache can hold, for the table in SPEC.md. Parts of a name that depend
    on the config are placeholders (`features/<backbone>/<tap>`).
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

"""Reads .npz files of region features, as the detector "bottom-up attention" writes them (Anderson et al., CVPR 2018).
Many data sets publish such files. Torch-free.

A file describes N regions with C channels. It has the keys `x` [N, C] or [C, N], `bbox` [N, 4] (x1, y1, x2, y2 in px)
and `num_bbox`. One file may hold T frames: `x` [T, N, C], `bbox` [T, N, 4], `num_bbox` [T]. The keys `image_h`,
`image_w` and `info` are not read. `info` is often a pickled object, which is never loaded.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from kinegraph.cache_schemas.ledger import Source
from kinegraph.stages.imports.features import FeatureFileError, UnusableError, VideoFeatures, as_floats
from kinegraph.stages.imports.npy_files import ids_of_files, source_of
from kinegraph.stages.number_files import ArrayFileError, read_npz

SUFFIX = ".npz"
KEYS = ("x", "bbox", "num_bbox")
Frame = tuple[np.ndarray, np.ndarray]  # regions [n, C] and boxes [n, 4] of one frame


class BottomUpFiles:
    """The FeatureFiles of a folder with one .npz file of region features per video or picture. The id of a video is the
    path of its file below `root`, without the ending: `walk/1.npz` -> `walk/1`.
    """

    kind = "bottom_up"

    def __init__(self, root: Path) -> None:
        self.root = root

    def videos(self) -> Sequence[str]:
        return list(self._files)

    def where(self, video: str) -> str:
        return str(self.root / f"{video}{SUFFIX}")

    def source(self, video: str) -> Source:
        """Returns the Source that identifies the files of the video `video`: their total size, the newest time of
        change, and one digest.
        """
        sources = [source_of(path) for path in self._files[video]]
        digest = xxhash.xxh3_128("".join(source.digest for source in sources).encode()).hexdigest()
        newest = max(source.mtime_ns for source in sources)
        return Source(size=sum(source.size for source in sources), mtime_ns=newest, digest=digest)

    def read(self, video: str) -> VideoFeatures:
        frames = [frame for path in self._files[video] for frame in _frames(path)]
        if not frames:
            raise UnusableError("too_short", f"{self.where(video)} has no frames")
        return _stacked(frames, self.where(video))

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Returns {video id: files of the video}. A video has one file here, and one file per frame in the subclass."""
        return {name: [self.root / f"{name}{SUFFIX}"] for name in ids_of_files(self.root, SUFFIX)}


class BottomUpFrames(BottomUpFiles):
    """The FeatureFiles of a folder with one subfolder per video. A subfolder has one .npz file of region features per
    frame. The frames are ordered by the numbers in the file names, so `9.npz` comes before `10.npz`.
    """

    kind = "bottom_up_frames"

    def where(self, video: str) -> str:
        return str(self.root / video)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for name in sorted(ids_of_files(self.root, SUFFIX), key=_numbers_as_numbers):
            folder, _, _ = name.rpartition("/")
            if not folder:
                raise FeatureFileError(f"{self.root / name}{SUFFIX}: {self.kind} needs a folder for each video")
            files.setdefault(folder, []).append(self.root / f"{name}{SUFFIX}")
        return dict(sorted(files.items()))


def _numbers_as_numbers(name: str) -> list[tuple[int, str]]:
    """Returns a key by which names are sorted. It compares the numbers in names as numbers, so `9` comes before
    `10`.
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def are_frames(root: Path) -> bool:
    """Returns true if the .npz files below `root` are one file per frame, and false if they are one file per video.

    The result is true if all of these hold: every file lies in a subfolder, every name ends with a digit, and the first
    file has the regions of one picture.
    """
    names = ids_of_files(root, SUFFIX)
    if not all("/" in name and name[-1].isdigit() for name in names):
        return False
    try:
        return _loaded(root / f"{names[0]}{SUFFIX}")["x"].ndim == 2
    except UnusableError:
        return True


def _frames(path: Path) -> list[Frame]:
    """Returns (regions, boxes) for each frame in the file `path`. Regions are [n, channels] and boxes are [n, 4], for
    the n valid regions of the frame (`num_bbox`). A box is (x1, y1, x2, y2) in px.

    Raises FeatureFileError if shapes, counts or boxes do not fit. Raises UnusableError if the file cannot be read.
    """
    stored = _loaded(path)
    x, boxes = as_floats(stored["x"], f"{path}: x"), as_floats(stored["bbox"], f"{path}: bbox").astype(np.float32)
    if x.ndim == 2 and boxes.ndim == 2:
        x, boxes = x[None], boxes[None]
    x = _regions_first(x, boxes, path)
    counts = np.atleast_1d(stored.get("num_bbox", np.full(len(boxes), boxes.shape[1]))).astype(int)
    if len(counts) != len(boxes) or (counts < 0).any() or (counts > boxes.shape[1]).any():
        raise FeatureFileError(f"{path}: num_bbox is {counts.tolist()}, but bbox has shape {list(boxes.shape)}")
    frames = [(x[t, :n], boxes[t, :n]) for t, n in enumerate(counts)]
    if any((box[:, 2:] < box[:, :2]).any() for _, box in frames):
        raise FeatureFileError(f"{path}: bbox has boxes that end before they begin; x1, y1, x2, y2 are expected")
    return frames


def _loaded(path: Path) -> dict[str, np.ndarray]:
    """Returns {key: array} of the file `path`, for the keys in KEYS that the file has. Pickled arrays are not loaded,
    because a pickle can run code.

    Raises UnusableError if the file cannot be read. Raises FeatureFileError if the file has no features (`x`) or no
    boxes (`bbox`).
    """
    try:
        arrays, names = read_npz(path, KEYS)
    except (OSError, ArrayFileError) as error:
        raise UnusableError("unreadable", f"{path}: {error}") from error
    if missing := [key for key in ("x", "bbox") if key not in arrays]:
        raise FeatureFileError(f"{path} has no {' and no '.join(missing)}; it has {', '.join(names)}")
    return arrays


def _regions_first(x: np.ndarray, boxes: np.ndarray, path: Path) -> np.ndarray:
    """Returns the region features `x` as [T, N, C], for T frames, N regions and C channels.

    `x` is [T, N, C] or [T, C, N]. The shape of `boxes`, [T, N, 4], shows which of the two. Raises FeatureFileError for
    other shapes. `path` is the file, for messages.
    """
    if x.ndim == 3 and boxes.ndim == 3 and boxes.shape[2] == 4 and len(x) == len(boxes):
        if x.shape[1] == boxes.shape[1]:
            return x
        if x.shape[2] == boxes.shape[1]:
            return x.swapaxes(1, 2)
    raise FeatureFileError(
        f"{path}: x has shape {list(x.shape)} and bbox {list(boxes.shape)}; [T, N, C] (or [T, C, N]) and [T, N, 4] are "
        "expected, T not needed for one frame"
    )


def _stacked(frames: Sequence[Frame], where: str) -> VideoFeatures:
    """Returns the VideoFeatures of one video from the (regions, boxes) of its frames. `where` names the video in
    messages. The array `pooled` is the mean over the regions of each frame.

    If a frame has fewer regions than another frame, the missing regions and boxes are zeros. Raises FeatureFileError if
    the frames have different numbers of channels.
    """
    sizes = {regions.shape[1] for regions, _ in frames}
    if len(sizes) > 1:
        raise FeatureFileError(f"{where} has frames with features of size {' and '.join(map(str, sorted(sizes)))}")
    T, N, C = len(frames), max(1, *(len(regions) for regions, _ in frames)), *sizes
    regions = np.zeros((T, N, C), np.result_type(*(x.dtype for x, _ in frames)))
    boxes, pooled = np.zeros((T, N, 4), np.float32), np.zeros((T, C), np.float32)
    for t, (x, box) in enumerate(frames):
        regions[t, : len(x)], boxes[t, : len(x)] = x, box
        with np.errstate(invalid="ignore", over="ignore"):  # a later check names values that are not finite
            pooled[t] = x.mean(0, dtype=np.float32) if len(x) else 0
    count = np.array([len(x) for x, _ in frames], np.int16)
    return VideoFeatures(arrays={"regions": regions, "boxes": boxes, "count": count, "pooled": pooled})

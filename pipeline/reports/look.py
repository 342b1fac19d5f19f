"""Draws the figures of a cache: `kinegraph.look`. Each figure of the report comes from a method in this file.

Imports matplotlib and no torch. A method that has nothing to draw raises NothingToShowError, whose message says why.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.words import counted, size
from kinegraph.pipeline.reports.boxes import BoxSummary, box_summary
from kinegraph.pipeline.reports.clip_strips import clip_strip, nearest_strip
from kinegraph.pipeline.reports.embedding import Method, chosen_clips, embedding
from kinegraph.pipeline.reports.frames import NO_LIMIT, FrameFinder
from kinegraph.pipeline.reports.graphs import fitting_head, run_graphs
from kinegraph.pipeline.reports.head_figures import HeadFigures
from kinegraph.pipeline.reports.messages import scene_strip
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.numbers import STATES, CacheNumbers
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.samples import BOXES, ArraySamples, VectorSummary
from kinegraph.pipeline.training.results import find_results
from kinegraph.stages.clock import DEVICE, THREADS
from kinegraph.stages.pictures.bars import bars, dots, histogram, number, shares
from kinegraph.stages.pictures.lines import Line, lines
from kinegraph.stages.pictures.matrices import density
from kinegraph.stages.pictures.picture import NARROW, WIDE, Picture
from kinegraph.stages.pictures.strips import Strip

BINS, MOST_CLASSES, MOST_LISTED, MOST_SPLITS = 30, 40, 14, 4


class Look:
    """Draws figures of a cache for a notebook or a paper. `kinegraph.look` returns a Look. The report shows the same
    figures.

    A method returns a Picture, a matplotlib Figure with `data` (the numbers) and `description` (a sentence). Methods
    that draw frames of videos return a Strip. A notebook shows both. `savefig("norms.pdf")` writes a Picture to a file,
    and `savefig("strip.svg")` a Strip.

    An argument `row` is a row number. Row i is line i of clips.parquet and stands for one clip. Figures of arrays show
    a random sample with a fixed seed: at most 4,096 rows, and at most 256 MiB of each array. A method raises
    NothingToShowError, a ValueError, if the cache has nothing for the figure.
    """

    def __init__(self, cache: Cache, videos: Path | str | None = None, *, decode_seconds: float = NO_LIMIT) -> None:
        self.cache = cache
        self.finder = FrameFinder(cache, videos, decode_seconds)
        self.numbers = CacheNumbers(cache)
        self.samples = ArraySamples(self.numbers)

    def coverage(self) -> Picture:
        """Draws, for each stage, how many clips are ok, warned, failed or not run."""
        stages = self.numbers.stages
        if not stages:
            raise NothingToShowError("No stage has begun yet. Run `kinegraph extract CONFIG`.")
        parts = {name: [stage.counts[name] for stage in stages.values()] for name in STATES.values()}
        return shares("coverage", "Clips by stage", [*stages], parts)

    def classes(self) -> Picture:
        """Draws the number of clips of each class in each split. If there are more than 40 classes, only the 20 largest
        and the 20 smallest are drawn.
        """
        counts, names = self.numbers.class_counts, self.numbers.class_names
        if not counts.size or not counts.sum():
            raise NothingToShowError("No clip has a label.")
        order = np.argsort(-counts.sum(0), kind="stable")
        if len(order) > MOST_CLASSES:
            order = np.concatenate([order[: MOST_CLASSES // 2], order[-MOST_CLASSES // 2 :]])
        labels = [names[at] if at < len(names) else str(at) for at in order]
        series = {split: counts[at, order] for at, split in enumerate(self.numbers.splits[:MOST_SPLITS])}
        width = NARROW if len(order) <= 12 else WIDE
        return dots("classes", "Clips by class and split", labels, series, "clips", width=width)

    def durations(self) -> Picture:
        """Draws a histogram of the lengths of the clips in seconds."""
        seconds = self.numbers.durations[np.isfinite(self.numbers.durations)]
        return _histogram("durations", "Length of clips", {"clips": seconds}, "seconds")

    def frame_sizes(self) -> Picture:
        """Draws the number of clips of each frame size. The 8 most frequent sizes have a bar each, and all other sizes
        share one bar.
        """
        sizes = Counter(map(tuple, self.numbers.frame_sizes[self.numbers.frame_sizes.all(1)].tolist()))
        if not sizes:
            raise NothingToShowError("No row has a frame size: its videos could not be opened, or were imported.")
        named = [(f"{width} x {height}", count) for (width, height), count in sizes.most_common(8)]
        if rest := len(sizes) - len(named):
            named.append((counted(rest, "other size"), sum(sizes.values()) - sum(count for _, count in named)))
        labels, values = [name for name, _ in named], [float(count) for _, count in named]
        return bars("frame_sizes", "Frame sizes in px", labels, values, "clips")

    def disk(self) -> Picture:
        """Draws the number of bytes on disk of each array."""
        sizes = sum((stage.bytes_of for stage in self.numbers.stages.values()), Counter[str]())
        if not sizes:
            raise NothingToShowError("No shard is sealed yet.")
        named = sizes.most_common(MOST_LISTED)
        labels, values = [name for name, _ in named], [float(count) for _, count in named]
        return bars("disk", "Disk by array", labels, values, "bytes", size)

    def time(self) -> Picture:
        """Draws the seconds that each kind of work of the extraction took. Kinds that begin with `threads:` or
        `device:` ran at the same time as the other kinds.
        """
        seconds = [(kind, value) for kind, value in self.numbers.seconds.most_common() if value >= 0.05]
        if not seconds:
            raise NothingToShowError("The ledger has no times.")
        beside = [entry for entry in seconds if entry[0].startswith((THREADS, DEVICE))]
        shown = ([entry for entry in seconds if entry not in beside] + beside)[:MOST_LISTED]
        labels, values = [kind for kind, _ in shown], [value for _, value in shown]
        return bars("time", "Seconds by kind of work", labels, values, "seconds")

    def sealed(self) -> Picture:
        """Draws how the number of sealed clips grew over time, for the stage that was sealed last."""
        seals = max((stage.seals for stage in self.numbers.stages.values()), key=_last_seal, default=[])
        times = [(datetime.fromisoformat(at).timestamp(), rows) for at, rows, _ in seals if at]
        if len(times) < 2:
            raise NothingToShowError("Fewer than two shards have a time.")
        at, rows = np.array(sorted(times)).T
        minutes, done = (at - at[0]) / 60, np.cumsum(rows)
        places = np.unique(np.linspace(0, len(at) - 1, min(len(at), 300)).astype(int))
        line = Line(name="clips", x=minutes[places], y=done[None, places])
        return lines(
            "sealed",
            "Clips sealed over time",
            [line],
            "minutes since the first shard",
            "clips",
            height=2.2,
            width=NARROW,
        )

    def norms(self, array: str) -> Picture:
        """Draws a histogram of the L2 norms of the vectors in an array. `array` is a name such as
        `features/i3d/res5_pooled`.
        """
        summary = self.vectors(array)
        title = f"{array}: length of vectors"
        return _histogram(f"norms_{_file(array)}", title, {"vectors": summary.norms}, "L2 norm", "vectors")

    def norms_against(self, other: "Look", array: str) -> Picture:
        """Draws two histograms of the L2 norms of the vectors in `array`: one of this cache ("here") and one of the
        cache of `other` ("there"). Heights are shares of the vectors of each cache.
        """
        values = {"here": self.vectors(array).norms, "there": other.vectors(array).norms}
        name, title = f"against_{_file(array)}", f"{array}: length of vectors, here and there"
        return _histogram(name, title, values, "L2 norm", "vectors", as_shares=True)

    def spread(self, array: str) -> Picture:
        """Draws a histogram of the channels of an array by their standard deviation. A dead channel has the same value
        in all vectors, so its standard deviation is 0.
        """
        summary = self.vectors(array)
        picture = _histogram(
            f"spread_{_file(array)}",
            f"{array}: spread of channels",
            {"channels": summary.std},
            "standard deviation",
            "channels",
        )
        dead = f" {counted(len(summary.dead), 'dead channel')} of {len(summary.std):,}."
        picture.description += dead
        return picture

    def norm_by_step(self, array: str) -> Picture:
        """Draws the mean L2 norm of the vectors in an array for each time step of a clip."""
        summary = self.vectors(array)
        line = Line(name="mean", x=np.arange(len(summary.norm_by_step)), y=summary.norm_by_step[None])
        title = f"{array}: length by time step"
        return lines(f"steps_{_file(array)}", title, [line], "time step", "mean L2 norm", height=2.2, width=NARROW)

    def embedding(self, array: str, method: Method = "pca") -> Picture:
        """Draws clips as points in a plane. A PCA or a t-SNE computes the points from the mean vector of each clip in
        `array`. Colour and shape of a point show the first label of the clip. At most 200 clips of the 20 most frequent
        classes are drawn.

        `method` is "pca" or "tsne". t-SNE needs scikit-learn. Without scikit-learn, the figure is a PCA, and its
        description says so.
        """
        self.vectors(array)
        rows = chosen_clips(self.numbers, self.samples.rows(array))
        name, of = f"{method}_{_file(array)}", f"the mean vectors of {array}"
        return embedding(self.numbers, rows, self.samples.means(array, rows), method, name=name, of=of)

    def boxes_a_frame(self) -> Picture:
        """Draws a histogram of the frames by their number of boxes."""
        boxes = self.boxes
        counts = np.bincount(np.clip(boxes.counts, 0, None), minlength=boxes.most_boxes + 1)
        edges = np.arange(len(counts) + 1) - 0.5
        return histogram("boxes_a_frame", "Boxes a frame", {"frames": counts}, edges, "boxes", "frames")

    def scores_by_rank(self) -> Picture:
        """Draws the mean score of the boxes of each rank. Rank 1 is the box with the best score in its frame."""
        if not self.boxes.has_scores:
            raise NothingToShowError("The boxes have no scores.")
        scores = self.boxes.score_by_rank
        line = Line(name="mean", x=np.arange(1, len(scores) + 1), y=scores[None])
        return lines("scores_by_rank", "Score by rank", [line], "rank", "mean score", height=2.2, width=NARROW)

    def box_sizes(self) -> Picture:
        """Draws how often boxes of each size and score occur. The size is the square root of the box's share of the
        frame's area. If the boxes have no scores, draws a histogram of their sizes.
        """
        boxes = self.boxes
        if not boxes.has_scores:
            return _histogram(
                "box_sizes", "Size of boxes", {"boxes": boxes.sizes}, "square root of share of frame", "boxes"
            )
        low, high = np.percentile(boxes.scores, (0.5, 99.5))
        high = high if high > low else low + 1
        counts, _, _ = np.histogram2d(np.clip(boxes.scores, low, high), boxes.sizes, BINS, ((low, high), (0, 1)))
        text = f"Boxes by size and score; the median size is {np.median(boxes.sizes):.2f} of the frame's side."
        axes = "size: square root of share of frame", "score"
        return density("box_sizes", "Size and score of boxes", counts, (0, 1, low, high), *axes, text)

    def box_centres(self) -> Picture:
        """Draws how often the centre of a box lies in each part of the frame."""
        centres = self.boxes.centres
        middle = centres[6:18, 6:18].sum() / max(1, centres.sum())
        text = f"Centres of boxes; {middle:.0%} of them lie in the middle quarter of the frame."
        axes = "x, share of frame", "y, share of frame"
        return density("box_centres", "Where boxes lie", centres, (0, 1, 0, 1), *axes, text, downwards=True)

    def box_cover(self) -> Picture:
        """Draws a histogram of the frames by the share of their area that lies inside a box."""
        return _histogram(
            "box_cover", "Share of frame in a box", {"frames": self.boxes.covered}, "share", "frames", (0, 1)
        )

    def box_overlaps(self) -> Picture:
        """Draws a histogram of the boxes. The value of a box is its largest intersection over union with a box of the
        next frame that has boxes.
        """
        overlaps = self.boxes.overlaps
        if not len(overlaps):
            raise NothingToShowError("Clips have boxes at one time step alone.")
        return _histogram("box_overlaps", "Overlap with next frame", {"boxes": overlaps}, "IoU", "boxes", (0, 1))

    def strip(self, row: int, boxes: int = 5, frames: int = 8, path: int | None = None) -> Strip:
        """Draws frames of the clip in row `row` with their boxes, as one picture.

        - `boxes`: how many boxes are drawn in each frame, those with the best scores.
        - `frames`: the largest number of frames.
        - `path`: the number of a drawn box of the first frame, or None. A line follows this box through the frames,
          always to the box with the largest overlap.

        Raises FramesMissingError if the video of the clip is missing or cannot be decoded. Raises ValueError for a row
        or a number of boxes or frames that does not exist.
        """
        self._require_row(row)
        if boxes < 0 or frames < 1:
            raise ValueError(f"strip: given boxes {boxes} and frames {frames}, expected 0 or more, and 1 or more.")
        if path is not None and not 0 <= path < boxes:
            raise ValueError(f"strip: given path {path}, expected one of the {boxes} boxes that are drawn, from 0.")
        return clip_strip(self.samples, self.finder, row, boxes, frames, path)

    def scene_graph(self, row: int, frames: int = 4) -> Strip:
        """Draws up to `frames` scene graphs of the clip in row `row` over its frames. A scene graph shows the objects,
        their relations to the person, and a line from the person to each object with an edge.

        Raises FramesMissingError if the video of the clip is missing. Raises ValueError for a row that does not
        exist.
        """
        self._require_row(row)
        return scene_strip(self.samples, self.finder, row, frames)

    def neighbours(self, row: int, frame: int, box: int, array: str | None = None, count: int = 7) -> Strip:
        """Draws one box of a clip, and the `count` most similar regions of other clips. Regions are similar if the
        cosine of their features is large.

        - `row`: the row number of the clip.
        - `frame`: the number of a time step of the array, from 0.
        - `box`: the number of a box in the time step, from 0.
        - `array`: the array with the features of regions. None means the first such array of the cache.

        Raises FramesMissingError if the video of the clip is missing. Raises ValueError for a row that does not exist.
        """
        self._require_row(row)
        regions = [name for name in self.samples.vector_arrays() if name.startswith("regions/")]
        if not regions or BOXES not in self.samples.specs:
            raise NothingToShowError("The cache has no region features with boxes.")
        if array is not None and array not in regions:
            raise NothingToShowError(f"{array} is no array of regions of the cache. It has {', '.join(regions)}.")
        return nearest_strip(self.samples, self.finder, array or regions[0], (row, frame, box), count)

    def graphs(
        self, run: Path | str, rows: Sequence[int], name: str = "", *, allow_code: bool = False
    ) -> list[Picture | Strip]:
        """Draws the graphs that the head of a trained run computes for the clips in the rows `rows`. Returns a list of
        figures, which is empty if the head has no graph. Runs the head on the CPU, so torch is imported.

        A graph of boxes becomes a Strip for each clip, with the boxes that have the largest weights for one box, or
        with the path of the largest weights. A graph of frames becomes two matrices: the mean over the clips, and the
        Jensen-Shannon divergences between the rows of this mean.

        - `run`: the folder of the run.
        - `name`: the beginning of each title. By default, the name of the folder.
        - `allow_code`: if true, the code of a head of your own may be run.

        Raises RunError if the run cannot be read, or if it was trained on other features. Raises FramesMissingError if
        a video is missing.
        """
        folder = Path(run)
        title = name or folder.name
        return [*run_graphs(self.samples, self.finder, folder, title, rows, allow_code=allow_code)]

    def head(self, run: Path | str, name: str = "", *, allow_code: bool = False) -> HeadFigures:
        """Returns the HeadFigures of a trained run. The methods of HeadFigures draw what the head computes for clips of
        the cache. Imports torch.

        - `run`: the folder of the run.
        - `name`: the beginning of each title. By default, it is the name of the folder.
        - `allow_code`: if true, the code of a head of your own may be run.

        Raises RunError if the run cannot be read, or if it was trained on other features than those of the cache.
        """
        folder = Path(run)
        head = fitting_head(self.cache, folder, allow_code=allow_code)
        return HeadFigures(self.samples, self.finder, name or folder.name, head)

    def runs(self, folder: Path | str) -> Runs:
        """Returns the Runs of all trained runs in `folder` and in its subfolders. The methods of Runs draw scores and
        learning curves.

        Raises ResultsError if there is no run with results.
        """
        return Runs(find_results(Path(folder)), len(self.numbers.class_names))

    def _require_row(self, row: int) -> None:
        if not 0 <= row < self.numbers.num_rows:
            raise ValueError(f"There is no row {row}: {self.cache.root} has {self.numbers.num_rows:,}, counted from 0.")

    def vectors(self, array: str) -> VectorSummary:
        """Returns a VectorSummary of the vectors in the array `array`, with their norms, means and deviations. Raises
        NothingToShowError if the cache has no vectors with this name. `array` is a name such as
        `features/i3d/res5_pooled`.
        """
        if array not in self.samples.vector_arrays():
            names = ", ".join(self.samples.vector_arrays()) or "none yet"
            raise NothingToShowError(f"{self.cache.root} has no array of vectors {array!r}; it has {names}.")
        summary = self.samples.summary(array)
        if summary is None or not len(summary.norms):
            raise NothingToShowError(f"No row of {array} has values.")
        return summary

    @cached_property
    def boxes(self) -> BoxSummary:
        """Returns a BoxSummary of the boxes of the cache, with their numbers, sizes, places and overlaps. Raises
        NothingToShowError if no row has boxes.
        """
        summary = box_summary(self.samples)
        if summary is None:
            raise NothingToShowError("The cache has no boxes. A config with the section `proposals` extracts them.")
        return summary


def _histogram(
    name: str,
    title: str,
    values: dict[str, np.ndarray],
    axis: str,
    noun: str = "clips",
    limits: tuple[float, float] | None = None,
    *,
    as_shares: bool = False,
) -> Picture:
    finite = {key: np.asarray(series, float)[np.isfinite(series)] for key, series in values.items()}
    together = np.concatenate([*finite.values()])
    if not len(together):
        raise NothingToShowError(f"{title}: there are no values.")
    low, high = limits or (float(together.min()), float(together.max()))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts = {key: np.histogram(series, edges)[0] for key, series in finite.items()}
    picture = histogram(name, title, counts, edges, axis, noun, as_shares=as_shares)
    picture.description += f" The median is {number(float(np.median(together)))}."
    return picture


def _last_seal(seals: list[tuple[str, int, str]]) -> str:
    return max((at for at, _, _ in seals), default="")


def _file(array: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in array)

"""Draws strips of frames with the boxes of the cache: of one clip, or of the regions that are most similar to a box.

Torch-free. Every frame that has boxes is a time step. If the cache has no boxes, every frame of the clip is a time
step.
"""

from collections.abc import Sequence

import numpy as np

from kinegraph.cache_schemas.box_classes import BOX_LABELS, box_class_names, named
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.frames import ClipPictures, FrameFinder, FramesMissingError
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.samples import BOXES, COUNT, SCORES, ArraySamples
from kinegraph.stages.pictures.strips import DrawnEdge, Heat, Point, Strip, StripFrame, data_uri

NEIGHBOUR_ROWS = 512
ALL_STEPS = 1 << 16
NO_BOXES = np.empty((0, 4))


def evenly_spread(count: int, most: int) -> list[int]:
    """Returns at most `most` of the numbers from 0 to `count` - 1, evenly spread. The first and the last number are
    among them. If `most` is 1, the result is [0].
    """
    places: list[int] = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()
    return places


def box_step(samples: ArraySamples) -> int:
    """Returns the distance between two frames with boxes: 2 if every second frame of a clip has boxes. Returns 1 if the
    cache has no boxes.
    """
    return samples.specs[BOXES].frame_step or 1 if BOXES in samples.specs else 1


def clip_strip(
    samples: ArraySamples, finder: FrameFinder, row: int, boxes: int, frames: int, path: int | None
) -> Strip:
    """Returns a Strip of at most `frames` frames of the clip in row `row`, evenly spread. If the cache has boxes, only
    frames with boxes are drawn, each with the `boxes` boxes that have the best scores.

    `path` is the number of a drawn box of the first frame, or None. A line follows this box through the frames. Raises
    FramesMissingError if the clip has no frames to show.
    """
    has_boxes = BOXES in samples.specs and bool(samples.numbers.stages[samples.specs[BOXES].stage].usable[row])
    clip = finder.clip(row, box_step(samples), frames)
    drawn: list[np.ndarray] = [np.empty((0, 4)) for _ in clip.steps]
    names: list[list[str]] = [[] for _ in clip.steps]
    classes: list[list[str]] = [[] for _ in clip.steps]
    if has_boxes and not clip.has_changed:
        given, scores, count = (samples.read(name, np.array([row]))[0] for name in (BOXES, SCORES, COUNT))
        drawn = [given[at, : min(boxes, count[at])] for at in clip.steps]
        names = [
            [_box_text(rank, scores[at, rank]) for rank in range(len(drawn[place]))]
            for place, at in enumerate(clip.steps)
        ]
        of_row = box_classes(samples, row)
        classes = [of_row[at][: len(drawn[place])] for place, at in enumerate(clip.steps)] if of_row else classes
    line = [] if path is None else box_path(drawn, path)
    pictures = [
        clip_frame(clip, place, boxes=drawn[place], names=names[place], classes=classes[place], path=line[: place + 1])
        for place in range(len(clip.steps))
    ]
    changed = " The video has changed since the cache was made, so no boxes are drawn." if clip.has_changed else ""
    text = (
        f"{counted(len(pictures), 'frame')} of {clip.row.clip_id} with {counted(sum(map(len, drawn)), 'box')}.{changed}"
    )
    title = f"{clip.row.video_id}: {samples.numbers.name_of(row)}"
    data = {"seconds": clip.times, "time step": clip.steps}
    return Strip(name=f"strip_{row}", title=title, description=text, frames=pictures, data=data)


def nearest_strip(
    samples: ArraySamples, finder: FrameFinder, array: str, query: tuple[int, int, int], count: int
) -> Strip:
    """Returns a Strip of one box and of the `count` most similar regions of other clips. Regions are similar if the
    cosine of their features in `array` is large.

    `query` is the box as (row, time step of `array`, number of the box). Regions of at most 512 rows are compared. A
    region is left out if its video is missing. Raises FramesMissingError if the video of the box is missing. Raises
    NothingToShowError if the box does not exist.
    """
    row, step, box = query
    own, of_boxes = samples.vectors(array, np.array([row]))[0], samples.box_steps(array)
    is_there = 0 <= step < own.shape[0] and 0 <= box < own.shape[1]
    if not is_there or not np.isfinite(own[step, box]).all():
        raise NothingToShowError(f"The clip in row {row} has no region for box {box} at time step {step} in {array}.")
    rows = samples.rows(array, most_rows=NEIGHBOUR_ROWS)
    rows = rows[rows != row]
    places, cosines = most_similar(samples, array, own[step, box], rows)
    frames = [_one_frame(samples, finder, (row, int(of_boxes[step]), box), "the box")]
    similarities = [1.0]
    for (other, at, rank), cosine in zip(places, cosines, strict=True):
        if len(frames) > count:
            break
        try:
            frames.append(_one_frame(samples, finder, (other, int(of_boxes[at]), rank), f"cosine {cosine:.3f}"))
            similarities.append(cosine)
        except FramesMissingError:
            continue
    text = (
        f"A box and the {len(frames) - 1} most similar regions of other clips among {counted(len(rows), 'clip')}, "
        f"by the cosine of {array}: " + ", ".join(f"{value:.3f}" for value in similarities[1:])
    )
    return Strip(
        name=f"neighbours_{row}_{step}_{box}", title=f"Nearest regions of row {row}", description=f"{text}.",
        frames=frames, data={"cosine": np.array(similarities)},
    )  # fmt: skip


def boxes_strip(
    samples: ArraySamples, finder: FrameFinder, row: int, nodes: Sequence[tuple[tuple[int, int], float]],
    path: Sequence[tuple[int, int]], *, name: str, title: str, meaning: str, most: int,
) -> Strip:  # fmt: skip
    """Returns a Strip of the clip in row `row` with only the boxes in `nodes`. It shows the first `most` time steps
    that have such a box. Time steps count only frames that have boxes.

    - `nodes`: ((time step, box), weight) of each box. The first box is drawn in another colour.
    - `path`: the (time step, box) of the boxes that a line joins.
    - `meaning`: what the boxes are, for the description.

    Raises FramesMissingError if the clip has no frames to show.
    """
    clip = finder.clip(row, box_step(samples), ALL_STEPS)
    if clip.has_changed:
        raise FramesMissingError(f"{clip.row.path} has changed since the cache was made, so its boxes do not fit.")
    boxes = samples.read(BOXES, np.array([row]))[0]  # [T, N, 4]
    of_row = box_classes(samples, row)
    steps = sorted({step for (step, _), _ in nodes})[:most]
    line = [(step, (boxes[step, box, :2] + boxes[step, box, 2:]) / 2) for step, box in path]
    frames = []
    for step in steps:
        here = [(box, weight, at) for at, ((other, box), weight) in enumerate(nodes) if other == step]
        names = [f"box {box}, weight {weight:.3f}" for box, weight, _ in here]
        chosen = next((place for place, (_, _, at) in enumerate(here) if at == 0), None)
        points = [(float(x), float(y)) for at, (x, y) in line if at <= step]
        drawn = np.array([boxes[step, box] for box, _, _ in here])
        place = int(np.flatnonzero(clip.steps == step)[0])
        classes = [of_row[step][box] for box, _, _ in here] if of_row else []
        frames.append(clip_frame(clip, place, boxes=drawn, names=names, classes=classes, path=points, chosen=chosen))
    weights = np.array([weight for _, weight in nodes])
    weights_text = ", ".join(f"{weight:.3f}" for weight in weights[1:]) or "all 0"
    description = f"{clip.row.clip_id}: {meaning}. The weights are {weights_text}."
    return Strip(name=name, title=title, description=description, frames=frames, data={"weight": weights})


def most_similar(
    samples: ArraySamples, array: str, vector: np.ndarray, rows: np.ndarray, most: int = 32
) -> tuple[list[tuple[int, int, int]], list[float]]:
    """Returns the `most` regions whose features are most similar to `vector` [C], as (places, cosines). The most
    similar region comes first. A place is (row, time step, box). A cosine is the similarity of the region to `vector`.

    Only the clips in the rows `rows` are searched, with at most one result for each clip. `array` is the name of an
    array of vectors with C channels.
    """
    best: list[tuple[float, tuple[int, int, int]]] = []
    unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
    for first in range(0, len(rows), 64):
        some = rows[first : first + 64]
        vectors = samples.vectors(array, some)  # [R, T, N, C]
        norms = np.maximum(np.linalg.norm(vectors, axis=-1), 1e-12)
        cosine = np.nan_to_num(vectors @ unit / norms, nan=-2.0).reshape(len(some), -1)
        for index, place in enumerate(cosine.argmax(1)):
            step, box = np.unravel_index(place, vectors.shape[1:3])
            best.append((float(cosine[index, place]), (int(some[index]), int(step), int(box))))
    best = sorted((entry for entry in best if entry[0] > -2), key=lambda entry: (-entry[0], entry[1]))[:most]
    return [place for _, place in best], [cosine for cosine, _ in best]


def box_classes(samples: ArraySamples, row: int) -> list[list[str]]:
    """Returns the class names of the cached boxes of the clip in row `row`: one list for each frame with boxes. Every
    list has N names, because a frame has room for N boxes. In a frame with n boxes, only the first n names have a
    meaning. Returns an empty list if the boxes of the cache have no classes.
    """
    names = box_class_names(samples.numbers.cache)
    if BOX_LABELS not in samples.specs:
        return []
    return [named(step, names) for step in samples.read(BOX_LABELS, np.array([row]))[0].tolist()]


def box_path(boxes: Sequence[np.ndarray], first: int) -> list[Point]:
    """Follows a box through the frames of a clip. Returns the centre (x, y) of the box in each frame, until the path
    ends.

    The path begins at box number `first` of the first frame. In each next frame, it goes on to the box with the largest
    overlap. It ends if no box overlaps. `boxes` has an array [number of boxes, 4] for each frame.
    """
    if not len(boxes) or len(boxes[0]) <= first:
        return []
    box, centres = boxes[0][first], []
    for place, others in enumerate(boxes):
        if place:
            overlap = _iou(others, box)
            if not overlap.any():
                break
            box = others[overlap.argmax()]
        centres.append((float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2))
    return centres


def _iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = np.clip(sides, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    iou: np.ndarray = shared / np.maximum(areas - shared, 1e-9)
    return iou


def _one_frame(samples: ArraySamples, finder: FrameFinder, place: tuple[int, int, int], caption: str) -> StripFrame:
    row, step, box = place
    clip = finder.clip(row, box_step(samples), ALL_STEPS)
    if clip.has_changed:
        raise FramesMissingError(f"{clip.row.path} has changed since the cache was made, so its boxes do not fit.")
    boxes, scores, count = (samples.read(name, np.array([row]))[0, step] for name in (BOXES, SCORES, COUNT))
    if box >= count:
        raise NothingToShowError(f"The clip in row {row} has {counted(int(count), 'box')} at time step {step}.")
    at = int(np.flatnonzero(clip.steps == step)[0])
    text = f"{clip.row.video_id}, {clip.times[at]:.2f} s, {_box_text(box, scores[box])}"
    of_row = box_classes(samples, row)
    classes = [of_row[step][box]] if of_row else []
    return clip_frame(clip, at, boxes=boxes[box][None], names=[text], classes=classes, chosen=0, caption=caption)


def clip_frame(
    clip: ClipPictures, place: int, *, boxes: np.ndarray = NO_BOXES, names: Sequence[str] = (),
    classes: Sequence[str] = (), path: Sequence[Point] = (), chosen: int | None = None, caption: str = "",
    heat: Heat | None = None, edges: Sequence[DrawnEdge] = (), labels: Sequence[tuple[Point, str]] = (),
) -> StripFrame:  # fmt: skip
    """Returns the frame number `place` of `clip` as a StripFrame. If `caption` is "", the time of the frame is the
    caption. The other arguments are those of StripFrame.
    """
    row: ClipRow = clip.row
    return StripFrame(
        image=data_uri(clip.pixels[place]),
        width=row.frame_width,
        height=row.frame_height,
        boxes=boxes,
        names=names,
        classes=classes,
        path=path,
        chosen=chosen,
        caption=caption or f"{clip.times[place]:.2f} s",
        heat=heat,
        edges=edges,
        labels=labels,
    )


def _box_text(rank: int, score: float) -> str:
    return f"box {rank}, score {score:.2f}"

"""Draws graphs over the frames of a clip: the messages that a head sends between the cells of a map, and the scene
graphs of a cache. Torch-free.

Shapes: T time steps of a head, P pairs of nodes, V nodes.
"""

from collections.abc import Sequence

import numpy as np

from kinegraph.cache_schemas.crops import Rectangle
from kinegraph.cache_schemas.scene_graphs import GRAPHS, SceneGraph, scene_graphs
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.clip_strips import ALL_STEPS, clip_frame, evenly_spread
from kinegraph.pipeline.reports.frames import FrameFinder, FramesMissingError
from kinegraph.pipeline.reports.head_maps import frames_of, seen_rectangle
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.samples import ArraySamples
from kinegraph.stages.pictures.strips import DrawnEdge, Heat, Strip, StripFrame
from kinegraph.stages.pictures.theme import label

MOST_FRAMES, MOST_MESSAGES, MOST_OBJECTS = 4, 5, 6
LETTERS, LINE_SHARE = 34, 0.065  # letters as high as a frame is; the height of a line, as a share of the frame's height
PERSON_X, OBJECT_X, TEXT_X = 0.06, 0.19, 0.22  # places, as shares of the frame's width


def messages_strip(
    samples: ArraySamples, finder: FrameFinder, row: int, array: str, strengths: np.ndarray,
    pairs: Sequence[tuple[int, int]], cells: np.ndarray, *, name: str, title: str,
) -> Strip:  # fmt: skip
    """Returns a Strip of at most 4 frames of a clip, with the five strongest messages of each frame. A message is a
    line from the sender's cell of the map to the receiver's cell, with a dot at the receiver. A heat map shows how much
    each cell receives.

    - `row`: the row number of the clip.
    - `array`: the name of the array of maps that the head reads.
    - `strengths`: [time steps, pairs], the strength of each message at each time step.
    - `pairs`: the (sender, receiver) of each message, as numbers of nodes.
    - `cells`: [nodes, 4], the cell of each node as (x1, y1, x2, y2). 0 and 1 are the edges of the map.

    Raises FramesMissingError if the clip has no frames to show, or if its video has changed.
    """
    clip = finder.clip(row, 1, ALL_STEPS)
    if clip.has_changed:
        raise FramesMissingError(f"{clip.row.path} has changed since the cache was made, so its maps do not fit.")
    rectangle = seen_rectangle(samples.numbers.cache, array, clip.row)
    received = np.zeros((len(strengths), len(cells)))
    for at, (_, receiver) in enumerate(pairs):
        received[:, receiver] += strengths[:, at]
    areas = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])
    smallest = np.flatnonzero(areas <= areas.min() * 1.001)  # in the order of rows of cells
    side = round(len(smallest) ** 0.5)
    heat = received[:, smallest].reshape(-1, side, side)
    most, sampled = float(strengths.max()) or 1.0, frames_of(samples.specs[array], len(strengths))
    frames = []
    for step in evenly_spread(len(strengths), MOST_FRAMES):
        strongest = np.argsort(-strengths[step], kind="stable")[:MOST_MESSAGES]
        edges = [
            DrawnEdge(start=middle(rectangle, cells[pairs[at][0]]), end=middle(rectangle, cells[pairs[at][1]]),
                 share=float(strengths[step, at]) / most)
            for at in strongest if strengths[step, at] > 0
        ]  # fmt: skip
        place = min(int(sampled[step]), len(clip.pixels) - 1)
        shown = Heat(shares=heat[step] / (heat.max() or 1.0), rectangle=rectangle)
        frames.append(clip_frame(clip, place, edges=edges, heat=shown))
    text = f"The {MOST_MESSAGES} strongest messages between {counted(len(cells), 'node')} of each frame. The strongest "
    text += f"one has the length {most:.3g}. Yellow cells receive most."
    return Strip(name=name, title=title, description=text, frames=frames, data={"strength": strengths})


def middle(rectangle: Rectangle, cell: np.ndarray) -> tuple[float, float]:
    """Returns the middle (x, y) of a cell in px. `cell` is (x1, y1, x2, y2) in shares of the width and height of
    `rectangle`, from 0 to 1. `rectangle` is (x1, y1, x2, y2) in px.
    """
    x1, y1, x2, y2 = rectangle
    return x1 + (x2 - x1) * float(cell[0] + cell[2]) / 2, y1 + (y2 - y1) * float(cell[1] + cell[3]) / 2


def scene_strip(samples: ArraySamples, finder: FrameFinder, row: int, frames: int) -> Strip:
    """Returns a Strip of up to `frames` scene graphs of the clip in row `row`. Each scene graph is drawn over the frame
    that is nearest to its time. A line joins the person with each object to which the graph has an edge.

    Raises NothingToShowError if the cache or the clip has no scene graphs. Raises FramesMissingError if the clip has no
    frames to show.
    """
    names = [name for name in samples.specs if name.startswith(f"{GRAPHS}/")]
    if not names or not samples.numbers.stages[GRAPHS].usable[row]:
        why = "The cache has no scene graphs." if not names else f"The clip in row {row} has no scene graphs."
        raise NothingToShowError(f"{why} A config with the section `graphs` makes them.")
    arrays = {name: samples.read(name, np.array([row]))[0] for name in names}
    vocabulary = samples.numbers.cache.stage(GRAPHS).options.get("vocabulary") or {}
    graphs = scene_graphs(arrays, vocabulary)
    if not graphs:
        raise NothingToShowError(f"No frame of the clip in row {row} has a scene graph.")
    clip = finder.clip(row, 1, ALL_STEPS)
    shown = [
        graphs[at] for at in np.unique(np.linspace(0, len(graphs) - 1, min(frames, len(graphs))).round().astype(int))
    ]
    drawn: list[StripFrame] = []
    for graph in shown:
        seconds = clip.row.start_seconds + graph.seconds
        place = int(np.abs(clip.times - seconds).argmin())
        edges, labels = _laid_out(graph, clip.row.frame_width, clip.row.frame_height)
        drawn.append(clip_frame(clip, place, edges=edges, labels=labels))
    text = f"{len(drawn)} of {counted(len(graphs), 'scene graph')} of {clip.row.clip_id}. "
    text += "; ".join(_graph_text(graph) for graph in shown)
    seconds = np.array([graph.seconds for graph in shown])
    title = f"{clip.row.video_id}: scene graphs"
    return Strip(name=f"scene_{row}", title=title, description=f"{text}.", frames=drawn, columns=2,
                 data={"seconds": seconds})  # fmt: skip


def _laid_out(
    graph: SceneGraph, width: float, height: float
) -> tuple[list[DrawnEdge], list[tuple[tuple[float, float], str]]]:
    """Returns (edges, labels) of a scene graph for a frame of `width` x `height` px. The person stands at the left. The
    objects stand to the right, one below the other.
    """
    objects = graph.objects[:MOST_OBJECTS]
    person = (PERSON_X * width, height / 2)
    labels = [((0.02 * width, height / 2 + 0.07 * height), "person")]
    edges = []
    most = max(8, int((1 - TEXT_X) * width / height * LETTERS))
    for at, one in enumerate(objects):
        y = height * (at + 0.5) / len(objects)
        if one.is_linked:
            edges.append(DrawnEdge(start=person, end=(OBJECT_X * width, y), share=0.2))
        labels.append(((TEXT_X * width, y), label(one.name, most)))
        if one.relations:
            labels.append(((TEXT_X * width, y + LINE_SHARE * height), label(", ".join(one.relations), most)))
    return edges, labels


def _words(name: str, relations: Sequence[str]) -> str:
    return f"{name}: {', '.join(relations)}" if relations else name


def _graph_text(graph: SceneGraph) -> str:
    objects = ", ".join(_words(one.name, one.relations) for one in graph.objects) or "the person alone"
    return f"{graph.seconds:.2f} s: {objects}"

"""Draws the graphs that a trained head computes over the boxes or frames of clips. Imports torch when a head runs.

Shapes: T time steps, N boxes of a time step.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_fingerprint, features_options
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.clip_strips import boxes_strip
from kinegraph.pipeline.reports.frames import FrameFinder
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.relations import relation_pictures
from kinegraph.pipeline.reports.samples import ArraySamples
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.strips import Strip

if TYPE_CHECKING:
    from kinegraph.cache_schemas.reader import Batch
    from kinegraph.stages.heads.clip_graphs import ClipGraph
    from kinegraph.stages.heads.head import Head

MOST_NODES, MOST_FRAMES = 6, 8
Node = tuple[int, int]  # time step, box


def heaviest(weights: np.ndarray, query: Node, most: int) -> list[tuple[Node, float]]:
    """Returns the `most` nodes with the largest weights for the node `query`, as (node, weight), the largest first. A
    node is (time step, box). `query` itself and nodes with the weight 0 are left out.

    `weights` [T, N, T, N] are those of a ClipGraph for one clip. Entry (t, i, u, j) is the weight of the node (u, j)
    for the node (t, i).
    """
    row = weights[query].copy()  # [T, N]
    row[query] = 0
    order = np.argsort(-row, axis=None, kind="stable")[:most]
    nodes = [(int(place // row.shape[1]), int(place % row.shape[1])) for place in order]
    return [(node, float(row[node])) for node in nodes if row[node] > 0]


def heaviest_path(weights: np.ndarray) -> list[tuple[Node, float]]:
    """Returns a path through a graph as a list of (node, weight). A node is (time step, box). The path begins at box 0
    of the first time step. The next node is the box of the next time step with the largest weight for the present node.
    The path ends where no weight is above 0.

    If the graph only has weights backwards in time, the path goes backwards, from box 0 of the last time step.
    `weights` [T, N, T, N] are those of a ClipGraph for one clip, as in `heaviest`.
    """
    num_steps = weights.shape[0]
    is_forwards = any(weights[step, :, step + 1].any() for step in range(num_steps - 1))
    steps = range(num_steps) if is_forwards else range(num_steps)[::-1]
    path: list[tuple[Node, float]] = [((steps[0], 0), 1.0)]
    for step in steps[1:]:
        row = weights[path[-1][0]][step]
        if row.max(initial=0) <= 0:
            break
        path.append(((step, int(row.argmax())), float(row.max())))
    return path


def run_graphs(
    samples: ArraySamples,
    finder: FrameFinder,
    folder: Path,
    name: str,
    rows: Sequence[int],
    *,
    allow_code: bool = False,
) -> Iterator[Picture | Strip]:
    """Yields the figures of all graphs of the trained run in `folder`, for the clips in the rows `rows`. The function
    `head_graphs` describes the figures. `name` begins the titles.

    Raises RunError if the run cannot be read, or if it was trained on other features than those of the cache. The code
    of a user's own head is run only with `allow_code`.
    """
    head = fitting_head(samples.numbers.cache, folder, allow_code=allow_code)
    yield from head_graphs(samples, finder, name, head, rows)


def fitting_head(cache: Cache, folder: Path, *, allow_code: bool = False) -> "Head":
    """Returns the head of the trained run in `folder`, in evaluation mode on the CPU.

    Raises RunError if the run cannot be read, or if it was trained on other features than those of `cache`. The code of
    a user's own head is run only with `allow_code`.
    """
    from kinegraph.pipeline.training.trainable import spec_of
    from kinegraph.stages.training.checkpoint import load_run, require_fit, require_same_features

    head, record = load_run(folder, allow_code=allow_code)
    require_fit(record, spec_of(cache), tuple(cache.classes))
    before = features_fingerprint(cache, head.reads, before_upgrade=True)
    now = features_options(cache, head.reads), features_fingerprint(cache, head.reads)
    require_same_features(record, *now, before)
    return head


def batch_of(samples: ArraySamples, arrays: Sequence[str], rows: Sequence[int]) -> "Batch":
    """Returns the values of `arrays` in the rows `rows` as one Batch, a dict of array name -> tensor [rows, ...].
    Raises NothingToShowError if a row has no values.
    """
    clips = samples.reader(arrays)
    if len(lacking := np.setdiff1d(rows, clips.rows)):
        text = f"The clip in row {lacking[0]} has no values of {', '.join(arrays)}"
        raise NothingToShowError(f"{text}: it failed, it is not extracted yet, or there is no such row.")
    return clips.batch(np.searchsorted(clips.rows, rows))


def head_graphs(
    samples: ArraySamples, finder: FrameFinder, name: str, head: "Head", rows: Sequence[int]
) -> Iterator[Picture | Strip]:
    """Yields the figures of all graphs that a head computes for the clips in `rows`. `name` begins the titles.

    - A graph of boxes becomes a Strip for each clip. It shows the first box of the middle time step, and the boxes with
      the largest weights for it.
    - A graph of boxes of neighbouring frames becomes a Strip for each clip, with the path of the largest weights.
    - A graph of frames becomes two matrices: its mean over the clips, and the divergences between the rows of the mean.

    Raises FramesMissingError if a video is missing. Raises NothingToShowError if a row has no values.
    """
    import torch

    if not rows:
        return
    batch = batch_of(samples, head.reads, rows)
    head.eval()
    with torch.inference_mode():
        graphs = head.clip_graphs(batch)
    for graph_name, graph in graphs.items():
        title = f"{name}: {graph_name}"
        if graph.links == "frames":
            mean = graph.matrix.mean(0).numpy()  # [T, T]
            yield from relation_pictures(mean, len(rows), title, plain(f"graph_{name}_{graph_name}"))
            continue
        for place, row in enumerate(rows):
            yield _boxes_graph(samples, finder, graph, place, row, title)


def _boxes_graph(
    samples: ArraySamples, finder: FrameFinder, graph: "ClipGraph", place: int, row: int, title: str
) -> Strip:
    weights = graph.weights[place].numpy()  # [T, N, T, N]
    if graph.links == "boxes":
        start = (weights.shape[0] // 2, 0)
        shown, joined = [(start, 1.0), *heaviest(weights, start, MOST_NODES)], []
        meaning = f"box 0 of time step {start[0]}, and the boxes with the largest weights in its sum"
    else:
        shown = joined = heaviest_path(weights)
        meaning = f"the path of the largest weights from box 0 on, over {counted(len(joined), 'frame')}"
    nodes = [((graph.frame(step), box), weight) for (step, box), weight in shown]
    path = sorted((graph.frame(step), box) for (step, box), _ in joined)
    name = plain(f"graph_{title}_{row}")
    return boxes_strip(samples, finder, row, nodes, path, name=name, title=title, meaning=meaning, most=MOST_FRAMES)


def plain(name: str) -> str:
    """Returns `name` with `_` in place of all characters except letters and digits: "a b-c" -> "a_b_c"."""
    return "".join(c if c.isalnum() else "_" for c in name)

"""Measures how well trained heads find what the generated videos show. The content of each video is known.

Shapes: B clips, T frames, K things, N boxes of a frame, H rows and W columns of a map.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from examples.ablations.rows import (
    AREA,
    CHANCE,
    CHANCE_NEXT,
    DIVERGENCE,
    IN_OTHERS,
    IN_PAIR,
    NO_TWINS,
    SAME,
    SAME_NEXT,
    TWINS,
    WINDOW,
)
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.training.scoring import RunScores
from kinegraph.stages.generated.drawing import FRAME_SIZE
from kinegraph.stages.generated.interactions import FPS, Truth, truth
from kinegraph.stages.heads.atr import GraphReasoner, Locator
from kinegraph.stages.heads.clip_graphs import outputs_of
from kinegraph.stages.heads.head import Head
from kinegraph.stages.heads.inputs import BOXES, COUNT
from kinegraph.stages.scene_graphs.from_interactions import VIDEO_ID
from kinegraph.stages.training.checkpoint import load_run

BATCH, MIN_IOU = 50, 0.5


def measures_of(folder: Path, scores: RunScores) -> dict[str, float]:
    """Returns {measure: value} for the run in `folder`. `scores` are its scores on the test videos."""
    head, record = load_run(folder)
    boxes = [BOXES, COUNT] if head.name == "strg" else []
    clips = CachedClips(record.cache, [*dict.fromkeys([*head.reads, *boxes])], scores.split)
    with torch.inference_mode():
        if head.name == "atr":
            return mass_of_the_locator(head, clips) | relations_of_frames(head, clips)
        if head.name == "strg":
            return neighbours(head, clips)
    return with_and_without_twins(scores) if head.name in ("st_sgn", "relation_matrix") else {}


def mass_of_the_locator(head: Head, clips: CachedClips) -> dict[str, float]:
    """Returns {measure: value}: how much of the locator's softmax over the maps of `clips` lies in the true boxes.
    Returns {} for a `head` without a locator.
    """
    locators = [module for module in head.modules() if isinstance(module, Locator)]
    if not locators:
        return {}
    sums, num_maps = dict.fromkeys([IN_PAIR, IN_OTHERS, AREA], 0.0), 0
    for batch, shown in _batches(clips):
        with outputs_of(*locators) as located:
            head(batch)
        for maps in located:  # [B, T, 1, H, W]
            height, width = maps.shape[3:]
            shares = maps.flatten(3).softmax(3).view_as(maps)[:, :, 0]
            step = len(shown[0]) // maps.shape[1]  # frames of the clip from one map to the next
            pair = torch.stack([covered(boxes[::step, :2], height, width) for boxes in shown])  # [B, T, H, W]
            others = torch.stack([covered(boxes[::step, 2:], height, width) for boxes in shown])
            sums[IN_PAIR] += (shares * pair).sum().item()
            sums[IN_OTHERS] += (shares * others).sum().item()
            sums[AREA] += pair.mean((2, 3)).sum().item()
            num_maps += shares.shape[0] * shares.shape[1]
    return {name: value / num_maps for name, value in sums.items()}


def covered(boxes: np.ndarray, height: int, width: int) -> Tensor:
    """Returns the part of each cell of a map that boxes cover, from 0 to 1: float32 [T, H, W], with H = `height` and W
    = `width`. `boxes` [T, K, 4] are in pixels.
    """
    centres = torch.arange(FRAME_SIZE) + 0.5
    x1, y1, x2, y2 = torch.from_numpy(boxes)[..., None].unbind(2)  # [T, K, 1]
    rows, columns = (centres >= y1) & (centres < y2), (centres >= x1) & (centres < x2)
    inside = (rows[..., :, None] & columns[..., None, :]).any(1)
    return adaptive_avg_pool2d(inside.float(), (height, width))


def relations_of_frames(head: Head, clips: CachedClips) -> dict[str, float]:
    """Returns {measure: value}: how much the rows of the graph reasoners of `head` differ on `clips`. Returns {} for a
    head without a graph reasoner.
    """
    if not any(isinstance(module, GraphReasoner) for module in head.modules()):
        return {}
    sums = [
        [graph.matrix.double().sum(0) for graph in head.clip_graphs(batch).values()] for batch, _ in _batches(clips)
    ]
    means = [torch.stack(of_graph).sum(0) / len(clips) for of_graph in zip(*sums, strict=True)]  # [T, T] each
    windows = [
        torch.stack([mean.diagonal(k)[1 + min(k, 0) :][: len(mean) - 2] for k in (-1, 0, 1)], 1) for mean in means
    ]
    return {
        DIVERGENCE: float(np.mean([divergence(window) for window in windows])),
        WINDOW: float(np.mean([window.sum(1).mean().item() for window in windows])),
    }


def divergence(weights: Tensor) -> float:
    """Returns the Jensen-Shannon divergence in bits between two rows of `weights` [R, n], averaged over all pairs of
    rows.

    Each row is first divided by its sum.
    """
    rows = weights / weights.sum(1, keepdim=True)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    middle = (rows[first] + rows[second]) / 2
    both = [torch.xlogy(p, p / middle.clamp_min(1e-300)).sum(1) for p in (rows[first], rows[second])]
    return float(torch.stack(both).mean() / np.log(2))


def neighbours(head: Head, clips: CachedClips) -> dict[str, float]:
    """Returns {measure: value} for the graphs of `head` on `clips`: how often the strongest neighbour of a box is the
    same thing, and how often a random neighbour is.
    """
    sums: dict[str, float] = {}
    names = {"similarity": (SAME, CHANCE), "front": (SAME_NEXT, CHANCE_NEXT)}
    for batch, shown in _batches(clips):
        for name, graph in head.clip_graphs(batch).items():
            if name not in names:
                continue
            frames, top = graph.weights.shape[1:3]
            boxes = batch[BOXES][:, :: graph.frame_step, :top].double()  # [B, T, N, 4]
            step = shown[0].shape[0] // frames  # frames of the clip from one frame of boxes to the next
            things = things_of(boxes, torch.from_numpy(np.stack([of_clip[::step] for of_clip in shown])))
            for key, value in zip((*names[name], name), _same(graph.matrix, things, name == "front"), strict=True):
                sums[key] = sums.get(key, 0.0) + value
    return {key: sums[key] / sums[name] for name, keys in names.items() if name in sums for key in keys}


def things_of(boxes: Tensor, things: Tensor) -> Tensor:
    """Returns the number of the thing in each box, int64 [B, T, N]. It is -1 if the box overlaps no thing with an IoU
    of MIN_IOU.

    `boxes` is [B, T, N, 4] and `things` is [B, T, K, 4], both (x1, y1, x2, y2) in pixels.
    """
    a, b = boxes[:, :, :, None], things[:, :, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    shared, (area_a, area_b) = sides.prod(-1), ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    overlap, thing = (shared / (area_a + area_b - shared)).nan_to_num(0).max(3)
    return torch.where(overlap >= MIN_IOU, thing, -1)


def _same(matrix: Tensor, things: Tensor, next_frame: bool) -> tuple[float, float, float]:
    """Returns three sums over boxes: boxes whose strongest neighbour is the same thing, the probability that a random
    neighbour is, and the number of boxes.

    `matrix` [B, T * N, T * N] has the weights. `things` [B, T, N] has the thing of each box, or -1. Neighbours are the
    boxes of things in all other frames. If `next_frame` is true, they are the boxes of things in the next frame.
    """
    num_frames, num_boxes = things.shape[1:]
    frame, thing = torch.arange(num_frames).repeat_interleave(num_boxes), things.flatten(1)
    apart = frame[None, :] == frame[:, None] + 1 if next_frame else frame[None, :] != frame[:, None]
    allowed = apart & (thing >= 0)[:, None, :] & (thing >= 0)[:, :, None]  # [B, V, V]
    alike = allowed & (thing[:, None, :] == thing[:, :, None])
    counted = allowed.any(2)
    strongest = matrix.masked_fill(~allowed, -1).argmax(2, keepdim=True)
    hits = alike.gather(2, strongest)[..., 0][counted].sum().item()
    by_chance = (alike.sum(2)[counted] / allowed.sum(2)[counted]).sum().item()
    return float(hits), by_chance, float(counted.sum().item())


def with_and_without_twins(scores: RunScores) -> dict[str, float]:
    """Returns {measure: accuracy}, from the scores of a run, for two groups of videos: those in which two objects bear
    the same digit, and all others.
    """
    videos = scores.result.videos
    right = (videos.scores.argmax(1) == videos.labels).numpy()
    twins = np.array([len({*shown_in(video).digits[1:]}) < 3 for video in videos.video_ids])
    return {TWINS: float(right[twins].mean()), NO_TWINS: float(right[~twins].mean())}


@cache
def shown_in(video_id: str) -> Truth:
    """Returns what the generated video `video_id` shows. The seed of its data set is 0."""
    match = VIDEO_ID.fullmatch(video_id)
    assert match is not None
    return truth(0, match[1], int(match[2]))


def _batches(clips: CachedClips) -> Iterator[tuple[dict[str, Tensor], list[np.ndarray]]]:
    """Yields (batch of clips, true boxes [T, K, 4] of the frames of each clip)."""
    times = ClipsTable.read_columns(clips.cache.storage, ["target_times"]).column("target_times").to_pylist()
    for start in range(0, len(clips), BATCH):
        indices = range(start, min(start + BATCH, len(clips)))
        frames = [np.floor(np.array(times[clips.rows[index]]) * FPS + 1e-6).astype(int) for index in indices]
        shown = [shown_in(clips.video_ids[index]).boxes for index in indices]
        yield clips.batch(indices), [boxes[numbers] for boxes, numbers in zip(shown, frames, strict=True)]

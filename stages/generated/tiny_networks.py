"""Trains the two networks that the demo ships: `python -m kinegraph.stages.generated.tiny_networks --out DIR`.

A thing is a disc, a diamond or a square with a digit on it. The training clips show things that move independently of
each other, never an interaction. tiny_i3d learns which digit a thing has and how the thing moves. tiny_rpn learns where
things are. Training takes about eight minutes on one core.

Letters: B clips, T frames, T' frames of the last tap (a tap is a named layer whose output is stored), K things, C
channels, H rows and W columns of a frame.
"""

import argparse
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.tiny_i3d import WIDTHS, TinyI3D
from kinegraph.stages.generated.drawing import FRAME_SIZE, boxes_around, draw, ground, pick_digit, sprite
from kinegraph.stages.proposals.build import tiny_rpn
from kinegraph.stages.proposals.rpn import RpnProposer
from kinegraph.stages.regions.roi import region_features

SEED = 0
NUM_FRAMES = 16
NUM_THINGS = 4
FRAME_STEP = 2  # input frames per frame of res4
STRIDE = 8  # px per cell of res4
NUM_DIRECTIONS = 8
STILL = NUM_DIRECTIONS  # the class of things slower than STILL_PX per frame
STILL_PX = 0.5
FloatArray = npt.NDArray[np.floating]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InteractionBatch:
    """A batch of B generated clips of T frames. Each clip shows K moving shapes with a digit on them. T' is T /
    FRAME_STEP.
    """

    # RGB pixels, uint8 [B, T, 3, H, W] (H rows, W columns)
    frames: Tensor
    # The box (x1, y1, x2, y2) of each shape in every FRAME_STEP-th frame, in px, [B, T', K, 4]
    boxes: Tensor
    # The digit on each shape, [B, K]
    digits: Tensor
    # The velocity (x, y) of each shape in every FRAME_STEP-th frame, in px per frame, [B, T', K, 2]
    velocities: Tensor


def _velocities(rng: np.random.Generator, count: int) -> FloatArray:
    """Returns random velocities (x, y) in px per frame, [count, 2]. About a third of them are zero."""
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(1.5, 4, count)
    speed[rng.random(count) < 1 / 3] = 0
    return np.asarray(speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1))


def _track(rng: np.random.Generator, size: int) -> FloatArray:
    """Returns the centres (x, y) in px of one thing of side `size` px, [T, 2] for T frames.

    The thing changes its velocity once and stays inside the frame.
    """
    margin, count = size / 2 + 1, 256
    since = np.arange(NUM_FRAMES) - rng.uniform(2, 14, (count, 1))
    start = rng.uniform(margin, FRAME_SIZE - margin, (count, 1, 2))
    before, after = _velocities(rng, count)[:, None], _velocities(rng, count)[:, None]
    tracks = start + before * np.minimum(since, 0)[..., None] + after * np.maximum(since, 0)[..., None]
    good = ((tracks >= margin) & (tracks <= FRAME_SIZE - margin)).all(axis=(1, 2))
    return np.asarray(tracks[good.argmax()])


def _clip(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], FloatArray, list[int], FloatArray]:
    """Returns (frames, boxes, digits, velocities) of a generated clip of T frames with K moving things. Each thing
    moves independently of the others.

    Frames are uint8 [T, H, W, 3] with H rows and W columns. Boxes [T, K, 4] are (x1, y1, x2, y2) in px. Digits are a
    list of K numbers. Velocities [T, K, 2] are (x, y) in px per frame.
    """
    sizes = rng.integers(14, 19, NUM_THINGS)
    drawn = [pick_digit(rng, unseen=False) for _ in sizes]
    sprites = [sprite(rng, image, int(size)) for (image, _), size in zip(drawn, sizes, strict=True)]
    centres = np.stack([_track(rng, int(size)) for size in sizes], axis=1)
    frames = draw(ground(rng), sprites, centres)
    return frames, boxes_around(centres, sizes), [value for _, value in drawn], np.gradient(centres, axis=0)


def batches(seed: int, count: int, batch_size: int) -> Iterator[InteractionBatch]:
    """Yields `count` batches of `batch_size` new clips, each batch as an InteractionBatch. Equal values of `seed`
    always yield equal batches.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        frames, boxes, digits, velocities = zip(*(_clip(rng) for _ in range(batch_size)), strict=True)
        yield InteractionBatch(
            frames=torch.from_numpy(np.stack(frames)).movedim(-1, 2),
            boxes=torch.from_numpy(np.stack(boxes))[:, ::FRAME_STEP],
            digits=torch.tensor(digits),
            velocities=torch.from_numpy(np.stack(velocities))[:, ::FRAME_STEP].float(),
        )


def directions(velocities: Tensor) -> Tensor:
    """Returns the class of each velocity, int64 [...]. `velocities` [..., 2] are (x, y) in px per frame.

    The class is the number of the nearest of NUM_DIRECTIONS evenly spaced directions. Direction 0 is that of x, and
    numbers rise from x towards y. A speed below STILL_PX px per frame has the class STILL.
    """
    turns = torch.atan2(velocities[..., 1], velocities[..., 0]) / (2 * torch.pi)
    nearest = (turns * NUM_DIRECTIONS).round().long() % NUM_DIRECTIONS
    return torch.where(torch.linalg.vector_norm(velocities, dim=-1) < STILL_PX, STILL, nearest)


class ThingClassifier(nn.Module):
    """The network TinyI3D with additional layers for its training. The layers predict, for each shape in a clip, the
    digit on it and how it moves. The layers read the features of the shape's region in the maps of the last tap.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = TinyI3D()
        self.backbone.cut(["res4"])
        self.digit = nn.Linear(WIDTHS["res4"], 10)
        self.direction = nn.Linear(WIDTHS["res4"], NUM_DIRECTIONS + 1)
        self.velocity = nn.Linear(WIDTHS["res4"], 2)

    def regions(self, frames: Tensor, boxes: Tensor) -> Tensor:
        """Returns the region features of boxes, [B, T', K, C] with C channels. The features are computed in the same
        way as in an extraction.

        `frames`: [B, T, 3, H, W] with values from 0 to 255.
        `boxes`: K boxes for each of the T' frames of the last tap, (x1, y1, x2, y2) in px of the frames, [B, T', K, 4].
        """
        backbone = entry("tiny_i3d")
        mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (backbone.mean, backbone.std))
        clips = (frames.movedim(1, 2) / 255 - mean) / std
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.backbone(clips)["res4"]  # [B, C, T', H', W']
        flat_boxes = boxes.flatten(0, 1)  # [B T', K, 4]
        all_valid = torch.ones(flat_boxes.shape[:2], dtype=torch.bool)
        features = region_features(maps.movedim(2, 1).flatten(0, 1), flat_boxes, all_valid, STRIDE).features
        return features.view(*boxes.shape[:3], -1)

    def forward(self, batch: InteractionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns three scalars for a batch of clips: the loss, the share of shapes whose digit was recognised, and the
        share of shapes whose direction of movement was recognised. Shares are from 0 to 1.
        """
        jitter = torch.randn_like(batch.boxes)  # proposals are off by a pixel too
        features = self.regions(batch.frames, batch.boxes + jitter).flatten(0, 2)
        digit, direction = self.digit(features), self.direction(features)
        digits = batch.digits[:, None].expand(batch.boxes.shape[:3]).flatten()
        headings = directions(batch.velocities).flatten()
        loss = F.cross_entropy(digit, digits) + F.cross_entropy(direction, headings)
        loss = loss + 0.5 * F.smooth_l1_loss(self.velocity(features), batch.velocities.flatten(0, 2))
        hits = [(x.argmax(1) == y).float().mean() for x, y in ((digit, digits), (direction, headings))]
        return loss, *hits


def fit(parameters: Iterator[nn.Parameter], losses: Iterator[Tensor], steps: int, learning_rate: float) -> None:
    """Trains `parameters` with AdamW, one step for each loss that `losses` yields.

    The learning rate rises to `learning_rate` and falls again within `steps` steps (one cycle).
    """
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def train_i3d(seed: int, steps: int = 600, batch_size: int = 16) -> TinyI3D:
    """Returns a TinyI3D after its training on generated clips, in `steps` steps of `batch_size` clips. The targets are
    the digit and the motion of each shape in a clip. `seed` is the seed of all random numbers.
    """
    torch.manual_seed(seed)
    model = ThingClassifier()

    def losses() -> Iterator[Tensor]:
        for step, batch in enumerate(batches(seed, steps, batch_size)):
            loss, digit, direction = model(batch)
            if step % 50 == 0:
                logger.info("i3d %d: loss %.3f digit %.3f direction %.3f", step, loss, digit, direction)
            yield loss

    fit(model.parameters(), losses(), steps, 4e-3)
    return model.backbone


def train_rpn(seed: int, steps: int = 300, batch_size: int = 8) -> RpnProposer:
    """Returns the proposal network of the demo after its training on generated clips, in `steps` steps of `batch_size`
    clips. `seed` is the seed of all random numbers.
    """
    torch.manual_seed(seed)
    proposer = tiny_rpn()

    def losses() -> Iterator[Tensor]:
        for step, batch in enumerate(batches(seed, steps, batch_size)):
            frames, boxes = batch.frames[:, ::FRAME_STEP].flatten(0, 1), batch.boxes.flatten(0, 1)
            images = (frames / 255 - proposer.mean) / proposer.std
            sizes = [(FRAME_SIZE, FRAME_SIZE)] * len(images)
            targets = [{"boxes": box} for box in boxes]
            _, parts = proposer.rpn(ImageList(images, sizes), proposer.backbone(images), targets)
            if step % 50 == 0:
                logger.info("rpn %d: %s", step, {name: round(part.item(), 3) for name, part in parts.items()})
            yield torch.stack(list(parts.values())).sum()

    fit(proposer.parameters(), losses(), steps, 4e-3)
    return proposer


def save(network: nn.Module, path: Path) -> str:
    """Writes the weights of `network` in float16 to the safetensors file `path`. Returns the sha256 of the file.

    The batch counters of BatchNorm are left out, because only training uses them.
    """
    state = {
        name: tensor.half().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


TRAINERS: dict[str, Callable[[int], nn.Module]] = {"tiny_rpn": train_rpn, "tiny_i3d": train_i3d}


def main() -> None:
    """Trains the demo's networks from fixed seeds, and writes the weights of each network to a file in the folder
    `--out`.

    Prints the name of each network and the sha256 of its file.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=list(TRAINERS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # two threads are no faster here, and with one the order of sums is fixed
    for name in [arguments.only] if arguments.only else TRAINERS:
        path: Path = arguments.out / f"{name}.safetensors"
        print(name, save(TRAINERS[name](SEED), path), flush=True)


if __name__ == "__main__":
    main()

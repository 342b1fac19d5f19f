"""Trains the backbones for SyncMNIST, a data set of videos of moving digits.

The command is `python -m kinegraph.stages.generated.sync_networks sync_cnn --out FILE`. The training videos show digits
of the split train that move independently of each other, by default one digit at a time. The network learns which digit
lies on each cell of the output map, if any. A network that spans several frames also learns how the digit moves.

Letters: B clips, T frames, T' maps of a clip, n digits, C channels, H rows and W columns of a map.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.sync_cnn import LAST_SPAN, WIDTHS, SyncCnn
from kinegraph.stages.datasets.options import SyncMnistOptions
from kinegraph.stages.device import pick_device
from kinegraph.stages.generated.digits import SIDE_PX
from kinegraph.stages.generated.sync_mnist import (
    CANVAS_PX,
    FRAME_PX,
    MAX_CONSTANT_STEP_PX,
    SyncMnist,
    choose_digits,
    constant,
    draw_digits,
    walk,
)
from kinegraph.stages.generated.tiny_networks import fit, save

MOTIONS = {"walk": walk, "constant": constant}
FRAME_STEP = 2  # every second frame is shown, as in the small example
REACH_PX = 8.0  # a cell within this distance of a digit's centre belongs to the digit
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes:
    """A batch of B clips of T frames, with n digits in each clip that move independently of each other."""

    # Grey pixels, uint8 [B, T, 64, 64]
    frames: Tensor
    # The value, 0 to 9, of each digit, [B, n]
    values: Tensor
    # The centre (row, column) of each digit in each frame, in px of the frame, [B, T, n, 2]
    centres: Tensor


def scenes(data_set: SyncMnist, num_digits: int, count: int, batch_size: int) -> Iterator[Scenes]:
    """Yields `count` batches of `batch_size` new clips, each batch as a Scenes. A clip shows `num_digits` digits that
    move independently of each other.

    The pictures of the digits are those of the split train of `data_set`. The option `motion` of `data_set` says
    whether a digit walks at random or repeats one random step.
    """
    rng, images, options = np.random.default_rng(0), data_set.images("train"), data_set.options
    for _ in range(count):
        firsts = rng.integers(0, len(images), batch_size)
        casts = [choose_digits(rng, images, int(first), num_digits, options.digit_values) for first in firsts]
        corners = np.stack([MOTIONS[options.motion](rng, num_digits, False) for _ in casts])[:, ::FRAME_STEP]
        pictures = [[images.images[which] for which in roles.image_indices] for roles in casts]
        frames = np.stack([draw_digits(shown, places) for shown, places in zip(pictures, corners, strict=True)])
        centres = torch.from_numpy(corners + SIDE_PX / 2).float() * (FRAME_PX / CANVAS_PX)
        values = torch.tensor([roles.values for roles in casts])
        yield Scenes(frames=torch.from_numpy(frames), values=values, centres=centres)


class CellClassifier(nn.Module):
    """A backbone for SyncMNIST with additional layers for its training. The layers predict which digit lies on each
    cell of the output map.

    If the backbone spans several frames, the layers also predict the velocity of the digit.
    """

    def __init__(self, name: str, digit_values: int) -> None:
        super().__init__()
        self.backbone = SyncCnn(name).to(memory_format=torch.channels_last_3d)
        tap = entry(name).taps[-1]
        self.stride, self.first = tap.stride, tap.offset_px + tap.stride / 2
        self.margin = LAST_SPAN[name] // 2  # frames at each end without a map
        self.value = nn.Linear(tap.channels, digit_values + 1)  # the last output means no digit
        self.velocity = nn.Linear(tap.channels, 2) if self.margin else None

    def forward(self, batch: Scenes) -> tuple[Tensor, Tensor]:
        """Returns two scalars for a batch: the loss, and the share of correct predictions among the cells that show a
        digit.
        """
        maps = self._maps(batch.frames)  # [B, T', H, W, C]
        shown = slice(self.margin, batch.frames.shape[1] - self.margin)
        who, is_digit = self._owners(batch.centres[:, shown], maps.shape[2])  # [B, T', H, W]
        clip = torch.arange(len(who), device=who.device)[:, None, None, None]
        none = self.value.out_features - 1
        values = torch.where(is_digit, batch.values[clip, who], none)
        logits = self.value(maps)
        loss = F.cross_entropy(logits.flatten(0, 3), values.flatten())
        if self.velocity is not None:
            around = (batch.centres[:, 2:] - batch.centres[:, :-2]) / 2  # [B, T', n, 2]
            row = torch.arange(who.shape[1], device=who.device)[:, None, None]
            wanted = around[clip, row, who] / (MAX_CONSTANT_STEP_PX * FRAME_STEP * FRAME_PX / CANVAS_PX)
            loss = loss + 2 * F.smooth_l1_loss(self.velocity(maps)[is_digit], wanted[is_digit], beta=0.25)
        return loss, (logits.argmax(-1) == values)[is_digit].float().mean()

    def _maps(self, frames: Tensor) -> Tensor:
        clips = (frames[:, None] / 255).expand(-1, 3, -1, -1, -1).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(frames.device.type, torch.bfloat16):
            maps: Tensor = self.backbone(clips)["block3"]  # [B, C, T', H, W]
        return maps.float().permute(0, 2, 3, 4, 1)

    def _owners(self, centres: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Returns two tensors [B, T', side, side], for B clips with T' maps of `side` x `side` cells. The first has the
        number of the digit whose centre is nearest to the cell. The second is bool, and says whether this centre is
        less than REACH_PX px away from the cell.

        `centres` [B, T', n, 2] has the centre (row, column) of each of the n digits in px of the frame.
        """
        along = self.first + self.stride * torch.arange(side, device=centres.device)
        cells = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1)  # [H, W, 2]
        squared = (cells[:, :, None] - centres[:, :, None, None]).square().sum(-1)  # [B, T', H, W, n]
        nearest, who = squared.min(-1)
        return who, nearest < REACH_PX**2


def pretrain(
    name: str, data_set: SyncMnist, *, num_digits: int, steps: int, batch_size: int, learning_rate: float
) -> SyncCnn:
    """Trains the backbone `name` for SyncMNIST, on a GPU if there is one. Returns the trained backbone on the CPU.

    `data_set`: the data set whose training images the clips show.
    `num_digits`: the number of digits in a clip.
    `steps`: the number of training steps, with one batch each.
    `batch_size`: the number of clips in a batch.
    `learning_rate`: the highest learning rate.
    """
    torch.manual_seed(0)
    device = pick_device("auto")
    model = CellClassifier(name, data_set.options.digit_values).to(device)

    def losses() -> Iterator[Tensor]:
        for step, batch in enumerate(scenes(data_set, num_digits, steps, batch_size)):
            there = Scenes(
                frames=batch.frames.to(device), values=batch.values.to(device), centres=batch.centres.to(device)
            )
            loss, accuracy = model(there)
            if step % 50 == 0 or step == steps - 1:
                logger.info("%s %d: loss %.3f, digit %.3f", name, step, loss.item(), accuracy)
            yield loss

    fit(model.parameters(), losses(), steps, learning_rate)
    return model.backbone.cpu()


def main() -> None:
    """Trains a backbone for the data set SyncMNIST on digits that move independently of each other.

    Writes the weights of the backbone to the file `--out`. Prints the name of the backbone and the sha256 of that file.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=list(WIDTHS))
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--digits", help="folder of MNIST's idx files; without it the digits of scikit-learn")
    parser.add_argument("--val-images", type=int, default=0, help="training images to leave out, as in the config")
    parser.add_argument("--digit-values", type=int, default=10, help="as in the config")
    parser.add_argument("--num-digits", type=int, default=1, help="in each clip, all on their own")
    parser.add_argument("--motion", choices=list(MOTIONS), default="walk")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = SyncMnistOptions(
        kind="sync_mnist", root="", digits=given.digits, val_images=given.val_images, motion=given.motion,
        digit_values=given.digit_values, num_digits=3,
    )  # fmt: skip
    network = pretrain(
        given.name, SyncMnist(options=options), num_digits=given.num_digits, steps=given.steps,
        batch_size=given.batch_size, learning_rate=given.learning_rate,
    )  # fmt: skip
    print(given.name, save(network, given.out))


if __name__ == "__main__":
    main()

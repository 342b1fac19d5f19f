"""Pre-training of SyncMNIST's backbones: `python -m stages.training.sync_networks sync_cnn --out FILE`.

As in the RSTG paper a network sees single digits, never two: it learns which digit it is, and where the network spans
frames also how the digit moves. Only digits of the split train appear.

B clips, T frames, C channels.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.backbones.sync_cnn import LAST_SPAN, WIDTHS, SyncCnn
from stages.clips.digits import digits_of
from stages.clips.sync_mnist import MAX_CONSTANT_STEP_PX, constant, drawn, walk
from stages.device import pick_device
from stages.training.tiny_networks import fit, save

MOTIONS = {"walk": walk, "constant": constant}
logger = logging.getLogger(__name__)


def batches(
    motion: str, folder: str | None, val_images: int, count: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Frames [B, T, 64, 64] uint8 of one digit each, values [B], and steps on the canvas [B, T - 1, 2] in px."""
    rng, images = np.random.default_rng(0), digits_of("train", folder, val_images)
    for _ in range(count):
        chosen = rng.integers(0, len(images), batch_size)
        corners = np.stack([MOTIONS[motion](rng, 1, False) for _ in chosen])  # [B, T, 1, 2]
        frames = np.stack([drawn([images.images[i]], places) for i, places in zip(chosen, corners, strict=True)])
        steps = np.diff(corners[:, :, 0], axis=1)
        yield torch.from_numpy(frames), torch.from_numpy(images.values[chosen]).long(), torch.from_numpy(steps).float()


class DigitClassifier(nn.Module):
    """A backbone with what it is trained through: value and, where it spans frames, motion, of each frame's sum.

    The sum over the map, or its mean, is what the nodes of a graph are made of, too.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = SyncCnn(name)
        width = WIDTHS[name][-1]
        self.value = nn.Linear(width, 10)
        span, _ = LAST_SPAN[name]
        last = self.backbone.block3[0]
        assert isinstance(last, nn.Conv3d)
        last.stride = (1, 1, 1)  # every frame teaches, also those that are left out later
        self.step = nn.Linear(width, 2) if span > 1 else None

    def forward(self, frames: Tensor, values: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the accuracy of the value."""
        clips = (frames[..., None] / 255).expand(-1, -1, -1, -1, 3)
        with torch.autocast(frames.device.type, torch.bfloat16):
            maps = self.backbone(clips.permute(0, 4, 1, 2, 3))["block3"]  # channels last: [B, C, T, H, W]
        pooled = maps.float().sum((3, 4)).transpose(1, 2)  # [B, T, C]
        logits = self.value(pooled)
        targets = values[:, None].expand(logits.shape[:2])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        if self.step is not None:
            around = (steps[:, :-1] + steps[:, 1:]) / 2  # frames 1 .. T - 2, which have neighbours on both sides
            found = self.step(pooled[:, 1:-1])
            loss = loss + F.smooth_l1_loss(found, around / MAX_CONSTANT_STEP_PX)
        return loss, (logits.argmax(-1) == targets).float().mean()


def pretrain(
    name: str, *, motion: str, folder: str | None, val_images: int, steps: int, batch_size: int, learning_rate: float
) -> SyncCnn:
    """The backbone `name` after so many batches of fresh clips of single digits."""
    torch.manual_seed(0)
    device = pick_device("auto")
    model = DigitClassifier(name).to(device)

    def losses() -> Iterator[Tensor]:
        for step, batch in enumerate(batches(motion, folder, val_images, steps, batch_size)):
            loss, accuracy = model(*(tensor.to(device) for tensor in batch))
            if step % 50 == 0 or step == steps - 1:
                logger.info("%s %d: loss %.3f, digit %.3f", name, step, loss.item(), accuracy)
            yield loss

    fit(model.parameters(), losses(), steps, learning_rate)
    return model.backbone.cpu()


def main() -> None:
    """Train a backbone of SyncMNIST on single digits and print the sha256 of its file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=list(WIDTHS))
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--digits", help="folder of MNIST's idx files; without it the digits of scikit-learn")
    parser.add_argument("--val-images", type=int, default=0, help="training images to leave out, as in the config")
    parser.add_argument("--motion", choices=list(MOTIONS), default="walk")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    network = pretrain(
        given.name, motion=given.motion, folder=given.digits, val_images=given.val_images, steps=given.steps,
        batch_size=given.batch_size, learning_rate=given.learning_rate,
    )  # fmt: skip
    print(given.name, save(network, given.out))


if __name__ == "__main__":
    main()

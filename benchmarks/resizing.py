"""Compares the ways to resize frames: `python -m benchmarks.resizing VIDEO...`.

The script takes the middle frame of each video, at a short side of 256 px and crops of 224 px. It prints the mean and
the largest difference in grey levels. It also prints the difference of pooled features of ResNet-50 with random
weights, in percent of their standard deviation over channels.

- torch: bilinear without antialias, compared with Pillow's, at `top_left`, whose place needs no rounding
- swscale: FFmpeg's bilinear with antialias, before the frame becomes RGB, compared with Pillow's, at `center`
- cut first: the square of the short side resized to 224 px, compared with the crop of the resized frame, at `center`
"""

import sys
from pathlib import Path

import numpy as np
import torch

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import crop_rectangle
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.clock import DECODE, Clock
from kinegraph.stages.decode.converting import Converter
from kinegraph.stages.decode.frame_pixels import pixels_of
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.decode.wanted import Size, Square

PILLOW = Square(size=224, resize_short=256, every=1)
OTHERS = {
    "torch": ("top_left", Square(size=224, resize_short=256, resize="torch", every=1)),
    "swscale": ("center", Square(size=224, resize_short=256, resize="swscale", every=1)),
    "cut first": ("center", Square(size=224, every=1)),
}


def middle_frame(path: str) -> FramePixels:
    middle = probe(path).duration / 2
    with open_video(path) as video:
        for shown in video.frames():
            if shown.seconds >= middle:
                break
        return pixels_of(video, shown, Converter(), Clock(DECODE))


def row_of(path: str, crop: str, size: Size) -> ClipRow:
    return ClipRow(
        clip_id=f"{path}:0:{crop}", video_id=path, path=path, split="", start_seconds=0.0, end_seconds=0.0, labels=(),
        target_times=(0.0,), crop=crop_rectangle(crop, *size), frame_width=size[0], frame_height=size[1],
    )  # fmt: skip


@torch.inference_mode()
def pooled(network: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    known = entry("resnet50")
    x = (torch.from_numpy(pixels.copy()).float() / 255 - torch.tensor(known.mean)) / torch.tensor(known.std)
    maps: torch.Tensor = network(x.permute(2, 0, 1)[None, :, None])["res5"]
    return maps.mean((0, 2, 3, 4))


def main(paths: list[str]) -> None:
    network = build_backbone("resnet50", "random:0", ["res5"])
    print(f"{'video':32} {'frame':>10} {'way':>10} {'mean':>6} {'max':>4} {'features':>9}")
    for path in paths:
        frame = middle_frame(path)
        for name, (crop, square) in OTHERS.items():
            row = row_of(path, crop, frame.size)
            pixels = frame.square(PILLOW, row)
            features = pooled(network, pixels)
            other = frame.square(square, row)
            grey = np.abs(pixels.astype(int) - other)
            moved = (pooled(network, other) - features).pow(2).mean().sqrt() / features.std()
            size = "{}x{}".format(*frame.size)
            print(f"{Path(path).name[:32]:32} {size:>10} {name:>10} {grey.mean():6.2f} {grey.max():4} {moved:9.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])

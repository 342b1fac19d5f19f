"""Extracts features with the loop that many people write first: one video after the other, one clip at a time, in
float32.

`kinegraph bench` and benchmarks/extraction.py compare the extraction with this loop. Do not optimise the loop, because
figures of different versions are compared. The networks are as torch builds them: batch norms are not folded, and maps
are contiguous.
"""

from collections.abc import Sequence
from copy import copy
from itertools import count, groupby
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.transforms.functional import normalize, pil_to_tensor, to_tensor

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import Rectangle
from kinegraph.stages.backbones.backbone import MAP_RANK
from kinegraph.stages.backbones.build import build_from_options
from kinegraph.stages.backbones.pixels import pixels_of
from kinegraph.stages.proposals.build import build_proposer
from kinegraph.stages.recipe import Recipe

SLACK_SECONDS = 1e-6  # by which times of frames are rounded


class FrameSource(Protocol):
    """A decoder of the plain loop: decodes the frames of clips, crops them and resizes them.

    `of_clips` returns decoded frames, of a type that each FrameSource chooses. `square` and `whole` convert such a
    frame to a tensor of pixels.
    """

    def of_clips(self, path: str, rows: Sequence[ClipRow]) -> list[list[Any]]:
        """Returns a list of decoded frames for each clip in `rows`. All clips belong to the video at `path`."""

    def square(self, frame: Any, rectangle: Rectangle, size: int) -> Tensor:
        """Returns the rectangle `rectangle` of `frame`, resized to `size` x `size` px, as RGB float32 [3, size, size]
        in 0..1.

        `frame` is a frame that `of_clips` returned. `rectangle` is (x1, y1, x2, y2) in pixels of the frame.
        """

    def whole(self, frame: Any, height: int, width: int) -> Tensor:
        """Returns the whole of `frame`, resized to `height` x `width` px, as RGB uint8 [3, height, width].

        `frame` is a frame that `of_clips` returned.
        """


class PillowFrames:
    """A FrameSource that decodes with PyAV and resizes with Pillow. Each video is decoded from the first frame on,
    without seeking.
    """

    def of_clips(self, path: str, rows: Sequence[ClipRow]) -> list[list[Image.Image]]:
        by_number = rows[0].target_frames is not None
        clips = [row.target_frames or row.target_times for row in rows]
        left = sorted({place for places in clips for place in places}, reverse=True)
        images: dict[float, Image.Image] = {}
        with av.open(path) as container:
            shown: Any = None
            first_seconds = 0.0
            for number, frame in enumerate(container.decode(video=0)):
                first_seconds = (frame.time or 0.0) if shown is None else first_seconds
                begins = number if by_number else (frame.time or 0.0) - first_seconds - SLACK_SECONDS
                while shown is not None and left and left[-1] < begins:
                    images[left.pop()] = shown.to_image()
                if not left:
                    break
                shown = frame
            images |= {place: shown.to_image() for place in left}  # after the last frame
        return [[images[place] for place in places] for places in clips]

    def square(self, frame: Image.Image, rectangle: Rectangle, size: int) -> Tensor:
        pixels: Tensor = to_tensor(frame.resize((size, size), Image.Resampling.BILINEAR, box=rectangle))
        return pixels

    def whole(self, frame: Image.Image, height: int, width: int) -> Tensor:
        pixels: Tensor = pil_to_tensor(frame.resize((width, height), Image.Resampling.BILINEAR))
        return pixels


class PlainLoop:
    """A simple extraction to compare with: decodes one video after the other, runs the networks on one clip at a time,
    and writes .npy files.

    - `recipe`: the config. Its backbones and its proposal network are built.
    - `device`: the device of the networks.
    - `frames`: the FrameSource that decodes.

    The attribute `backbones` maps the names of the backbones to their networks. The attribute `proposer` is the
    proposal network, or None if the config has no proposal network. Raises WeightsError if weights cannot be read.
    """

    def __init__(self, recipe: Recipe, device: torch.device, frames: FrameSource) -> None:
        self.recipe, self.device, self.frames = recipe, device, frames
        self.backbones: dict[str, nn.Module] = {
            name: build_from_options(options).to(device) for name, options in recipe.backbones.items()
        }
        self.proposer: nn.Module | None = None
        if (proposals := recipe.proposals) is not None and proposals.network is not None:
            self.proposer = build_proposer(proposals.network, proposals.weights_name).to(device)

    def decoding_with(self, frames: FrameSource) -> "PlainLoop":
        """Returns a copy of this loop that decodes with `frames` and shares the networks."""
        loop = copy(self)
        loop.frames = frames
        return loop

    @torch.inference_mode()
    def run(self, rows: Sequence[ClipRow], folder: Path) -> None:
        """Extracts all clips in `rows`. Writes one .npy file into `folder` for each array of each clip."""
        number = count()
        for path, of_video in groupby(stopping.checked(rows), key=lambda row: row.path):
            video = list(of_video)
            for row, frames in zip(video, self.frames.of_clips(path, video), strict=True):
                self._extract(row, frames, folder, f"{next(number):06d}")

    def _extract(self, row: ClipRow, frames: Sequence[Any], folder: Path, stem: str) -> None:
        boxes = None if self.proposer is None else self._proposed(row, frames, folder, stem)
        for name, network in self.backbones.items():
            options = self.recipe.backbones[name]
            x = self._input(name, row, frames)
            for tap, out in network(x).items():
                if out.ndim < MAP_RANK:  # a class token, or the output after the last tap
                    _save(folder / f"{stem}_{name}_{tap}.npy", out[0])
                    continue
                maps = out[0].transpose(0, 1)  # [T, C, H, W]
                stored = () if options.tokens == "class" else options.store
                if "maps" in stored:
                    _save(folder / f"{stem}_{name}_{tap}.npy", maps)
                if "pooled" in stored:
                    _save(folder / f"{stem}_{name}_{tap}_pooled.npy", maps.mean((2, 3)))
                if boxes is not None and self.recipe.regions and name in self.recipe.regions.backbones:
                    _save(folder / f"{stem}_{name}_{tap}_regions.npy", self._regions(name, tap, maps, boxes, row))

    def squares(self, name: str, row: ClipRow, frames: Sequence[Any]) -> list[Tensor]:
        """Returns the input frames of the backbone `name` for one clip, each as RGB float32 [3, S, S] in 0..1 on the
        CPU. S is the input size of the backbone in px.

        `row` describes the clip, and `frames` are its decoded frames.
        """
        options, framing = self.recipe.backbones[name], self.recipe.framing_of(name)
        x1, y1, x2, y2 = row.seen(framing)
        rectangle = (min(x1, x2), y1, max(x1, x2), y2)
        squares = [self.frames.square(frame, rectangle, framing.size) for frame in frames[:: options.every]]
        return [square.flip(-1) for square in squares] if row.mirrored else squares

    def wholes(self, row: ClipRow, frames: Sequence[Any]) -> list[Tensor]:
        """Returns the input frames of the proposal network for one clip, each as RGB uint8 [3, h, w] on the CPU.
        Returns [] if the config has no proposal network.

        `row` describes the clip, and `frames` are its decoded frames.
        """
        if self.proposer is None or (options := self.recipe.proposals) is None:
            return []
        height, width = options.input_size(row.frame_height, row.frame_width)
        return [self.frames.whole(frame, height, width) for frame in frames[:: options.every]]

    def _input(self, name: str, row: ClipRow, frames: Sequence[Any]) -> Tensor:
        """Returns the input tensor of the backbone `name` for one clip: float32 [1, 3, T, S, S] on the device, for T
        frames of S x S px.

        `row` describes the clip, and `frames` are its decoded frames.
        """
        pixels = pixels_of(self.recipe.backbones[name])
        squares = self.squares(name, row, frames)
        if pixels.channel_order == "BGR":
            squares = [square.flip(0) for square in squares]
        squares = [normalize(square, pixels.mean, pixels.std) for square in squares]
        return torch.stack(squares, 1)[None].to(self.device)

    def _proposed(self, row: ClipRow, frames: Sequence[Any], folder: Path, stem: str) -> list[Tensor]:
        """Returns the proposed boxes of one clip: for each frame float32 [N, 4], xyxy in pixels of the video. Also
        writes the boxes to a file in `folder` whose name begins with `stem`.

        `row` describes the clip, and `frames` are its decoded frames. The network runs on one frame at a time.
        """
        options = self.recipe.proposals
        assert options is not None
        assert self.proposer is not None
        boxes = []
        for frame in self.wholes(row, frames):
            found = self.proposer(frame[None].to(self.device), options.top)
            scale = torch.tensor([row.frame_width / frame.shape[2], row.frame_height / frame.shape[1]] * 2)
            boxes.append(found.boxes[0, : int(found.count[0])].cpu() * scale)
        _save(folder / f"{stem}_boxes.npy", nn.utils.rnn.pad_sequence(boxes, batch_first=True))
        return boxes

    def _regions(self, name: str, tap: str, maps: Tensor, boxes: Sequence[Tensor], row: ClipRow) -> Tensor:
        """Returns the features of R regions of one clip, float32 [R, C]. R is the number of boxes on all maps, and C
        the number of channels.

        `maps` [T, C, h, w] are the maps of the backbone `name` at the tap `tap`, and `row` describes the clip. `boxes`
        has for each frame the boxes [N, 4], xyxy in pixels of the video. Each map gets the boxes of one frame, and
        these frames are evenly spaced.
        """
        options, framing = self.recipe.regions, self.recipe.framing_of(name)
        assert options is not None
        x1, y1, x2, y2 = row.seen(framing)  # x1 > x2 if the row is mirrored
        scale = torch.tensor([framing.size / (x2 - x1), framing.size / (y2 - y1)] * 2)
        on_input = [(found - torch.tensor([x1, y1] * 2)) * scale for found in boxes[:: len(boxes) // len(maps)]]
        stride = self.recipe.tap_of(name, tap).stride
        rois = [found.float().to(self.device) for found in on_input]
        grid: Tensor = roi_align(maps.contiguous(), rois, options.size, 1 / stride, aligned=True)
        return grid.amax((2, 3)) if options.reduce == "max" else grid.mean((2, 3))


def _save(path: Path, values: Tensor) -> None:
    np.save(path, values.cpu().numpy())

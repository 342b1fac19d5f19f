"""Extracts features with the loop that many people write first: one video at a time, one clip at a time, in float32.

`kinegraph bench` and benchmarks/extraction.py compare the extraction with this loop. The loop stays as it is, so that
figures of different versions can be compared. It shares only the networks and the choice of frames with the pipeline.
The networks are as torch builds them, with batch norms that are not folded and with contiguous (channels-first) maps.
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
    """Decodes the frames of clips, crops them and resizes them. `of_clips` returns frames in a type that each
    FrameSource chooses. Callers pass these frames to `square` or `whole` of the same object, which return pixels.
    """

    def of_clips(self, path: str, rows: Sequence[ClipRow]) -> list[list[Any]]:
        """Returns the frames of each clip in `rows`, in the order of `rows`. All clips belong to the video at `path`. A
        frame has the type that `square` and `whole` of this source take.
        """

    def square(self, frame: Any, rectangle: Rectangle, size: int) -> Tensor:
        """Returns the part `rectangle` of `frame`, resized to `size` x `size` px: float32 RGB [3, size, size] in 0..1.
        `rectangle` is x1, y1, x2, y2 in pixels of the frame.
        """

    def whole(self, frame: Any, height: int, width: int) -> Tensor:
        """Returns `frame`, resized to `height` x `width` px, as uint8 [3, height, width]."""


class PillowFrames:
    """Decodes frames with PyAV, crops and resizes them with Pillow: the FrameSource of the plain loop that `kinegraph
    bench` compares with. It decodes each video from its first frame, as simple code does.
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
    """Extracts clips in a plain loop over their videos, with the networks of `recipe` on one device. `frames` decodes
    the frames of the clips.

    `backbones` maps the name of each entry to its network. `proposer` is the proposal network, or None if the config
    has none. Raises WeightsError if weights cannot be read.
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
        """Returns a loop with the same networks that decodes with `frames`."""
        loop = copy(self)
        loop.frames = frames
        return loop

    @torch.inference_mode()
    def run(self, rows: Sequence[ClipRow], folder: Path) -> None:
        """Extracts all clips in `rows` and writes one .npy file for each array of each clip into `folder`."""
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
        """Returns the frames that the backbone `name` sees of the clip `row`, each as float32 RGB [3, S, S] in 0..1, on
        the CPU. S is the side of the network's input in px. `frames` has all decoded frames of the clip.
        """
        options, framing = self.recipe.backbones[name], self.recipe.framing_of(name)
        x1, y1, x2, y2 = row.seen(framing)
        rectangle = (min(x1, x2), y1, max(x1, x2), y2)
        squares = [self.frames.square(frame, rectangle, framing.size) for frame in frames[:: options.every]]
        return [square.flip(-1) for square in squares] if row.mirrored else squares

    def wholes(self, row: ClipRow, frames: Sequence[Any]) -> list[Tensor]:
        """Returns the frames that the proposal network sees, each as uint8 RGB [3, h, w], on the CPU. `frames` are the
        decoded frames of the clip `row`. Returns [] if no proposal network is needed.
        """
        if self.proposer is None or (options := self.recipe.proposals) is None:
            return []
        height, width = options.input_size(row.frame_height, row.frame_width)
        return [self.frames.whole(frame, height, width) for frame in frames[:: options.every]]

    def _input(self, name: str, row: ClipRow, frames: Sequence[Any]) -> Tensor:
        """Returns the input [1, 3, T, S, S] of the backbone `name`, on the device: T frames of S x S px. `frames` are
        the decoded frames of the clip `row`.
        """
        pixels = pixels_of(self.recipe.backbones[name])
        squares = self.squares(name, row, frames)
        if pixels.channel_order == "BGR":
            squares = [square.flip(0) for square in squares]
        squares = [normalize(square, pixels.mean, pixels.std) for square in squares]
        return torch.stack(squares, 1)[None].to(self.device)

    def _proposed(self, row: ClipRow, frames: Sequence[Any], folder: Path, stem: str) -> list[Tensor]:
        """Returns the boxes of each frame, float32 [N, 4] (x1, y1, x2, y2) in pixels of the video. Also saves them in
        `folder`, in a file whose name begins with `stem`.

        The network takes the frames one by one. `frames` are the decoded frames of the clip `row`.
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
        """Returns the features [R, C] of the regions in `maps`, for R boxes of all maps and C channels.

        `maps` are the maps of the backbone `name` at the tap `tap` for the clip `row`. `boxes` has the boxes (x1, y1,
        x2, y2) of each frame of the clip, in pixels of the video. The boxes of evenly spaced frames are used, one frame
        for each map.
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

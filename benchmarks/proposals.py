"""Compares region proposals and their parts with the forward pass of their own feature pyramid (ResNet-50 and FPN).

    python -m benchmarks.proposals [--case bf16] [--short-side 192] [--frames 8] [--one-thread] [--quick] [--json FILE]

Frames of 340x256 px are smooth noise, and weights are random. All ways to compute a case take turns in one process,
with one precision and the same frames. The frames are those of a clip at once, or one after the other for a network of
detectron2. Each ratio is the time of a way divided by the time of the pyramid. `RPN, all candidates` is the RPN with
torchvision's suppression, which sorts and suppresses all candidates. The other ways are the parts of the RPN, each with
its inputs ready. Pillow's resizing runs in the threads that decode. The last case compares windows that share frames
with the same windows as clips of their own. On a busy machine, `--one-thread` measures the CPU time of one thread.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.pipeline.machine.alternation import Spread, Way, alternate, ratios
from kinegraph.stages.device import computing_in, without_autocast
from kinegraph.stages.proposals import selection
from kinegraph.stages.proposals.detectron2_rpn import PRE_NMS_TOP, Detectron2Proposer, level_anchors
from kinegraph.stages.proposals.from_networks import NetworkSource
from kinegraph.stages.proposals.options import CheckpointOptions, TorchvisionOptions
from kinegraph.stages.proposals.rpn import RpnProposer
from kinegraph.stages.proposals.sharing import FrameProposals
from kinegraph.stages.proposals.source import ClipFrames

WIDTH, HEIGHT, TOP, NMS_THRESHOLD = 340, 256, 50, 0.7
CPU = torch.device("cpu")
FPN, RPN, PLAIN = "FPN", "RPN", "RPN, all candidates"
CASES: dict[str, Callable[[int], Any]] = {
    precision: partial(
        lambda precision, short_side: TorchvisionOptions(
            source="torchvision", weights="random:0", top=TOP, short_side=short_side, precision=precision
        ),
        precision,
    )
    for precision in ("bf16", "fp32")
} | {
    "detectron2": lambda short_side: CheckpointOptions(
        source="detectron2-checkpoint", weights="random:0", top=TOP, short_side=short_side
    )
}


def drawn(num_frames: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (num_frames, 12, 16, 3), np.uint8)
    return [Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for frame in coarse]


def suppressed_among_all(boxes: Tensor, scores: Tensor, levels: Tensor, threshold: float, top: int) -> Tensor:
    best: Tensor = batched_nms(boxes, scores, levels, threshold)[:top]
    return best


@dataclass(frozen=True)
class Parts:
    """The parts of one pass of a network on `frames` [F, 3, h, w], in the order in which they run."""

    network: RpnProposer | Detectron2Proposer
    frames: Tensor

    def images(self, *_: Any) -> Tensor:
        network = self.network
        return network.images(self.frames) if isinstance(network, Detectron2Proposer) else network._images(self.frames)

    def resnet(self, images: Tensor) -> Any:
        backbone = self.network.backbone
        body: Any = backbone.bottom_up if isinstance(self.network, Detectron2Proposer) else backbone.body
        return body(images)

    def fpn(self, images: Tensor) -> list[Tensor]:
        maps = self.network.backbone(images)
        return maps if isinstance(maps, list) else [*maps.values()]

    def head(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        network = self.network
        head: Any = network.head if isinstance(network, Detectron2Proposer) else network.rpn.head
        logits, deltas = head(maps)
        return logits, deltas

    def candidates(self, images: Tensor, maps: list[Tensor], outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with without_autocast(CPU):
            if isinstance(self.network, Detectron2Proposer):
                anchors = [*level_anchors([x.shape[-2:] for x in maps], CPU)]
            else:
                anchors = self.network._anchors(images, maps)
            return selection.candidates(outputs[0], outputs[1], anchors, PRE_NMS_TOP)

    def select(self, found: tuple[Tensor, Tensor, Tensor]) -> selection.Proposals:
        size = self.frames.shape[2], self.frames.shape[3]
        with without_autocast(CPU):
            return selection.select(*found, size, NMS_THRESHOLD, TOP)


def each(parts: Sequence[Parts], work: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    return [work(part, given) for part, given in zip(parts, inputs, strict=True)]


def ways_of(source: NetworkSource, pictures: Sequence[Image.Image]) -> list[Way]:
    """Returns the ways to measure `source` on the frames `pictures`. First comes the pyramid, with which the others are
    compared, then the RPN in two ways, then the parts of the RPN.
    """
    height, width = source.options.input_size(HEIGHT, WIDTH)

    def resized() -> np.ndarray:
        return np.stack([np.asarray(x.resize((width, height), Image.Resampling.BILINEAR)) for x in pictures])

    pixels = resized()
    frames = clip_of(pixels)
    network: Any = source._network
    parts = [Parts(network, part) for part in source._passes(torch.from_numpy(pixels).permute(0, 3, 1, 2))]
    images = each(parts, Parts.images, parts)
    maps = each(parts, Parts.fpn, images)
    outputs = each(parts, Parts.head, maps)
    ready = [*zip(images, maps, outputs, strict=True)]
    found = each(parts, lambda part, given: part.candidates(*given), ready)

    def plain() -> None:
        with patch.object(selection, "remaining", suppressed_among_all):
            source.propose(frames)

    works: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
        "ResNet": (Parts.resnet, images),
        "head": (Parts.head, maps),
        "normalise and pad": (Parts.images, parts),
        "anchors, top-k, decode": (lambda part, given: part.candidates(*given), ready),
        "rank and suppress": (Parts.select, found),
    }
    return [
        Way(name=FPN, run=partial(each, parts, Parts.fpn, images)),
        Way(name=RPN, run=partial(source.propose, frames)),
        Way(name=PLAIN, run=plain),
        *(Way(name=name, run=partial(each, parts, *work)) for name, work in works.items()),
        Way(name="resize", run=resized),
    ]


def clip_of(pixels: np.ndarray) -> ClipFrames:
    return ClipFrames(video_id="v", width=WIDTH, height=HEIGHT, seconds=np.zeros(len(pixels)), pixels=pixels)


@dataclass(frozen=True)
class Whole:
    whole: np.ndarray


@dataclass(frozen=True)
class PixelsOfWindows:
    """A batch that is a whole shard: windows that begin every `hop` frames. It has the parts of a StageBatch
    (stages/stage.py) that `FrameProposals` reads.
    """

    rows: list[ClipRow]
    pixels: np.ndarray
    hop: int
    offset: int = 0
    is_last: bool = True

    @property
    def shard_rows(self) -> list[ClipRow]:
        return self.rows

    @property
    def batch_size(self) -> int:
        return len(self.rows)

    @property
    def slots(self) -> range:
        return range(len(self.rows))

    def clip(self, slot: int) -> Whole:
        return Whole(self.pixels[slot * self.hop :][: len(self.rows[0].target_times)])


def windows(source: NetworkSource, num_frames: int, rounds: int, clock: Callable[[], float]) -> Case:
    """Measures `source` on four windows of `num_frames` frames. Each window begins a quarter of a window after the
    window before. Returns the Case.

    Each way runs `rounds` times. `clock` returns seconds.
    """
    hop = max(1, num_frames // 4)
    height, width = source.options.input_size(HEIGHT, WIDTH)
    pictures = [x.resize((width, height), Image.Resampling.BILINEAR) for x in drawn(3 * hop + num_frames)]
    row = ClipRow(
        clip_id="v:0:full", video_id="v", path="v", split="", start_seconds=0.0, end_seconds=0.0, labels=(),
        target_times=(), crop=(0, 0, WIDTH, HEIGHT), frame_width=WIDTH, frame_height=HEIGHT,
    )  # fmt: skip
    times = [tuple(float(hop * window + frame) for frame in range(num_frames)) for window in range(4)]
    rows = [replace(row, target_times=of_window) for of_window in times]
    batch: Any = PixelsOfWindows(rows, np.stack([np.asarray(picture) for picture in pictures]), hop)
    shared = FrameProposals(source, every=1)

    def alone() -> None:
        for slot in batch.slots:
            source.propose(clip_of(batch.clip(slot).whole))

    ways = [Way(name="shared frames once", run=partial(shared.of, batch)), Way(name="window by window", run=alone)]
    about = f"4 windows of {num_frames} frames every {hop}, {len(pictures)} frames in all"
    return Case(name="windows", unit="windows", amount=4, seconds=alternate(ways, rounds, clock=clock), about=about)


@torch.inference_mode()
def measured(
    names: Sequence[str], *, short_side: int, num_frames: int, rounds: int, one_thread: bool
) -> Iterator[Case]:
    clock = time.process_time if one_thread else time.perf_counter
    if one_thread:
        torch.set_num_threads(1)
    for name in names:
        source = NetworkSource(CASES[name](short_side), CPU)
        with computing_in(source.precision, CPU):
            ways = ways_of(source, drawn(num_frames))
            for way in ways:  # the first run warms up
                way.run()
            seconds = alternate(ways, rounds, clock=clock)
            for part, of_part in seconds.items():
                median = 1000 * Spread.of(of_part).median / num_frames
                print(f"{name:12} {part:24} {median:8.2f} ms a frame {ratios(seconds, part, FPN).median:7.3f} x FPN")
        about = f"{num_frames} frames, short side of {short_side} px"
        whole = {way: seconds[way] for way in (FPN, RPN, PLAIN)}
        yield Case(name=name, unit="frames", amount=num_frames, seconds=whole, about=about)
    yield windows(source, num_frames, rounds, clock)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this case; may be given several times")
    parser.add_argument("--short-side", type=int, default=192, help="of the frames for the network, px")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip for the network")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one-thread", action="store_true", help="CPU seconds of one thread, for a busy machine")
    parser.add_argument("--quick", action="store_true", help="two frames and one round, to see that it runs")
    options = parser.parse_args()
    run = partial(
        measured,
        options.case or [*CASES],
        short_side=options.short_side,
        num_frames=2 if options.quick else options.frames,
        rounds=1 if options.quick else options.rounds,
        one_thread=options.one_thread,
    )
    report("proposals", run, options.json, quick=options.quick)


if __name__ == "__main__":
    main()

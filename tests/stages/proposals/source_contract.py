"""What every proposal source must do: subclass `SourceContract` and give `options` as a fixture."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinegraph.stages.proposals.options import SourceOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalSource
from kinegraph.stages.proposals.sources import build_source

FRAMES_PER_SECOND, VIDEO_FRAMES = 8, 40
HEIGHT, WIDTH = 90, 122


@functools.cache
def built(options: Any) -> ProposalSource:
    """Once for all tests with the same options."""
    return build_source(options, torch.device("cpu"))


def drawn(num_frames: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Frames [h, w, 3] uint8 with bright and dark rectangles on a rough ground, each frame another."""
    rng = np.random.default_rng(7)
    frames = []
    for _ in range(num_frames):
        frame = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
        for _ in range(6):
            x, y = rng.integers(0, width - 20), rng.integers(0, height - 20)
            frame[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = rng.integers(0, 256, 3)
        frames.append(frame)
    return frames


def clip_of(frames: list[np.ndarray], options: Any, first: int = 0) -> ClipFrames:
    """Consecutive frames of a video, from number `first`, resized as decoding does."""
    height, width = frames[0].shape[:2]
    rows, columns = options.input_size(height, width)
    pixels = None
    if options.takes_pixels:
        resized = (Image.fromarray(x).resize((columns, rows), Image.Resampling.BILINEAR) for x in frames)
        pixels = np.stack([np.asarray(image) for image in resized])
    numbers = np.arange(first, first + len(frames))
    return ClipFrames(
        video_id="a/v0.mp4",
        width=width,
        height=height,
        seconds=numbers / FRAMES_PER_SECOND,
        pixels=pixels,
        numbers=numbers,
        video_frames=VIDEO_FRAMES,
    )


class SourceContract:
    """Boxes within the frame, with an area, best first, zero past count; a matter of each frame alone."""

    NUM_FRAMES = 3

    @pytest.fixture
    def options(self) -> SourceOptions:
        raise NotImplementedError

    @pytest.fixture
    def source(self, options: Any) -> ProposalSource:
        return built(options)

    @pytest.fixture
    def found(self, source: ProposalSource, options: Any) -> ClipProposals:
        return source.propose(clip_of(drawn(self.NUM_FRAMES), options))

    def test_shapes_and_types(self, found: ClipProposals, options: Any) -> None:
        assert found.boxes.shape == (self.NUM_FRAMES, options.top, 4)
        assert found.scores.shape == (self.NUM_FRAMES, options.top)
        assert found.count.shape == (self.NUM_FRAMES,)
        assert [x.dtype for x in (found.boxes, found.scores, found.count)] == [np.float32, np.float32, np.int16]

    def test_boxes_lie_in_the_video_frame_and_have_an_area(self, found: ClipProposals) -> None:
        assert found.count.max() > 1
        for boxes, count in zip(found.boxes, found.count, strict=True):
            x1, y1, x2, y2 = boxes[:count].T
            assert ((x1 >= 0) & (y1 >= 0) & (x2 <= WIDTH) & (y2 <= HEIGHT) & (x1 < x2) & (y1 < y2)).all()

    def test_best_first_and_zero_past_count(self, found: ClipProposals) -> None:
        for boxes, scores, count in zip(found.boxes, found.scores, found.count, strict=True):
            assert (np.diff(scores[:count]) <= 0).all()
            assert not scores[count:].any()
            assert not boxes[count:].any()

    def test_the_same_each_time(self, found: ClipProposals, source: ProposalSource, options: Any) -> None:
        again = source.propose(clip_of(drawn(self.NUM_FRAMES), options))
        assert all(np.array_equal(x, y) for x, y in zip(vars(found).values(), vars(again).values(), strict=True))

    def test_frames_alone_give_the_same(self, found: ClipProposals, source: ProposalSource, options: Any) -> None:
        for t, frame in enumerate(drawn(self.NUM_FRAMES)):
            alone = source.propose(clip_of([frame], options, first=t))
            np.testing.assert_array_equal(alone.count[0], found.count[t])
            np.testing.assert_allclose(alone.boxes[0], found.boxes[t], atol=5e-3)
            np.testing.assert_allclose(alone.scores[0], found.scores[t], atol=2e-4)

    def test_weights_have_a_digest(self, source: ProposalSource, options: Any) -> None:
        assert len(source.digest) == (64 if options.weights_name else 0)

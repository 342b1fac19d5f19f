"""The annotated boxes of Action Genome as proposals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.proposals.options import ActionGenomeBoxOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError
from kinegraph.stages.proposals.sources import build_source
from tests.action_genome import HEIGHT, WIDTH, dataset, write_annotations

CLIP = (0, 1, 8, 39, 39)  # numbers from 0


def _frames(width: int = WIDTH, height: int = HEIGHT, annotated: tuple[int, ...] = CLIP) -> ClipFrames:
    seconds = np.array(annotated) / 8
    return ClipFrames(video_id="a/001YG.mp4", width=width, height=height, seconds=seconds, annotated=annotated)


def _proposed(root: Path, frames: ClipFrames, **options: Any) -> ClipProposals:
    write_annotations(root)
    of_dataset = ActionGenomeOptions.model_validate(dataset(root))
    return build_source(
        ActionGenomeBoxOptions(source="action_genome", **options), torch.device("cpu"), of_dataset
    ).propose(frames)


def test_objects_come_first_and_are_scaled_to_the_video(tmp_path: Path) -> None:
    """Objects are listed as x, y, w, h and persons as corners, in frames twice as large. A box without area is left
    out. Persons follow by score. The last frame has no person, and repeated frames have the same boxes."""
    found = _proposed(tmp_path, _frames(), top=4)
    assert found.count.tolist() == [2, 1, 3, 1, 1]
    assert found.boxes[0, :2].tolist() == [[10, 20, 40, 60], [10, 5, 45, 75]]
    assert found.scores[0].tolist() == [1, 0.75, 0, 0]
    assert found.boxes[2, :3].tolist() == [[15, 15, 20, 25], [50, 0, 90, 80], [0, 0, 20, 40]]
    np.testing.assert_allclose(found.scores[2], [1, 0.9, 0.5, 0])
    np.testing.assert_array_equal(found.boxes[3], found.boxes[4])
    assert (np.diff(found.scores) <= 0).all()
    assert not found.boxes[1, 1:].any()


def test_what_top_drops_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = _proposed(tmp_path, _frames(annotated=(8, 0)), top=1)
    assert found.count.tolist() == [1, 1]
    assert found.boxes[0].tolist() == [[15, 15, 20, 25]]
    said = (
        "a/001YG.mp4 has 3 boxes in frame 9, of which proposals.top keeps the first 1: objects, then persons by score."
    )
    assert [said in text for text in caplog.messages] == [True]


def test_failures(tmp_path: Path) -> None:
    with pytest.raises(ProposalError, match=r"in a frame of 192x160 px, and the video has 80x96 px"):
        _proposed(tmp_path, _frames(HEIGHT, WIDTH))
    with pytest.raises(ProposalError, match=r"missing: frame 3 of a/001YG.mp4 is not annotated now"):
        _proposed(tmp_path, _frames(annotated=(2,)))

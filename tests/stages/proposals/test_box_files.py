"""What a user's files of boxes may look like, and what is said of those that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.stages.proposals.from_files import FileSource
from kinegraph.stages.proposals.options import FileOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError

WIDTH, HEIGHT = 100, 50
Frames = list[dict[str, Any]]
Propose = Callable[..., ClipProposals]


@pytest.fixture
def propose(tmp_path: Path) -> Propose:
    """Proposals of two frames, at 0 and 0.5 s (frames 0 and 4 of 8), from a file with this content."""

    def proposed(content: Any, suffix: str = ".json", **options: Any) -> ClipProposals:
        path = tmp_path / f"v{suffix}"
        if suffix == ".npz":
            np.savez(path, **content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        source = FileSource(FileOptions(source="file", files=f"{tmp_path}/{{stem}}{suffix}", **{"top": 3} | options))
        return source.propose(clip())

    return proposed


def clip() -> ClipFrames:
    return ClipFrames(
        video_id="v.mp4",
        width=WIDTH,
        height=HEIGHT,
        seconds=np.array([0, 0.5]),
        numbers=np.array([0, 4]),
        video_frames=8,
    )


def listed(*boxes: list[Any], scores: list[Any] | None = None, name: str = "seconds") -> dict[str, Any]:
    """A document with these boxes in its first frame, none in its second."""
    first: dict[str, Any] = {name: 0, "boxes": boxes} | ({"scores": scores} if scores else {})
    return {"frames": [first, {name: 0.5 if name == "seconds" else 4, "boxes": []}], "num_frames": 8}


def labelled(*labels: str | int) -> dict[str, Any]:
    """A document with one box in its first frame, and these labels."""
    document = listed([0, 0, 9, 9])
    document["frames"][0]["labels"] = labels
    return document


def test_best_first_and_the_rest_in_the_files_order(propose: Propose) -> None:
    boxes = [[float(i), 0, 50, 40] for i in range(5)]
    found = propose(listed(*boxes, scores=[0.1, 0.9, 0.5, 0.9, 0.2]))
    assert found.boxes[0].tolist() == [boxes[1], boxes[3], boxes[2]]
    np.testing.assert_allclose(found.scores[0], [0.9, 0.9, 0.5])
    assert found.count.tolist() == [3, 0]
    assert not found.boxes[1].any()


def test_without_scores(propose: Propose) -> None:
    found = propose(listed([0, 0, 9, 9], [1, 1, 9, 9]))
    assert found.boxes[0, :2].tolist() == [[0, 0, 9, 9], [1, 1, 9, 9]]
    assert (found.count.tolist(), found.scores.any()) == ([2, 0], False)


@pytest.mark.parametrize(
    ("box", "options"),
    [
        ([20, 10, 60, 30], {}),
        ([20, 10, 40, 20], {"box_format": "xywh"}),
        ([0.2, 0.2, 0.6, 0.6], {"units": "fraction"}),
        ([0.2, 0.2, 0.4, 0.4], {"units": "fraction", "box_format": "xywh"}),
    ],
)
def test_coordinates(propose: Propose, box: list[float], options: dict[str, str]) -> None:
    np.testing.assert_allclose(propose(listed(box), **options).boxes[0, 0], [20, 10, 60, 30], rtol=1e-6)


@pytest.mark.parametrize("labels", [["cup", "person"], [0, 1], ["cup", 1]])
def test_labels_go_with_their_boxes(propose: Propose, labels: list[Any]) -> None:
    document = listed([0, 0, 9, 9], [1, 1, 9, 9], scores=[0.2, 0.7])
    document["frames"][0]["labels"] = labels
    found = propose(document, labels=("cup", "person"))
    assert found.labels is not None
    assert found.labels.tolist() == [[1, 0, -1], [-1] * 3]
    cut = found.within((0, 0, 0.5, 20))  # only the box of the cup
    assert cut.labels is not None
    assert (cut.labels[0].tolist(), cut.count[0], cut.labels.dtype) == ([0, -1, -1], 1, np.int16)
    assert propose(document).labels is None


def test_labels_in_npz(propose: Propose) -> None:
    boxes = np.tile(np.array([1, 2, 30, 40.0]), (2, 2, 1))
    arrays = {"seconds": np.array([0, 0.5]), "boxes": boxes, "count": np.array([2, 1])}
    found = propose(arrays | {"labels": np.array([[1, 0], [1, 9]])}, ".npz", labels=("cup", "person"))
    assert found.labels is not None
    assert found.labels.tolist() == [[1, 0, -1], [1, -1, -1]]


def test_names_of_labels_are_distinct() -> None:
    with pytest.raises(ValueError, match=r"labels: given .*'cup', 'cup'.*each name once"):
        FileOptions(source="file", files="{stem}.json", labels=("cup", "cup"))


def test_boxes_are_clipped_and_those_without_area_left_out(propose: Propose) -> None:
    found = propose(listed([-5, -5, 10, 70], [30, 10, 30, 20], [100, 0, 120, 50], [90, 40, 110, 60]))
    assert found.boxes[0].tolist() == [[0, 0, 10, 50], [90, 40, 100, 50], [0] * 4]
    assert found.count[0] == 2


def test_frames_by_index(propose: Propose) -> None:
    document = listed([0, 0, 9, 9], name="index")
    document["frames"].insert(1, {"index": 3, "boxes": [[5, 5, 9, 9]]})
    found = propose(document, frames="index")
    assert found.count.tolist() == [1, 0]


def test_the_nearest_time_within_tolerance(propose: Propose) -> None:
    document = {"frames": [{"seconds": t, "boxes": [[t * 10, 0, 50, 50]]} for t in (0.01, 0.3, 0.49)]}
    assert propose(document).boxes[:, 0, 0].tolist() == pytest.approx([0.1, 4.9])
    assert propose({"frames": document["frames"][1:2]}, tolerance_seconds=0.3).boxes[:, 0, 0].tolist() == [3, 3]


def test_npz(propose: Propose) -> None:
    boxes = np.array([[[1, 2, 30, 40], [5, 6, 7, 8]], [[9, 9, 9.5, 9.5], [0, 0, 0, 0]]], np.float32)
    arrays = {"seconds": np.array([0, 0.5]), "boxes": boxes, "scores": np.array([[0.25, 0.5], [0.75, 0]])}
    found = propose(arrays | {"count": np.array([2, 1])}, ".npz")
    assert found.boxes[0, :2].tolist() == [[5, 6, 7, 8], [1, 2, 30, 40]]
    assert found.boxes[1, 0].tolist() == [9, 9, 9.5, 9.5]
    assert found.count.tolist() == [2, 1]
    assert propose({"index": np.array([0, 4]), "boxes": boxes, "num_frames": 8}, ".npz", frames="index").count[0] == 2


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (listed([0, 0, float("nan"), 9]), {}, "NaN"),
        (
            listed([0, 0, 9, 9], [200, 0, 300, 40]),
            {},
            r"1 of 2 boxes wholly outside.*units px of a frame of 100x50 px",
        ),
        (listed([60, 10, 20, 5]), {}, r"negative size, first \[60.0, 10.0, 20.0, 5.0\] at seconds 0.*box_format xyxy"),
        (listed([20, 10, 60, 30]), {"units": "fraction"}, "wholly outside"),
        (listed([0, 0, 9, 9], scores=[1, 2]), {}, "2 scores for 1 box"),
        (listed([0, 0, 9, 9]), {"labels": ("cup",)}, "has no 'labels'"),
        (labelled("cat"), {"labels": ("cup", "dog")}, r"label 'cat'; expected a name in .*\(cup, dog\).* to 1"),
        (labelled("cat", "cat"), {"labels": ("cat",)}, "frame 0 has 2 labels for 1 box"),
        (listed([0, 0, 9, 9], scores=[[1, 2]]), {}, r"one score for each box, found .*scores \[1, 2\]"),
        (listed(*[[0, 0, 9]] * 4), {}, r"boxes of shape \[4, 3\], expected four numbers each"),
        (listed([[0, 0, 9, 9]]), {}, r"boxes of shape \[1, 1, 4\], expected four numbers each"),
        ({"frames": [{"seconds": [0.0], "boxes": []}]}, {}, r"one number for each frame.*, found frames \[1, 1\]"),
        ("[" * 100_000, {}, "cannot be read as a file of boxes"),
        ("{", {}, "cannot be read as a file of boxes"),
        ({"frames": []}, {}, "at least one frame"),
        ({"boxes": []}, {}, "has no 'frames'"),
        (listed([0, 0, 9, 9]), {"frames": "index"}, "has no 'index'"),
        (
            {"frames": listed()["frames"][:1]},
            {},
            r"lists no frame at seconds 0\.5, the nearest is 0; 1 frame is listed",
        ),
        ({"frames": listed()["frames"][::-1]}, {}, "ascending order"),
        (listed(name="index") | {"num_frames": 9}, {"frames": "index"}, "made for 9 frames, the video has 8"),
        (listed(name="index") | {"num_frames": None}, {"frames": "index"}, "num_frames, which must be there"),
    ],
)
def test_bad_files_fail_with_the_video_and_the_file(
    propose: Propose, content: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProposalError, match=message) as caught:
        propose(content, **options)
    assert caught.value.reason == "unreadable"
    assert "v.json of v.mp4" in caught.value.detail


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"boxes": np.zeros((3, 1, 4))}, r"shapes do not belong together: .*boxes \[3, 1, 4\]"),
        ({"boxes": np.zeros((2, 1, 4)), "scores": np.zeros((2, 2))}, "shapes do not belong together"),
        ({"boxes": np.full((2, 1, 4), np.inf)}, "NaN or Inf"),
        ({"boxes": np.array([None, None])}, "cannot be read"),
        *(({"boxes": np.zeros(shape)}, "shapes do not belong together") for shape in ((), (2,), (2, 4), (2, 1, 1, 4))),
        *(
            ({"boxes": np.zeros((2, 1, 4)), "count": np.array([1, bad])}, f"count holds {bad}, expected .* from 0 to")
            for bad in (2, -1, 0.5, np.nan)
        ),
        ({"boxes": np.zeros(4), "count": np.array([1, 1])}, "shapes do not belong together"),
        ({"seconds": np.zeros((2, 1)), "boxes": np.zeros((2, 1, 4))}, "shapes do not belong together"),
    ],
)
def test_bad_npz(propose: Propose, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ProposalError, match=message):
        propose({"seconds": np.array([0, 0.5])} | arrays, ".npz")


@pytest.mark.filterwarnings("ignore:overflow")  # of boxes that a flipped bit made huge
def test_a_byte_that_flipped_fails_the_clip_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez_compressed(path, seconds=np.array([0, 0.5]), boxes=np.full((2, 1, 4), 7.0))
    content = path.read_bytes()
    options = FileOptions(source="file", files=str(tmp_path / "{stem}.npz"))
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            FileSource(options).propose(clip())
        except ProposalError:
            refused += 1
    assert refused > len(content) / 2


def test_a_missing_file() -> None:
    source = FileSource(FileOptions(source="file", files="nowhere/{video_id}.json"))
    with pytest.raises(ProposalError, match=r"missing: no box file nowhere/v\.mp4\.json for v\.mp4"):
        source.propose(clip())

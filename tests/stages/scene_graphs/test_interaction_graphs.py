"""Graphs of the generated data set: relations by hand, and what they must say of scenes whose story is known."""

from dataclasses import replace

import numpy as np
import pytest

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.generated.interactions import CLASSES, FPS, interaction, truth, video_path
from kinegraph.stages.scene_graphs.from_interactions import InteractionGraphs, relations_to_person
from kinegraph.stages.scene_graphs.options import INTERACTION_RELATIONS, InteractionGraphOptions
from kinegraph.stages.scene_graphs.source import GraphError
from tests.stages.scene_graphs.source_contract import FRAME_TIMES, GraphSourceContract, a_row


def row(name: str, start: float = 0.0) -> ClipRow:
    return a_row(f"videos/{video_path('train', CLASSES.index(name))}", start)


def source(every: int = 1) -> InteractionGraphs:
    return InteractionGraphs(InteractionGraphOptions(source="interactions", every=every), seed=0)


@pytest.mark.parametrize("every", [1, 2])
class TestContract(GraphSourceContract):
    @pytest.fixture
    def options(self, every: int) -> InteractionGraphOptions:
        return InteractionGraphOptions(source="interactions", every=every)

    @pytest.fixture
    def source(self, options: InteractionGraphOptions) -> InteractionGraphs:
        return InteractionGraphs(options, seed=0)

    @pytest.fixture
    def row(self) -> ClipRow:
        return row("pushes")


def squares(*centres: tuple[float, float]) -> np.ndarray:
    """Boxes [K, 4] of side 10."""
    return np.array([(x - 5, y - 5, x + 5, y + 5) for x, y in centres])


def named(values: np.ndarray) -> set[str]:
    return {name for name, held in zip(INTERACTION_RELATIONS, values, strict=True) if held}


def test_relations_by_hand() -> None:
    """The person walks right, 2 px a frame, carries one thing, leaves a second behind and comes to a third."""
    boxes = np.stack([squares((30 + x, 50), (30 + x, 39), (8, 50), (70, 60)) for x in (0, 2, 4)])
    found = relations_to_person(boxes)
    assert [named(values) for values in found.values[1]] == [
        {"touching", "near", "above", "moving_together"},
        {"left_of", "leaving"},
        {"right_of", "below", "approaching"},
    ]
    assert found.gaps_px[0].tolist() == pytest.approx([1, 12, np.hypot(40, 10) - 10])
    np.testing.assert_array_equal(found.values[0], found.values[1])  # the first frame has the second one's changes


def test_things_that_stand_still_do_not_move_together() -> None:
    boxes = np.stack([squares((30, 50), (30, 39))] * 3)
    assert named(relations_to_person(boxes).values[1, 0]) == {"touching", "near", "above"}


def test_truth_is_what_is_drawn() -> None:
    drawn, told = interaction(3, "test", 7), truth(3, "test", 7)
    np.testing.assert_array_equal(drawn.boxes, told.boxes)
    assert (drawn.label, drawn.digits) == (told.label, told.digits)


@pytest.mark.parametrize(("name", "first", "last"), [("comes_to", False, True), ("leaves", True, False)])
def test_a_story_shows_in_touching(name: str, first: bool, last: bool) -> None:
    """Objects stand in order of their distance, and are linked, all of them; distractors touch nothing."""
    found = source().graphs(row(name), FRAME_TIMES)
    touching = found.relations[..., INTERACTION_RELATIONS.index("touching")].astype(bool)
    assert (touching[0, 0], touching[-1, 0]) == (first, last)
    assert not touching[:, 1:].any()
    assert (found.count == 3).all()
    assert found.linked.all()
    digits = {digit + 1 for digit in truth(0, "train", CLASSES.index(name)).digits[1:]}
    assert {*found.objects.ravel().tolist()} == digits


def test_times_are_of_every_kth_frame_of_the_clip() -> None:
    every, halved = source().graphs(row("meets"), FRAME_TIMES), source(every=4).graphs(row("meets"), FRAME_TIMES)
    assert halved.times.tolist() == [0, 0.5, 1, 1.5]
    np.testing.assert_array_equal(halved.relations, every.relations[::4])
    late = source().graphs(row("meets", start=0.3), FRAME_TIMES[2:])  # its first frame began before it
    np.testing.assert_allclose(late.times[:3], [0, 0.075, 0.2])
    np.testing.assert_array_equal(late.objects, every.objects[2:])


def test_other_videos_have_no_graphs() -> None:
    for name in ("videos/train/pushes_00001.mp4", "videos/train/x.mp4", "elsewhere.mp4"):
        with pytest.raises(GraphError, match=f"unreadable: {name} is no video of the generated data set"):
            source().graphs(replace(row("meets"), video_id=name), FRAME_TIMES)


def test_a_longer_video_is_not_a_generated_one() -> None:
    with pytest.raises(GraphError, match=r"meets_00006\.mp4 is longer than a generated video: 2 s"):
        source().graphs(row("meets"), FRAME_TIMES + 1 / FPS)

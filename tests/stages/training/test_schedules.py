import pytest

from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.schedules import Schedule, num_plateaus


def _factors(steps_per_epoch: int, **values: object) -> list[float]:
    schedule = Schedule(options=TrainOptions.model_validate(values), steps_per_epoch=steps_per_epoch)
    return [schedule.factor(step) for step in range(schedule.num_steps)]


def test_milestones_count_epochs() -> None:
    found = _factors(2, epochs=4, schedule="step", milestones=[1, 3])
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_milestones_count_steps_with_iterations() -> None:
    found = _factors(2, iterations=5, schedule="step", milestones=[3], gamma=0.5)
    assert found == [1, 1, 1, 0.5, 0.5]


def test_warm_up_rises_to_the_full_rate_and_cosine_falls_from_there() -> None:
    found = _factors(2, epochs=4, warmup=2)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.8536, 0.5, 0.1464], rel=1e-3)
    assert _factors(4, epochs=2, warmup=0.5, schedule="constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]


def test_an_epoch_that_is_cut_short_counts() -> None:
    options = TrainOptions(iterations=7)
    assert Schedule(options=options, steps_per_epoch=3).num_epochs == 3


@pytest.mark.parametrize(
    ("worths", "found"),
    [
        ([], 0),
        ([0.1, 0.2, 0.2], 0),
        ([0.1, 0.2, 0.2, 0.1], 1),
        ([0.1, 0.2, 0.2, 0.3, 0.3], 0),
        ([0.3, 0.1, 0.2, 0.25], 1),
        ([0.3, 0.1, 0.2, 0.25, 0.29], 2),
        ([-2.0, -1.0, -1.5, -1.2], 1),
    ],
)
def test_a_plateau_is_two_epochs_in_a_row_below_the_best(worths: list[float], found: int) -> None:
    assert num_plateaus(worths, 2) == found


def test_each_plateau_lowers_the_rate_after_warm_up() -> None:
    options = TrainOptions(schedule="plateau", plateau_epochs=1, gamma=0.5, warmup=1)
    schedule = Schedule(options=options, steps_per_epoch=2)
    assert [schedule.factor(step, [0.2, 0.1]) for step in (0, 1, 2)] == [0.5, 1, 0.5]
    assert schedule.factor(8, [0.2, 0.1, 0.2, 0.3]) == 0.25

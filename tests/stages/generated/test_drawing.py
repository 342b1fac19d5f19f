import numpy as np
import pytest

from kinegraph.stages.generated.drawing import (
    FIRST_UNSEEN_DIGIT,
    FRAME_SIZE,
    boxes_around,
    bundled_digits,
    draw,
    ground,
    pick_digit,
    sprite,
)


def square(side: int) -> np.ndarray:
    """A white opaque sprite."""
    return np.concatenate([np.full((side, side, 3), 255.0), np.ones((side, side, 1))], axis=-1).astype(np.float32)


def test_a_sprite_is_drawn_around_its_centre_and_shared_between_pixels() -> None:
    black = np.zeros((FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    (frame,) = draw(black, [square(4)], np.array([[[20.0, 30.25]]]))
    assert (frame[29:32, 18:22] == 255).all()
    assert (frame[28, 18:22] == 191).all()
    assert (frame[32, 18:22] == 64).all()
    assert frame.astype(int).sum() == pytest.approx(16 * 3 * 255, rel=1e-3)


def test_later_sprites_lie_in_front() -> None:
    dark = square(6) * np.array([0, 0, 0, 1], np.float32)
    centre = np.full((1, 2, 2), 40.0)
    background = np.full((FRAME_SIZE, FRAME_SIZE, 3), 100, np.uint8)
    assert draw(background, [dark, square(6)], centre)[0, 40, 40, 0] == 255
    assert draw(background, [square(6), dark], centre)[0, 40, 40, 0] == 0


def test_a_sprite_shows_its_digit_and_stays_within_its_square() -> None:
    blank = sprite(np.random.default_rng(2), np.zeros((8, 8)), 16)
    marked = sprite(np.random.default_rng(2), np.eye(8), 16)
    assert np.array_equal(blank[..., 3], marked[..., 3])
    changed = (blank != marked).any(axis=-1)
    assert changed.diagonal()[2:14].all()
    assert not changed[2, 13]
    assert blank[..., 3].max() == 1
    assert (marked[..., :3] <= 255 * marked[..., 3:] + 1e-3).all()


def test_unseen_digits_are_those_from_the_first_unseen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(1797)[:, None, None] * np.ones((8, 8))
    monkeypatch.setattr("kinegraph.stages.generated.drawing.bundled_digits", lambda: (images, np.arange(1797)))
    rng = np.random.default_rng(0)
    seen = [pick_digit(rng, unseen=False)[1] for _ in range(500)]
    unseen = [pick_digit(rng, unseen=True)[1] for _ in range(500)]
    assert max(seen) < FIRST_UNSEEN_DIGIT <= min(unseen)


def test_the_ground_is_not_clipped() -> None:
    for seed in range(5):
        picture = ground(np.random.default_rng(seed))
        assert 0 < picture.min() <= picture.max() < 255


def test_boxes() -> None:
    boxes = boxes_around(np.array([[[20.0, 30.0], [5.0, 6.0]]]), np.array([4, 10]))
    assert boxes.tolist() == [[[18, 28, 22, 32], [0, 1, 10, 11]]]


def test_digits_are_read_from_the_file_of_scikit_learn_or_by_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    images, digits = bundled_digits.__wrapped__()
    assert (images.shape, images.dtype, digits.shape) == ((1797, 8, 8), np.float32, (1797,))
    monkeypatch.setattr("kinegraph.stages.generated.drawing.DIGITS_FILE", ("no such file",))
    by_function = bundled_digits.__wrapped__()
    assert np.array_equal(images, by_function[0])
    assert np.array_equal(digits, by_function[1])

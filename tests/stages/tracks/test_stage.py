"""Tracks as a kind of stage."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.tracks.options import TrackOptions
from tests.stages.stage_contract import BatchInMemory, Damage, RunnerContract, declared

SECTIONS: dict[str, Any] = {
    "clips": {"num_frames": 8},
    "proposals": {"source": "grid", "cells": [1, 3], "every": 2},
    "tracks": {},
}


class TestTracks(RunnerContract):
    """Two boxes that stay over four frames; in the second clip there is none in the third frame."""

    @pytest.fixture
    def recipe(self) -> Recipe:
        return Recipe.model_validate(SECTIONS)

    @pytest.fixture
    def key(self) -> str:
        return "tracks"

    @pytest.fixture
    def batch(self) -> BatchInMemory:
        boxes = np.tile(np.array([[0, 0, 40, 80], [40, 0, 96, 96], [0, 0, 0, 0]], np.float32), (4, 4, 1, 1))
        count = np.full((4, 4), 2, np.int16)
        count[3, 2] = 0
        scores = np.zeros((4, 4, 3), np.float32)
        return BatchInMemory(reads={"proposals/boxes": boxes, "proposals/scores": scores, "proposals/count": count})

    @pytest.fixture
    def damages(self) -> list[Damage]:
        def damaged(clip: int, frame: int, place: int, value: int) -> Damage:
            return "tracks/id", lambda rows: rows.__setitem__((clip, frame, place), value), "ids"

        return [
            damaged(0, 1, 1, 0),  # twice in a frame
            damaged(0, 1, 0, -1),  # a box behind no box
            damaged(0, 0, 0, -2),
            damaged(1, 3, 1, 4),  # beyond those that are there
            damaged(1, 0, 0, 2),  # a number that is not the next one
            ("tracks/id", lambda rows: rows[0, 1].fill(-1), "ids"),  # tracks 0 and 1 without a box in a frame between
            ("tracks/count", lambda rows: rows.fill(3), "count"),
            ("tracks/count", lambda rows: rows.fill(-1), "count"),
        ]

    def test_the_tracks(self, sound: dict[str, np.ndarray]) -> None:
        assert sound["tracks/id"].tolist() == [
            [[0, 1, -1]] * 4,
            [[0, 1, -1], [0, 1, -1], [-1, -1, -1], [2, 3, -1]],
        ]
        assert sound["tracks/count"].tolist() == [2, 4]


def test_arrays_have_the_frames_and_places_of_the_proposals() -> None:
    ids, count = declared(Recipe.model_validate(SECTIONS))["tracks"].arrays
    assert (ids.name, ids.shape, ids.dims, ids.frame_step) == ("tracks/id", (4, 3), ("frame_by_2", "proposal"), 2)
    assert (count.name, count.shape, count.dims, count.frame_step) == ("tracks/count", (), (), None)
    assert {(spec.dtype, spec.fill) for spec in (ids, count)} == {("int32", -1)}


def test_a_fingerprint_covers_the_overlap_and_the_boxes() -> None:
    def fingerprint(**sections: Any) -> str:
        return declared(Recipe.model_validate(SECTIONS | sections))["tracks"].fingerprint

    given: list[dict[str, Any]] = [
        {},
        {"tracks": {"min_iou": 0.5}},
        {"proposals": {"source": "grid", "cells": [3, 1], "every": 2}},
    ]
    assert len({fingerprint(**sections) for sections in given}) == 3


def test_a_config_that_does_not_fit() -> None:
    config = check_config({"cache": "c", "tracks": {}}, "config")
    with pytest.raises(ConfigError, match="tracks: need a `proposals:` section, or imported proposals in the cache"):
        declare(config, {})
    for min_iou in (0, 1.1):
        with pytest.raises(ValidationError, match="min_iou"):
            TrackOptions(min_iou=min_iou)

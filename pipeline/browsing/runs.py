"""Reads the runs that `kinegraph browse` shows, and the predictions that `evaluate` left beside them. Torch-free."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kinegraph.pipeline.browsing.catalogue import ShownClips
from kinegraph.pipeline.browsing.scored import NO_SCORES, ScoredVideos, read_scored
from kinegraph.pipeline.training.results import RunResults, find_results


@dataclass(frozen=True)
class ShownRun:
    """A run in `folder` with its `results`."""

    folder: Path
    results: RunResults

    @property
    def name(self) -> str:
        return f"{self.results.name}, seed {self.results.seed}"

    @cached_property
    def scored(self) -> ScoredVideos:
        """Returns the predictions of all splits of the run. They are read once."""
        return read_scored(self.folder)

    def usable(self, clips: ShownClips) -> ScoredVideos:
        """Returns the predictions, or none if they are of other classes than `clips` has."""
        return self.scored if [*self.scored.class_names] == clips.classes else NO_SCORES

    def problem(self, clips: ShownClips) -> str:
        """Returns why the predictions of the run cannot be shown beside `clips`, or "" if they can."""
        if not len(self.scored):
            return f"no predictions of these weights: run `kinegraph evaluate {self.folder}`"
        if not len(self.usable(clips)):
            return "other classes than those of this cache"
        known = (self.scored.predicted(clips.video_ids) >= 0).any()
        return "" if known else "none of the predicted videos is in this cache"


def shown_runs(folder: Path | None) -> list[ShownRun]:
    """Returns the runs in `folder` and below, sorted by folder. Returns no run for None.

    Raises ResultsError if there is no run with results, or if results cannot be read.
    """
    return [] if folder is None else [ShownRun(*found) for found in find_results(folder)]


def scored_of(run: ShownRun | None, clips: ShownClips) -> ScoredVideos:
    return NO_SCORES if run is None else run.usable(clips)

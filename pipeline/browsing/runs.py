"""Reads the runs that `kinegraph browse` shows, and the predictions that `evaluate` wrote for them. Torch-free."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kinegraph.pipeline.browsing.catalogue import ShownClips
from kinegraph.pipeline.browsing.scored import NO_SCORES, ScoredVideos, read_scored
from kinegraph.pipeline.training.results import RunResults, find_results


@dataclass(frozen=True)
class ShownRun:
    """A trained run that the pages show. `folder` is its folder, and `results` is the content of its results.json."""

    folder: Path
    results: RunResults

    @property
    def name(self) -> str:
        return f"{self.results.name}, seed {self.results.seed}"

    @cached_property
    def scored(self) -> ScoredVideos:
        """Returns the predictions of the run on all splits. The files are read only at the first call."""
        return read_scored(self.folder)

    def usable(self, clips: ShownClips) -> ScoredVideos:
        """Returns the predictions of the run if they can be shown beside the clips `clips`: if the run has the same
        class names as the cache, in the same order. Otherwise returns NO_SCORES, which has no predictions.
        """
        return self.scored if [*self.scored.class_names] == clips.classes else NO_SCORES

    def problem(self, clips: ShownClips) -> str:
        """Returns why the predictions of the run cannot be shown for `clips`, or "" if they can be shown."""
        if not len(self.scored):
            return f"no predictions of these weights: run `kinegraph evaluate {self.folder}`"
        if not len(self.usable(clips)):
            return "other classes than those of this cache"
        known = (self.scored.predicted(clips.video_ids) >= 0).any()
        return "" if known else "none of the predicted videos is in this cache"


def shown_runs(folder: Path | None) -> list[ShownRun]:
    """Returns a ShownRun (a folder and its results) for each run in `folder` and its subfolders, sorted by folder.
    Returns an empty list if `folder` is None.

    Raises ResultsError if there is no run with results, or if results cannot be read.
    """
    return [] if folder is None else [ShownRun(*found) for found in find_results(folder)]


def scored_of(run: ShownRun | None, clips: ShownClips) -> ScoredVideos:
    return NO_SCORES if run is None else run.usable(clips)

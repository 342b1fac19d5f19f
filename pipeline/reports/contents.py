"""Holds the cache and the runs that a report is about. Torch-free."""

from dataclasses import dataclass

from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.training.breakdown import Attributes


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Holds what a report is about. `look` is the cache, or None. `why_no_cache` then says why. `runs` are trained
    runs, or None. `against` are another cache and other runs to compare with, or None, and `against_name` is the place
    that the user named. `attributes` are those of the classes: class -> attribute -> value.
    """

    look: Look | None = None
    runs: Runs | None = None
    why_no_cache: str = "The report was made without a cache: name one beside the runs."
    against: "Contents | None" = None
    against_name: str = ""
    attributes: Attributes | None = None

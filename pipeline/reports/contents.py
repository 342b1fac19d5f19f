"""Defines Contents, the cache and the runs that a report describes. Torch-free."""

from dataclasses import dataclass

from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.training.breakdown import Attributes


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The cache and the trained runs that one report describes."""

    look: Look | None = None  # the figures of the cache, or None without a cache
    runs: Runs | None = None  # the trained runs, or None without runs
    # A sentence that says why there is no cache
    why_no_cache: str = "The report was made without a cache: name one beside the runs."
    against: "Contents | None" = None  # another cache or other runs to compare with (`report --against`), or None
    against_name: str = ""  # the path or URL of `against`, as the user gave it
    attributes: Attributes | None = None  # {class: {attribute: value}}, or None if the classes have no attributes

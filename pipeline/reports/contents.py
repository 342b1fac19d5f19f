"""Defines Contents, the cache and the runs that a report describes. Torch-free."""

from dataclasses import dataclass

from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.training.breakdown import Attributes


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The cache and the trained runs that one report describes.

    - `look`: the figures of the cache, or None without a cache.
    - `why_no_cache`: a sentence that says why there is no cache.
    - `runs`: the trained runs, or None without runs.
    - `against`: another cache or other runs to compare with (`report --against`), or None.
    - `against_name`: the path or URL of `against`, as the user gave it.
    - `attributes`: {class: {attribute: value}}, or None if the classes have no attributes.
    """

    look: Look | None = None
    runs: Runs | None = None
    why_no_cache: str = "The report was made without a cache: name one beside the runs."
    against: "Contents | None" = None
    against_name: str = ""
    attributes: Attributes | None = None

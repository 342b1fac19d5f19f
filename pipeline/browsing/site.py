"""Holds what all pages of `kinegraph browse` share, and renders their HTML templates. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kinegraph.cache_schemas.words import counted, on_one_line
from kinegraph.pipeline.browsing.catalogue import Catalogue, ShownClips
from kinegraph.pipeline.browsing.frames import FramePictures
from kinegraph.pipeline.browsing.links import address, whole_number
from kinegraph.pipeline.browsing.neighbours import Neighbours
from kinegraph.pipeline.browsing.runs import ShownRun

FOLDER = Path(__file__).parent
PLACES = (("Clips", "/"), ("Failures", "/failures"), ("Runs", "/runs"))


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything that the pages show: the clips of one cache, their frames, the index for the search of similar
    regions, and trained runs.
    """

    catalogue: Catalogue
    frames: FramePictures
    neighbours: Neighbours
    runs: list[ShownRun]

    def run(self, query: Mapping[str, str]) -> ShownRun | None:
        """Returns the run whose number is the parameter `run` of an address. Without the parameter, returns run 0.
        Returns None if there are no runs.

        Raises HTTPException (404) if no run has this number.
        """
        number = whole_number(query, "run", 0)
        if self.runs and number >= len(self.runs):
            count = len(self.runs)
            raise HTTPException(404, f"There is no run {number:,}: the page Runs has {count:,}, counted from 0.")
        return self.runs[number] if self.runs else None


def name(text: str) -> Markup:
    """Returns `text` as HTML for a page, on one line. The element <bdi> keeps names in right-to-left scripts apart from
    the text around them.
    """
    return Markup("<bdi>{}</bdi>").format(on_one_line(text))


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"name": name, "line": on_one_line, "address": address}
    made.globals |= {"counted": counted, "escape": escape}
    return made


ENVIRONMENT = _environment()


def rendered(template: str, request: Request, clips: ShownClips | None, status: int = 200, **values: Any) -> Response:
    """Returns the HTML page that the template `template` makes of `values`. `clips` are the clips of the cache, or None
    if the cache cannot be read. `status` is the HTTP status.
    """
    shared = {
        "places": PLACES,
        "here": request.url.path,
        "root": "" if clips is None else clips.cache.root,
        "stages": {} if clips is None else clips.stages,
        "num_shards": 0 if clips is None else clips.cache.num_shards,
    }
    return HTMLResponse(ENVIRONMENT.get_template(template).render(shared | values), status)

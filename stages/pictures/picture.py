"""Defines Picture, a matplotlib figure that also has its numbers and a description. Imports matplotlib, and no pyplot.
Torch-free.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinegraph.stages.pictures.theme import STYLE, themed

Values = Sequence[float] | np.ndarray
WIDE, NARROW = 7.0, 3.4  # inches; two narrow figures fit beside each other
WITHOUT_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """Sets the style of all kinegraph figures for the time of a `with` block. `more` are further settings of
    matplotlib, with `_` in place of a dot: `svg_id` sets `svg.id`.

    matplotlib warns of characters that its font lacks. An SVG holds them as text, so this warning is switched off.
    """
    settings = STYLE | {key.replace("_", "."): value for key, value in more.items()}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


class Picture(Figure):
    """A matplotlib figure that also has its numbers and a description in words. A notebook shows a Picture.
    `savefig("norms.pdf")` writes it to a file, without a date in the file.

    - `name`: a short name, for files and for ids in a page.
    - `title`: a line above the figure.
    - `height`, `width`: in inches.
    - `description`: a sentence that says what the figure shows, with its main numbers. `describe` sets it.
    - `data`: {name: array}, the numbers that are drawn. `describe` sets it.
    """

    def __init__(self, name: str, title: str, height: float = 2.2, width: float = NARROW) -> None:
        with styled():
            super().__init__(figsize=(width, height), layout="constrained", facecolor="none")
        self.name, self.title = name, title
        self.description = ""
        self.data: Mapping[str, np.ndarray] = {}

    def describe(self, description: str, **data: Any) -> "Picture":
        """Sets `description`, and sets `data` to the keyword arguments, each as an array. Returns the Picture
        itself.
        """
        self.description = description
        self.data = {key: np.asarray(values) for key, values in data.items()}
        return self

    def savefig(self, fname: Any, **options: Any) -> None:
        """Writes the figure to the file `fname`. The ending of the name chooses the format. `options` are those of
        matplotlib's `savefig`.
        """
        ending = f".{options.get('format') or Path(str(fname)).suffix.lstrip('.')}"
        self._lay_out()
        with styled():
            super().savefig(fname, **{"metadata": WITHOUT_DATE.get(ending), "dpi": 200} | options)

    def svg(self) -> str:
        """Returns the figure as an SVG element for an HTML page. Its colours follow the light or dark theme of the
        page.
        """
        self._lay_out()
        content = io.BytesIO()
        with styled(svg_hashsalt=self.name, svg_id=self.name):
            super().savefig(content, format="svg", metadata={"Date": None})
        return themed(content.getvalue().decode(), self.name, f"{self.title}. {self.description}")

    def _lay_out(self) -> None:
        """Fixes the places of axes and texts when the figure is drawn for the first time. A second layout would move
        them a little, so the files would differ.
        """
        engine = self.get_layout_engine()
        if engine is not None:
            with styled():
                engine.execute(self)
                self.set_layout_engine(None)  # with any other engine matplotlib draws twice

    def _repr_svg_(self) -> str:
        return self.svg()


def plain_axes(picture: Picture, grid: str | None = "y") -> Axes:
    """Adds axes to the empty `picture`, and returns them. `grid` is the axis that gets grid lines: "x", "y", "both", or
    None for no lines.
    """
    axes = picture.add_subplot()
    if grid:
        axes.grid(visible=True, axis=grid)  # type: ignore[arg-type]
    return axes

"""Draws curves of scores over time with matplotlib, without pyplot and without a display. Torch-free.

matplotlib is an optional package. It is imported when a curve is drawn.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kinegraph.cache_schemas.words import on_one_line
from kinegraph.stages.errors import UsageError

ENDINGS = (".svg", ".png", ".pdf")
INCHES, DPI = (8.0, 3.6), 150
COLOURS = ("#3d8fd1", "#d9701a", "#2a9d74", "#c8639b", "#b08414", "#8f7cc9", "#808080", "#c8574e")
DASHES = ("-", "--", ":", "-.")
MOST_MARKED, MOST_LETTERS = 60, 28
LABEL_SHARE = 0.075  # of the axis, from one label to the next
STYLE: Any = {  # of matplotlib
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "svg.hashsalt": "kinegraph",
    "pdf.fonttype": 42,
    "font.size": 9.0,
}
WITHOUT_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Curves of the scores of K classes over S spans of time.

    `spans` are (start, end) in seconds, in the order of time, without the end. `names` are the names of the classes.
    `scores` [S, K] are from 0 to 1, and NaN for a span without a score. `title` is a line above the curves.
    """

    title: str
    spans: Sequence[tuple[float, float]]
    names: Sequence[str]
    scores: np.ndarray


def require_matplotlib() -> None:
    """Raises UsageError if matplotlib is not installed. The message says how to install it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("Curves need the package matplotlib: pip install 'kinegraph[look]'") from error


def curves_file(curves: Curves, ending: str) -> bytes:
    """Returns the content of a picture file with `curves`, one line per class over time. `ending` is one of ENDINGS.

    Each score stands in the middle of its span of time. A line is broken at a span without a score, which is shaded.
    Equal curves give equal bytes with one version of matplotlib. Raises UsageError if matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as boxes; in an SVG they are text
        figure = Figure(figsize=INCHES, layout="constrained")
        _draw(figure, curves)
        content = io.BytesIO()
        figure.savefig(content, format=ending.removeprefix("."), dpi=DPI, metadata=WITHOUT_DATE[ending])
    return content.getvalue()


def _draw(figure: Any, curves: Curves) -> None:
    axes = figure.add_subplot()
    edges = np.array(curves.spans, dtype=float).reshape(-1, 2)
    first, last = edges.min(initial=0.0), edges.max(initial=1e-3)
    for (start, end), row in zip(edges, curves.scores, strict=True):
        if np.isnan(row).all():
            axes.axvspan(start, end, color="#808080", alpha=0.2, linewidth=0)
    marker = "o" if len(edges) <= MOST_MARKED else ""
    for number, scores in enumerate(curves.scores.T):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        axes.plot(edges.mean(1), scores, color=colour, linestyle=dash, marker=marker, markersize=3, linewidth=1.4)
    for number, place in enumerate(_label_places(curves.scores)):
        name = on_one_line(curves.names[number])
        shown = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
        axes.annotate(shown, (1.01, place), xycoords="axes fraction", va="center", color=COLOURS[number % len(COLOURS)])
    axes.set(xlim=(first, last), ylim=(0, 1), xlabel="seconds", ylabel="score")
    axes.set_title(on_one_line(curves.title), loc="left", fontsize="medium")
    axes.grid(visible=True, color="#808080", alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label_places(scores: np.ndarray) -> list[float]:
    """Returns the height of each curve's label, as a share of the axis. `scores` [S, K] has S scores of each of K
    curves.

    A label stands beside the last score of its curve. Labels that would overlap are moved apart.
    """
    ends = []
    for column in scores.T:
        told = column[~np.isnan(column)]
        ends.append(float(told[-1]) if len(told) else 0.0)
    order = sorted(range(len(ends)), key=lambda number: (ends[number], -number))
    places, least = dict.fromkeys(order, 0.0), 0.0
    for number in order:
        places[number] = max(ends[number], least)
        least = places[number] + LABEL_SHARE
    most = 1.0
    for number in reversed(order):
        places[number] = min(places[number], most)
        most = places[number] - LABEL_SHARE
    return [places[number] for number in range(len(ends))]

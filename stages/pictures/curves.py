"""Draws curves of scores over time with matplotlib, without pyplot and without a display. Torch-free.

matplotlib is an optional package, so it is imported only when a curve is drawn.
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
LABEL_SHARE = 0.075  # smallest distance of two labels, as a share of the axis
STYLE: Any = {  # settings of matplotlib
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "svg.hashsalt": "kinegraph",
    "pdf.fonttype": 42,
    "font.size": 9.0,
}
WITHOUT_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The scores of K classes over S parts of a video, for a figure with one curve per class."""

    title: str  # a line above the curves
    spans: Sequence[tuple[float, float]]  # (start, end) of each part in seconds, in the order of time
    names: Sequence[str]  # the name of each class
    scores: np.ndarray  # [S, K], from 0 to 1. NaN means that a part has no score.


def require_matplotlib() -> None:
    """Raises UsageError if matplotlib is not installed. The message says how to install it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("Curves need the package matplotlib: pip install 'kinegraph[look]'") from error


def curves_file(curves: Curves, ending: str) -> bytes:
    """Returns the content of a picture file that shows `curves`, one line per class over time. `ending` chooses the
    format: ".svg", ".png" or ".pdf".

    A score stands in the middle of its part of the video. A part without scores is shaded and interrupts the lines.
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
    for number, place in enumerate(label_places([_end(column) for column in curves.scores.T])):
        name = on_one_line(curves.names[number])
        shown = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
        axes.annotate(shown, (1.01, place), xycoords="axes fraction", va="center", color=COLOURS[number % len(COLOURS)])
    axes.set(xlim=(first, last), ylim=(0, 1), xlabel="seconds", ylabel="score")
    axes.set_title(on_one_line(curves.title), loc="left", fontsize="medium")
    axes.grid(visible=True, color="#808080", alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _end(scores: np.ndarray) -> float:
    """Returns the last of the `scores` of a curve that is not NaN. Returns 0 if all are NaN."""
    finite = scores[~np.isnan(scores)]
    return float(finite[-1]) if len(finite) else 0.0


def label_places(ends: Sequence[float], share: float = LABEL_SHARE) -> list[float]:
    """Returns the height of the label of each line, from 0 to 1. A label stands at the end of its line. Labels that
    would be closer than `share` are moved apart.

    `ends` are the heights of the ends of the lines. Heights and `share` are fractions of the height of the axis.
    """
    order = sorted(range(len(ends)), key=lambda number: (ends[number], -number))
    places, least = dict.fromkeys(order, 0.0), 0.0
    for number in order:
        places[number] = max(ends[number], least)
        least = places[number] + share
    most = 1.0
    for number in reversed(order):
        places[number] = min(places[number], most)
        most = places[number] - share
    return [places[number] for number in range(len(ends))]

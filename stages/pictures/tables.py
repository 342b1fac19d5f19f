"""Draws a table of texts as a PNG with matplotlib, without pyplot and without a display. Torch-free."""

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kinegraph.cache_schemas.words import on_one_line
from kinegraph.stages.pictures.picture import styled

DPI, MARGIN, GAP, LINE = 200, 0.12, 0.22, 0.21  # in inches: the margin, the gap of columns, the height of a row


def table_png(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Returns the content of a PNG file that shows a table. `header` has the names of the columns, and `rows` has the
    cells of each row. The first column is aligned to the left, and all other columns to the right.

    Equal tables give equal bytes with one version of matplotlib.
    """
    with styled():
        figure = Figure(dpi=DPI, facecolor="white")
        canvas, inch = FigureCanvasAgg(figure), figure.dpi_scale_trans
        renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
        height, right = LINE * (len(rows) + 1) + 2 * MARGIN, MARGIN - GAP
        for number, column in enumerate(zip(header, *rows, strict=True)):
            texts = [
                figure.text(0, 0, on_one_line(cell), transform=inch, weight="normal" if row else "bold", va="center")
                for row, cell in enumerate(column)
            ]
            left = right + GAP
            right = left + max(text.get_window_extent(renderer).width for text in texts) / DPI
            for row, text in enumerate(texts):
                text.set(x=right if number else left, y=height - MARGIN - (row + 0.5) * LINE)
                text.set_horizontalalignment("right" if number else "left")
        for row, width in ((0, 1.0), (1, 0.6), (len(rows) + 1, 1.0)):
            place = height - MARGIN - row * LINE
            rule = Line2D([MARGIN, right], [place, place], color="black", linewidth=width, transform=inch)
            figure.add_artist(rule)
        figure.set_size_inches(right + MARGIN, height)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()

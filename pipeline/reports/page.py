"""Renders the sections of a report as one HTML page that loads no other file. Imports Jinja2, but no torch.

All texts are escaped, because names of videos and classes may contain HTML. Only the style, the script and the figures
of kinegraph itself are inserted as they are.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from kinegraph.cache_schemas.words import counted, on_one_line
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, ReportTable, Section, SectionPart
from kinegraph.stages.pictures.bars import number
from kinegraph.stages.pictures.lines import seed_mean
from kinegraph.stages.pictures.strips import Strip
from kinegraph.stages.pictures.theme import css

HERE = Path(__file__).parent
MOST_BYTES = 20_000_000  # the largest page
ALL_ROWS = 1 << 60
# (bytes of strips, rows of a table). If a page is larger than MOST_BYTES, it is rendered again with the next pair.
PAGE_LIMITS = ((17_000_000, ALL_ROWS), (0, ALL_ROWS), (0, 5_000), (0, 200), (0, 10))
MOST_STRIPS, MOST_NUMBERS = 64, 60
NARROW_PX = 340
FALLBACK = re.compile(
    r"((?:: |\")var\(--\w+), #[0-9a-f]{6}(?=\))"
)  # the colour after each CSS variable, which this page does not need


class Page:
    """Renders the HTML page of one report. A Page is used for one call of `render`.

    - `titles`: {key of a section: title of the section}, for example {"heads": "Heads"}.
    - `most_strip_bytes`: the largest size of all strips of frames together, in bytes. Further strips are left out.
    - `most_rows`: the largest number of rows of a table. Further rows are left out.

    After `render`, the attribute `left_out` is the number of strips that were left out.
    """

    def __init__(
        self, titles: Mapping[str, str], most_strip_bytes: int = PAGE_LIMITS[0][0], most_rows: int = ALL_ROWS
    ) -> None:
        self._titles, self._most_strip_bytes, self._most_rows = titles, most_strip_bytes, most_rows
        self._strip_bytes = self._num_strips = self.left_out = self._num_tables = 0
        self._names: set[str] = set()
        self._labels: Counter[str] = Counter()
        self._environment = Environment(
            loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, finalize=_printable,
        )  # fmt: skip
        self._environment.filters["words"] = _with_code
        self._table = self._environment.get_template("table.html.j2")

    def render(
        self, title: str, facts: Sequence[tuple[str, str]], sections: Mapping[str, Section | Absent], version: str
    ) -> str:
        """Returns the page as HTML text.

        - `title`: the heading of the page.
        - `facts`: the rows (name, value) of the table below the heading.
        - `sections`: {key of a section: content of the section}.
        - `version`: the version of kinegraph.
        """
        entries = [self._entry(name, section) for name, section in sections.items()]
        if self.left_out:
            words = f"{counted(self.left_out, 'strip of frames', 'strips of frames')} left out: no page has more than"
            text = f"{words} {MOST_STRIPS} strips, or 20 MB. --figures DIR writes all of them."
            next(entry for entry in entries if entry["name"] == "attention")["parts"].append(
                {"kind": "paragraph", "text": text, "link": ""}
            )
        script = (HERE / "page.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        style = css() + "\n" + (HERE / "page.css").read_text(encoding="utf-8")
        return self._environment.get_template("page.html.j2").render(
            title=title, facts=facts, entries=entries, version=version, css=Markup(style), script=Markup(script),
            script_digest=digest, table=self._table_html,
        )  # fmt: skip

    def _table_html(self, part: Mapping[str, Any]) -> Markup:
        return Markup(self._table.render(part=part))

    def _entry(self, name: str, section: Section | Absent) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": name, "title": self._titles[name], "is_list": False, "parts": []}
        if isinstance(section, Absent):
            return entry | {"is_absent": True, "reason": section.reason}
        parts = [*self._parts(section.parts)]
        return entry | {"is_absent": False, "parts": parts, "is_list": name == "attention"}

    def _parts(self, parts: Sequence[SectionPart]) -> Iterator[dict[str, Any]]:
        """Yields one dictionary for the HTML template per part of a section. Figures that follow each other directly
        share one dictionary.
        """
        figures: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, ReportFigure):
                if (figure := self._figure(part)) is not None:
                    figures.append(figure)
                continue
            if figures:
                yield {"kind": "figures", "figures": figures}
                figures = []
            if isinstance(part, Paragraph):
                yield {
                    "kind": "paragraph",
                    "text": part.text,
                    "link": part.link,
                    "link_title": self._titles.get(part.link, ""),
                }
            else:
                yield self._of_table(part)
        if figures:
            yield {"kind": "figures", "figures": figures}

    def _own_label(self, label: str) -> str:
        """Returns a label for screen readers that no other part of the page has. If an earlier part has `label`, a
        number is added: "Disk, figure" -> "Disk, figure 2".
        """
        self._labels[label] += 1
        number_of = self._labels[label]
        return label if number_of == 1 else f"{label} {number_of}"

    def _of_table(self, table: ReportTable) -> dict[str, Any]:
        self._num_tables += 1
        left_out = len(table.rows) - self._most_rows
        cut = f"{counted(left_out, 'row')} left out: a page has at most 20 MB." if left_out > 0 else ""
        return {
            "kind": "table", "id": f"table-{self._num_tables}", "caption": table.caption,
            "label": self._own_label(f"{table.caption}, table"), "header": table.header,
            "rows": table.rows[: self._most_rows], "numeric": table.numeric, "sortable": table.sortable,
            "closed": table.closed, "filterable": table.filterable, "note": f"{table.note} {cut}".strip(),
            "count": counted(len(table.rows), "row"),
        }  # fmt: skip

    def _figure(self, figure: ReportFigure) -> dict[str, Any] | None:
        drawing = figure.drawing
        assert drawing.name not in self._names, drawing.name
        self._names.add(drawing.name)
        svg = FALLBACK.sub(r"\1", drawing.svg())
        if isinstance(drawing, Strip):
            if self._num_strips == MOST_STRIPS or self._strip_bytes + len(svg) > self._most_strip_bytes:
                self.left_out += 1
                return None
            self._num_strips, self._strip_bytes = self._num_strips + 1, self._strip_bytes + len(svg)
            size, table = "strip" if len(drawing.frames) > 1 else "narrow", None
        else:
            size = "wide" if drawing.get_size_inches()[0] * 96 > NARROW_PX else "narrow"
            table = data_table(drawing.title, drawing.data)
        return {
            "title": drawing.title, "label": self._own_label(f"{drawing.title}, figure"),
            "size": size, "scrolls": size != "narrow", "svg": Markup(svg),
            "description": drawing.description, "caption": figure.caption,
            "table": None if table is None else self._of_table(table),
        }  # fmt: skip


def data_table(title: str, data: Mapping[str, np.ndarray]) -> ReportTable | None:
    """Returns a table with the numbers of a figure. Returns None if no array of the figure fits into a table.

    `title` is the title of the figure. `data` is {name: array}, as in `Picture.data`. Each array with one axis becomes
    a column. An array [seeds, n] whose name begins with "y of " becomes a column of means over the seeds that have a
    finite value. `edges` [n + 1] become a column "from" with the first edge of each bin. Arrays with fewer values than
    the longest are left out.

    If there are more than 60 rows, the table has only every second, third, ... row, and a note says so.
    """
    columns = {
        name: values if values.ndim == 1 else seed_mean(values)
        for name, values in data.items() if values.ndim == 1 or name.startswith("y of ")
    }  # fmt: skip
    if not columns:
        return None
    length = max(len(values) for name, values in columns.items() if name != "edges")
    columns = {
        name: values[:length] for name, values in columns.items() if length <= len(values) <= length + (name == "edges")
    }
    step = -(-max(1, length) // MOST_NUMBERS)
    rows = [[_cell(values[at]) for values in columns.values()] for at in range(0, length, step)]
    note = f"Every {step}th row of {length:,}." if step > 1 else ""
    numeric = frozenset(at for at, values in enumerate(columns.values()) if values.dtype.kind in "iuf")
    header = ["from" if name == "edges" else name for name in columns]
    return ReportTable(caption=f"Numbers: {title}", header=header, rows=rows, numeric=numeric, note=note)


def _with_code(text: str) -> Markup:
    """Returns a sentence as HTML. A text between backticks, such as a command, becomes an element <code>."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(on_one_line(text)))))


def _cell(value: Any) -> str:
    return number(float(value)) if isinstance(value, int | float | np.number) else str(value)


def _printable(value: Any) -> Any:
    """Returns a text with escapes in place of its control characters. Returns any other value unchanged."""
    return on_one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value

"""Defines what a section of a report consists of: paragraphs, tables and figures. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kinegraph.stages.pictures.picture import Picture
    from kinegraph.stages.pictures.strips import Strip


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text in a section of a report. `link` is the key of another section, such as "heads", to which the
    page links from the paragraph. `link` is "" if there is no link.
    """

    text: str
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """A table in a section of a report.

    Raises ValueError if a row has more or fewer cells than `header`.
    """

    caption: str  # the title above the table
    header: Sequence[str]  # the names of the columns
    rows: Sequence[Sequence[str]]  # for each row, the texts of its cells
    numeric: frozenset[int] = frozenset()  # the numbers, from 0, of the columns that are aligned to the right
    sortable: bool = False  # if true, a click on the name of a column sorts the rows
    filterable: bool = False  # if true, the page has a text field that hides the rows without the typed text
    closed: bool = False  # if true, the table is hidden until the reader clicks on its title
    note: str = ""  # a text below the table, or ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.caption}: {len(self.header)} heads of columns, and a row has {len(row)} cells")


@dataclass(frozen=True)
class ReportFigure:
    """A figure in a section of a report. `drawing` is the figure. `caption` says which values the figure shows, and how
    many clips the values come from.
    """

    drawing: "Picture | Strip"
    caption: str


SectionPart = Paragraph | ReportTable | ReportFigure


@dataclass(frozen=True)
class Section:
    """One section of a report. `parts` are its paragraphs, tables and figures, from top to bottom."""

    parts: Sequence[SectionPart]


@dataclass(frozen=True)
class Absent:
    """Takes the place of a Section that has nothing to show. `reason` is a sentence that says why, and what to do."""

    reason: str

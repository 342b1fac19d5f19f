"""The parts of a report. A section is made of words, tables and figures. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kinegraph.stages.pictures.picture import Picture
    from kinegraph.stages.pictures.strips import Strip


@dataclass(frozen=True)
class Paragraph:
    """A paragraph. `link` is the name of a section that the paragraph leads to, or ""."""

    text: str
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """A table with the title `caption`. `header` has the names of the columns, and `rows` their cells.

    Columns whose numbers are in `numeric` are flush right. With `sortable`, a click on the head of a column sorts the
    rows. With `filterable`, a field above the table chooses rows by a text. With `closed`, the table is shown on a
    click. `note` is a line below the table.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    sortable: bool = False
    filterable: bool = False
    closed: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.caption}: {len(self.header)} heads of columns, and a row has {len(row)} cells")


@dataclass(frozen=True)
class ReportFigure:
    """A figure with a caption. The caption says what the figure is drawn from, and how many clips were read."""

    drawing: "Picture | Strip"
    caption: str


SectionPart = Paragraph | ReportTable | ReportFigure


@dataclass(frozen=True)
class Section:
    """The content of a section of the report."""

    parts: Sequence[SectionPart]


@dataclass(frozen=True)
class Absent:
    """Stands for a section that has nothing to show. `reason` says why, and what to do."""

    reason: str

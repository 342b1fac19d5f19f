"""Writes the report of a cache, of trained runs, or of both: `kinegraph report`. Imports torch only to run a trained
head.

`SECTIONS` lists the key, the title and the function of each section. The function returns a Section, or an Absent with
the reason why there is nothing to show. So no section is left out silently.
"""

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import MANIFEST, Cache
from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.data_set_documents import ATTRIBUTES
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.words import counted, few_of, size
from kinegraph.pipeline.caches.failures import failed_clips
from kinegraph.pipeline.reports import cache_sections, head_sections, run_sections
from kinegraph.pipeline.reports.attention import attention
from kinegraph.pipeline.reports.comparison import comparison
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.outputs import FAILURE_COLUMNS, require_own
from kinegraph.pipeline.reports.page import MOST_BYTES, PAGE_LIMITS, Page
from kinegraph.pipeline.reports.runs import Runs, unfinished_sentence
from kinegraph.pipeline.reports.section import Absent, ReportFigure, Section, SectionPart
from kinegraph.pipeline.training.breakdown import OF_CACHE, Attributes, read_attributes
from kinegraph.pipeline.training.results import RESULTS_FILE, RunResults, find_results, unfinished_runs
from kinegraph.stages.errors import UsageError
from kinegraph.stages.pictures.strips import Strip
from kinegraph.stages.remote.urls import is_url

DECODE_SECONDS = 60.0  # limit for the frames of a report
FIGURE_FORMS = ("pdf", "svg", "png")
Maker = Callable[[Contents], Section | Absent]
log = logging.getLogger("kinegraph")

SECTIONS: tuple[tuple[str, str, Maker], ...] = (
    ("attention", "Attention", attention),
    ("comparison", "Comparison", comparison),
    ("provenance", "Provenance", cache_sections.provenance),
    ("coverage", "Coverage", cache_sections.coverage),
    ("failures", "Failures", cache_sections.failures),
    ("disk-and-time", "Disk and time", cache_sections.disk_and_time),
    ("features", "Features", cache_sections.features),
    ("proposals", "Proposals", cache_sections.proposals),
    ("clips", "Clips", cache_sections.clips),
    ("neighbours", "Nearest regions", cache_sections.neighbours),
    ("scene-graphs", "Scene graphs", cache_sections.scene_graphs),
    ("embeddings", "Embeddings", head_sections.embeddings),
    ("heads", "Heads", run_sections.heads),
    ("learning", "Learning", run_sections.learning),
    ("classes", "Classes", run_sections.classes),
    ("confusion", "Confusion", run_sections.confusion),
    ("mistakes", "Mistakes", run_sections.mistakes),
    ("calibration", "Calibration", run_sections.calibration),
    ("class-maps", "Class activation maps", head_sections.class_maps),
    ("graphs", "Graphs", head_sections.graphs),
)


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A report that was written to the file `path`."""

    path: Path
    num_bytes: int  # the size of the file
    absent: Mapping[str, str]  # {title of a section without content: reason}
    num_figures: int  # the number of figures of the report
    left_out: int  # the number of strips of frames for which the page had no room
    unfinished: str  # a sentence that names the runs that are left out because they are not finished, or ""


def write_report(
    places: Sequence[str],
    out: Path,
    *,
    videos: Path | None = None,
    figures: Path | None = None,
    form: str = "pdf",
    failures: Path | None = None,
    against: str | None = None,
    attributes: str | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> WrittenReport:
    """Writes a report as one HTML file `out` and returns a WrittenReport. An existing report is replaced. Equal caches,
    runs and videos give equal bytes.

    - `places`: at most one cache, and any number of folders with trained runs.
    - `videos`: a folder in which the videos are looked for first.
    - `figures`: a folder for a file of each figure, in the format `form`.
    - `failures`: a csv file for all failures.
    - `against`: another cache, or a folder of other runs, to compare with.
    - `attributes`: a csv with attributes of the classes. The default is the attributes of the cache, if it has any.

    Raises UsageError for places that cannot be used, and CacheError for a damaged cache.
    """
    require_own(out, figures, failures)
    contents, title = _opened(places, videos)
    if against is not None:
        contents = replace(contents, against=_opened([against], None)[0], against_name=against)
    contents = replace(contents, attributes=_attributes(contents, attributes))
    sections: dict[str, Section | Absent] = {}
    for done, (name, section_title, make) in enumerate(SECTIONS):
        stopping.check()
        on_progress("sections", done, len(SECTIONS))
        sections[name] = make(contents)
        log.debug("section %s is made", section_title)
    sections = _named_apart(sections)
    facts = cache_sections.cache_facts(contents.look) if contents.look else _facts_of_runs(contents)
    html, page = rendered(title, facts, sections)
    if figures is not None:
        _write_figures(figures, form, sections)
    if failures is not None:
        _write_failures(failures, contents)
    write_whole(out, [html])
    on_progress("sections", len(SECTIONS), len(SECTIONS))
    titles = {name: section_title for name, section_title, _ in SECTIONS}
    return WrittenReport(
        path=out,
        num_bytes=len(html),
        absent={titles[name]: section.reason for name, section in sections.items() if isinstance(section, Absent)},
        num_figures=sum(1 for _ in _drawings(sections)),
        left_out=page.left_out,
        unfinished=unfinished_sentence(contents.runs.unfinished) if contents.runs and contents.runs.unfinished else "",
    )


def rendered(
    title: str, facts: Sequence[tuple[str, str]], sections: Mapping[str, Section | Absent]
) -> tuple[bytes, Page]:
    """Returns (page as UTF-8, the Page that rendered it). The page has at most 20 MB. If it would be larger, strips of
    frames are left out first, and then rows of tables. The page says what is left out. Raises UsageError if the page is
    still too large.
    """
    for most_strip_bytes, most_rows in PAGE_LIMITS:
        page = Page({name: section_title for name, section_title, _ in SECTIONS}, most_strip_bytes, most_rows)
        html = page.render(title, facts, sections, _version()).encode()
        if len(html) <= MOST_BYTES:
            return html, page
    raise UsageError(f"report: the page of {title} has {size(len(html))}, and at most {size(MOST_BYTES)} are allowed.")


def _opened(places: Sequence[str], videos: Path | None) -> tuple[Contents, str]:
    """Opens the cache and the runs in `places`. Returns (Contents, title of the report). `videos` is a folder in which
    the videos are looked for first, or None.
    """
    caches = [place for place in places if is_url(place) or open_storage(place).exists(MANIFEST)]
    if len(caches) > 1:
        raise UsageError(
            f"report: {', '.join(caches)} are {len(caches)} caches; a report is about one. Make one for each."
        )
    listed = [found for place in places if place not in caches for found in _runs_in(place)]
    runs = [*{folder.resolve(): (folder, run) for folder, run in listed}.values()]  # places may be nested
    why = Contents.why_no_cache
    if not caches and runs:
        caches, why = _cache_of_runs(runs)
    look = Look(Cache(caches[0]), videos, decode_seconds=DECODE_SECONDS) if caches else None
    num_classes = len(look.numbers.class_names) if look else None
    title = places[0] if len(places) == 1 else f"{places[0]} and {counted(len(places) - 1, 'other place')}"
    unfinished = sorted({folder for place in places if place not in caches for folder in unfinished_runs(Path(place))})
    opened = Runs(runs, num_classes, unfinished) if runs else None
    return Contents(look=look, runs=opened, why_no_cache=why), title


def _attributes(contents: Contents, table: str | None) -> Attributes | None:
    """Returns {class: {attribute: value}} from the csv `table`. If `table` is None, returns the attributes that the
    cache has, or None if it has none. Raises UsageError for a csv that cannot be used.
    """
    look, runs = contents.look, contents.runs
    root = "" if look is None else look.cache.root
    if table is None:
        if look is None or not look.cache.storage.exists(ATTRIBUTES):
            return None
        table = OF_CACHE
    elif table == OF_CACHE and look is None:
        raise UsageError(f"--attributes {OF_CACHE}: {contents.why_no_cache}")
    names = look.numbers.class_names if look is not None else runs.best()[1].class_names if runs is not None else ()
    return read_attributes(table, names, root)


def _runs_in(place: str) -> list[tuple[Path, RunResults]]:
    folder = Path(place)
    if not folder.exists():
        raise UsageError(
            f"report: {place}: no such folder, looked from {Path.cwd()}. Name the folder of a cache, of a run or of "
            "runs."
        )
    if not folder.is_dir() or not any(folder.rglob(RESULTS_FILE)):
        unfinished = unfinished_runs(folder) if folder.is_dir() else []
        begun = f" {unfinished_sentence(unfinished)}" if unfinished else ""
        raise UsageError(
            f"report: {place} is no cache (it has no {MANIFEST}), and no folder of trained runs (there is no "
            f"{RESULTS_FILE} in it or below).{begun} Name the folder of a cache, of a run or of runs."
        )
    return find_results(folder)


def _cache_of_runs(runs: Sequence[tuple[Path, RunResults]]) -> tuple[list[str], str]:
    """Returns ([cache], "") if all `runs` were trained on one cache and it can be opened. Otherwise returns ([],
    reason).
    """
    named = [*dict.fromkeys(run.cache for _, run in runs)]
    if len(named) > 1:
        return [], f"The runs are of {len(named)} caches ({few_of(named, 3)}). Name one of them beside the runs."
    try:
        Cache(named[0])
    except CacheError as error:
        return [], f"The cache of the runs cannot be opened. {error}"
    return named, ""


def _facts_of_runs(contents: Contents) -> list[tuple[str, str]]:
    assert contents.runs is not None
    return [("runs", f"{len(contents.runs.runs):,}"), ("heads", f"{len(contents.runs.groups):,}")]


def _named_apart(sections: Mapping[str, Section | Absent]) -> dict[str, Section | Absent]:
    """Returns the sections with a different name for each figure. A second figure of the name `a_b` is renamed to
    `a_b_2`. Heads such as `a-b` and `a_b` lead to such equal names.
    """
    names: set[str] = set()

    def apart(part: SectionPart) -> SectionPart:
        if not isinstance(part, ReportFigure):
            return part
        drawing = part.drawing
        others = (f"{drawing.name}_{number}" for number in count(2))
        name = next(name for name in chain([drawing.name], others) if name not in names)
        names.add(name)
        if isinstance(drawing, Strip):
            return replace(part, drawing=replace(drawing, name=name))
        drawing.name = name
        return part

    return {
        key: Section([*map(apart, section.parts)]) if isinstance(section, Section) else section
        for key, section in sections.items()
    }


def _drawings(sections: Mapping[str, Section | Absent]) -> Iterator[ReportFigure]:
    for section in sections.values():
        if isinstance(section, Section):
            yield from (part for part in section.parts if isinstance(part, ReportFigure))


def _write_figures(folder: Path, form: str, sections: Mapping[str, Section | Absent]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for figure in _drawings(sections):
        drawing = figure.drawing
        if isinstance(drawing, Strip):
            write_whole(folder / f"{drawing.name}.svg", [drawing.svg().encode()])
            continue
        content = io.BytesIO()
        drawing.savefig(content, format=form)
        write_whole(folder / f"{drawing.name}.{form}", [content.getvalue()])


def _write_failures(path: Path, contents: Contents) -> None:
    failed = failed_clips(contents.look.cache) if contents.look else ()
    rows = ([it.video, it.clip, ";".join(it.stages), it.reason, it.words] for it in failed)
    write_whole(path, [csv_text([FAILURE_COLUMNS, *rows]).encode()])


def _version() -> str:
    try:
        return version("kinegraph")
    except PackageNotFoundError:
        return "of a checkout"

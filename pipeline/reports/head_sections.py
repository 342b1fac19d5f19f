"""Makes the sections of a report for which trained heads compute something on clips of the cache, on the CPU. Each
function returns a Section, or an Absent with the reason why there is nothing to show.

Torch is imported only if a run has weights.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.cache_sections import CLIPS_OF_CLASS, figure, rows_to_show
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.embedding import Method
from kinegraph.pipeline.reports.frames import FramesMissingError
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.run_sections import NO_RUNS
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, Section, SectionPart
from kinegraph.pipeline.training.results import ResultsError
from kinegraph.stages.errors import UsageError

WEIGHTS = "*.safetensors"  # weights of a run. Torch is not imported if there are none
MOST_GRAPHS, WRONG_CLIPS, RIGHT_CLIPS = 3, 4, 2
WITH_GRAPHS = {"strg", "trg", "atr", "rstg", "st_sgn"}
MAPS_RANK = 4  # number of axes of a map of one clip, T C H W
METHODS: tuple[Method, ...] = ("pca", "tsne")
RELATIONS_CAPTION = "Mean over at most 64 usable clips, evenly drawn; first seed."
CLIPS_CAPTION = "At most 200 usable clips of the 20 most frequent classes, evenly drawn; first labels."
MAPS_CAPTION = "The colours of a line go from its smallest value (none) to its largest (yellow)."


def embeddings(contents: Contents) -> Section | Absent:
    """Returns the section "Embeddings", whose figures draw clips as points in a plane. The points of one figure are
    computed from vectors of the cache. The points of another figure are computed from the vectors that the best head
    classifies. Returns an Absent with the reason if there is nothing to show.
    """
    look, runs = contents.look, contents.runs
    if look is None:
        return Absent(contents.why_no_cache)
    arrays = [name for name in look.samples.vector_arrays() if len(look.samples.specs[name].shape) < MAPS_RANK]
    if not arrays:
        return Absent("The cache has no pooled features or regions yet.")
    parts = [figure(CLIPS_CAPTION, partial(look.embedding, arrays[0], method)) for method in METHODS]
    for name, folder in islice(_with_weights(runs) if runs is not None else (), 1):
        try:
            parts.append(ReportFigure(look.head(folder, name).embedding(method="tsne"), CLIPS_CAPTION))
        except (NothingToShowError, UsageError, CacheError) as error:
            parts.append(Paragraph(f"{name}: {error}"))
    return Section(parts)


def class_maps(contents: Contents) -> Section | Absent:
    """Returns the section "Class activation maps". For up to 6 clips, the maps show where in the frames a head sees the
    predicted class. The head is the one with the best score among those that have weights and such maps. Returns an
    Absent with the reason if there is no such head.
    """
    runs, look = contents.runs, contents.look
    if runs is None or look is None:
        return Absent(NO_RUNS if runs is None else contents.why_no_cache)
    if not any(name.startswith("features/") and len(it.shape) == MAPS_RANK for name, it in look.samples.specs.items()):
        return Absent("The cache has no maps. A backbone with `store: [maps]` makes them.")
    refused: list[str] = []
    for name, folder in _with_weights(runs):
        try:
            return Section([*_class_maps_of(look, runs, name, folder)])
        except (NothingToShowError, UsageError, CacheError) as error:
            refused.append(str(error))
    return Absent(refused[0] if refused else "No run here has a score and weights.")


def _with_weights(runs: Runs) -> Iterator[tuple[str, Path]]:
    """Yields (name of the head, folder of its first seed) for each head whose first seed has weights. The head with the
    best score comes first.
    """
    try:
        ranked = runs.ranked()
    except NothingToShowError:
        return
    for name in ranked:
        folder = runs.groups[name][0][0]
        if any(folder.glob(WEIGHTS)):
            yield name, folder


def _class_maps_of(look: Look, runs: Runs, name: str, folder: Path) -> Iterator[SectionPart]:
    head = look.head(folder, name)
    try:
        _, kept = runs.predicted(name)
        wrong = [it.video_id for it in kept.mistakes(WRONG_CLIPS)]
        videos = [*wrong, *kept.right(RIGHT_CLIPS)]
        rows_of = look.numbers.first_rows(videos)
        rows = [rows_of[video] for video in videos if video in rows_of]
        text = f"{counted(len(wrong), 'confident mistake')} of {name}, then right predictions."
    except ResultsError as error:
        rows = [row for row in rows_to_show(look) if look.numbers.usable[row]][:RIGHT_CLIPS]
        text = f"Clips of the cache. Mistakes cannot be chosen: {error}"
    yield Paragraph(f"Where {name} sees a class. {text}")
    missing = ""
    for row in rows:
        try:
            for strip in head.class_maps([row]):
                yield ReportFigure(strip, MAPS_CAPTION)
        except FramesMissingError as error:
            missing = str(error)
    if missing:
        yield Paragraph(missing)


def graphs(contents: Contents) -> Section | Absent:
    """Returns the section "Graphs", with the graphs that up to 3 heads compute for two clips. Runs the heads, so torch
    is imported. Returns an Absent with the reason if there is nothing to show.
    """
    runs, look = contents.runs, contents.look
    if runs is None or look is None:
        return Absent(NO_RUNS if runs is None else contents.why_no_cache)
    usable = [row for row in rows_to_show(look) if look.numbers.usable[row]]
    rows = usable[: 2 * CLIPS_OF_CLASS : CLIPS_OF_CLASS]
    parts: list[SectionPart] = []
    heads: set[str] = set()  # heads with their options; other runs of the same head would have similar graphs
    for name, group in runs.groups.items() if rows else ():
        folder, results = group[0]
        head = f"{results.recipe.head} {results.recipe.options}"
        if results.recipe.head in WITH_GRAPHS and any(folder.glob(WEIGHTS)) and head not in heads:
            heads.add(head)
            parts += _graphs_of(look, name, folder, rows) if len(heads) <= MOST_GRAPHS else []
    if not parts:
        return Absent("No run here has weights of a head with a graph (strg, trg, atr, rstg, st_sgn).")
    return Section(parts)


def _graphs_of(look: Look, name: str, folder: Path, rows: list[int]) -> list[SectionPart]:
    """Returns the figures of all graphs of one head for the clips `rows`. If a graph cannot be drawn, a paragraph says
    why.
    """
    drawn: list[SectionPart] = []
    try:
        head = look.head(folder, name)
        if "frames" in head.head.graph_links.values():
            drawn += [ReportFigure(picture, RELATIONS_CAPTION) for picture in head.relations()]
        else:
            drawn += [ReportFigure(picture, f"{name}, first seed.") for picture in head.graphs(rows)]
        if head.head.name == "atr" and head.head.options.get("locator") != "none":
            drawn += [ReportFigure(strip, MAPS_CAPTION) for strip in head.actionness(rows)]
        if head.head.name == "rstg" and head.head.options.get("schedule") != "time_only":
            drawn += [ReportFigure(strip, f"{name}, first seed.") for strip in head.messages(rows)]
    except (FramesMissingError, NothingToShowError, UsageError, CacheError) as error:
        drawn.append(Paragraph(f"{name}: {error}"))
    has_figures = any(isinstance(part, ReportFigure) for part in drawn)
    return [*([Paragraph(f"Graphs of {name}.")] if has_figures else []), *drawn]

"""Makes the pages of `kinegraph browse` that list something: the clips, the failures and the runs. Torch-free."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from kinegraph.cache_schemas.words import on_one_line
from kinegraph.pipeline.browsing.catalogue import (
    FAILED,
    NOT_RUN,
    REASONS,
    STATUSES,
    VERDICTS,
    ClipFilter,
    ShownClips,
)
from kinegraph.pipeline.browsing.links import address, filter_of, query_of, whole_number
from kinegraph.pipeline.browsing.runs import scored_of
from kinegraph.pipeline.browsing.scored import ScoredVideos
from kinegraph.pipeline.browsing.site import Site, rendered

CLIPS_PER_PAGE, FAILURES_PER_PAGE = 48, 100
MAX_CHOICES = 200  # with more classes, the form has a text field in place of a list


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One page of a long list."""

    rows: list[int]  # the row numbers on this page
    number: int  # the number of this page, from 1
    count: int  # the number of pages
    total: int  # the number of rows on all pages

    @classmethod
    def of(cls, rows: np.ndarray, number: int, size: int) -> "Sheet":
        count = max(1, -(-len(rows) // size))
        number = min(max(1, number), count)
        chosen = rows[(number - 1) * size : number * size].tolist()
        return cls(rows=chosen, number=number, count=count, total=len(rows))


def grid(site: Site, request: Request) -> Response:
    """Returns the page with pictures of the clips that the filter in the address selects."""
    clips, query = site.catalogue.now(), request.query_params
    wanted, run = filter_of(query), site.run(query)
    scored = scored_of(run, clips)
    rows = clips.matching(wanted, scored)
    sheet = Sheet.of(rows, whole_number(query, "page", 1, least=1), CLIPS_PER_PAGE)
    kept = query_of(wanted, run=query.get("run", ""))
    cards = [_card(site, clips, scored, row, kept | {"page": str(sheet.number)}) for row in sheet.rows]
    return rendered(
        "grid.html.j2", request, clips, cards=cards, sheet=sheet, kept=kept, choices=_choices(clips, wanted, scored),
        wanted=wanted, runs=site.runs, run=run, missing=sum(not card["picture"] for card in cards),
        root_of_videos=site.frames.videos.root,
    )  # fmt: skip


def _card(site: Site, clips: ShownClips, scored: ScoredVideos, row: int, kept: dict[str, str]) -> dict[str, Any]:
    predicted = int(scored.predicted(clips.video_ids)[row]) if len(scored) else -1
    labels = clips.labels(row)
    has_file = site.frames.videos.exists(clips.video_names[row].as_py(), clips.paths[row].as_py())
    return {
        "clip_id": clips.clip_id(row),
        "href": address(f"/clips/{row}", kept),
        "picture": f"/clips/{row}/middle.webp" if has_file else "",
        "size": clips.frame_sizes[row].tolist(),
        "split": clips.split(row),
        "labels": [clips.classes[label] for label in labels],
        "status": STATUSES[clips.status[row]],
        "reason": REASONS[clips.reason[row]] if clips.reason[row] >= 0 else "",
        "predicted": clips.classes[predicted] if predicted >= 0 else "",
        "is_right": predicted in labels,
    }


def _choices(clips: ShownClips, wanted: ClipFilter, scored: ScoredVideos) -> list[dict[str, Any]]:
    """Returns the fields of the filter form, each as a dictionary with `name`, `title`, the present `value`, and
    `options`. Options are pairs (value, text). A field without options takes any text.
    """

    def field(name: str, title: str, value: str, options: list[tuple[str, str]]) -> dict[str, Any]:
        present = [("", "all"), *options] if options else []
        if options and value and value not in dict(options):
            present.append((value, value))
        return {"name": name, "title": title, "value": value, "options": present}

    def counts(codes: np.ndarray, names: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
        numbers = np.bincount(codes[codes >= 0], minlength=len(names))
        shown = [*map(on_one_line, names)]
        return [(text, f"{text} ({number:,})") for text, number in zip(shown, numbers, strict=True) if number]

    few = [(text, text) for text in map(on_one_line, clips.classes)] if len(clips.classes) <= MAX_CHOICES else []
    found = [
        field("name", "Name contains", wanted.name, []),
        field("split", "Split", wanted.split, counts(clips.split_of, clips.splits)),
        field("class", "Class", wanted.label, few),
        field("status", "Status", wanted.status, counts(clips.status, STATUSES)),
        field("reason", "Reason", wanted.reason, counts(clips.reason, REASONS) or [("missing", "missing (0)")]),
    ]
    if len(scored):
        verdicts = counts(clips.verdicts(scored.predicted(clips.video_ids)), VERDICTS)
        found += [
            field("verdict", "Prediction", wanted.verdict, verdicts),
            field("predicted", "Predicted class", wanted.predicted, few),
        ]
    return found


def failures(site: Site, request: Request) -> Response:
    """Returns the page that lists the failed clips, with the reason and the message of their first failure. A table
    counts the failures of each stage by reason. The address has a filter and the number of the page.
    """
    clips, query = site.catalogue.now(), request.query_params
    wanted = replace(filter_of(query), status=STATUSES[FAILED])
    sheet = Sheet.of(clips.matching(wanted), whole_number(query, "page", 1, least=1), FAILURES_PER_PAGE)
    kept = query_of(wanted)
    lines = []
    for row in sheet.rows:
        (_, first), *_ = found = clips.failures(row)
        stages = ", ".join(key for key, failure in found if failure.reason == first.reason)
        href = address(f"/clips/{row}", kept)
        lines.append({"clip_id": clips.clip_id(row), "href": href, "reason": first.reason, "words": first.detail,
                      "stages": stages})  # fmt: skip
    table = [
        (key, stage.num_sealed, _codes(stage.status, NOT_RUN), len(stage.failures), len(stage.warnings),
         Counter[str](failure.reason for failure in stage.failures.values()))
        for key, stage in clips.stages.items()
    ]  # fmt: skip
    reasons = [reason for reason in REASONS if any(counter[reason] for *_, counter in table)]
    return rendered(
        "failures.html.j2", request, clips, lines=lines, sheet=sheet, kept=kept, table=table, reasons=reasons,
        wanted=wanted,
    )  # fmt: skip


def _codes(status: np.ndarray, code: int) -> int:
    return int(np.count_nonzero(status == code))


def runs(site: Site, request: Request) -> Response:
    """Returns the page that lists the runs with their scores."""
    clips = site.catalogue.now()
    lines = [
        {
            "name": run.results.name, "seed": run.results.seed, "folder": str(run.folder),
            "scores": [(split, metrics) for split, metrics in sorted(run.results.scores.items())],
            "epoch": run.results.best_epoch, "num_videos": len(run.scored), "problem": run.problem(clips),
            "wrong": address("/", {"run": str(number), "verdict": "wrong"}),
        }
        for number, run in enumerate(site.runs)
    ]  # fmt: skip
    return rendered("runs.html.j2", request, clips, lines=lines)

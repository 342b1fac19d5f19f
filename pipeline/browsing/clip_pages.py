"""Makes the pages of one clip: its frames with boxes, its scene graphs, its film, and the regions similar to a box.
Torch-free.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.words import counted, on_one_line
from kinegraph.pipeline.browsing.catalogue import STATUSES, ShownClips
from kinegraph.pipeline.browsing.clip_facts import BoxesOfFrame, ClipFacts, facts_of, row_of, source_of
from kinegraph.pipeline.browsing.frames import MAX_FILM_SECONDS, strip_places
from kinegraph.pipeline.browsing.links import address, decimal, filter_of, query_of, whole_number
from kinegraph.pipeline.browsing.neighbours import (
    COUNT,
    NO_REGIONS,
    Neighbour,
    Region,
    RegionIndex,
    box_frames_of,
    region_arrays_of,
    unit,
    usable_rows,
)
from kinegraph.pipeline.browsing.runs import scored_of
from kinegraph.pipeline.browsing.site import Site, rendered
from kinegraph.pipeline.caches.videos_at_hand import change_of
from kinegraph.stages.decode.errors import DecodeError

BOXES, BEST_CLASSES, NEIGHBOURS, NEIGHBOURS_HERE = 10, 5, 24, 6
TRACK_COLOURS = 8
PICTURE_SECONDS = 60  # how long a browser may keep a frame
LETTERS_PER_LINE = 36  # of a message that is shown in place of a frame
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240" width="320" height="240">'
    '<rect width="320" height="240" fill="#595959"/>'
    '<text fill="#ffffff" font-family="sans-serif" font-size="15">{}</text></svg>'
)


def _row(site: Site, request: Request) -> tuple[ShownClips, int, ClipRow]:
    """Returns (clips, row number, row) of the clip that the address of the request names. Raises HTTPException (404) if
    the cache has no such row.
    """
    clips, number = site.catalogue.now(), int(request.path_params["row"])
    if number >= len(clips):
        raise HTTPException(404, f"There is no clip {number:,}: the cache has {len(clips):,}, counted from 0.")
    return clips, number, row_of(clips.cache, number)


def clip(site: Site, request: Request) -> Response:
    """Returns the page of one clip, with its frames, boxes, labels, predictions and failures."""
    clips, number, row = _row(site, request)
    site.neighbours.start(clips)
    query = request.query_params
    wanted, run = filter_of(query), site.run(query)
    scored = scored_of(run, clips)
    kept = query_of(wanted, run=query.get("run", ""), page=query.get("page", ""))
    matching = clips.matching(wanted, scored)
    place = int(np.searchsorted(matching, number))
    is_listed = place < len(matching) and matching[place] == number
    around = [matching[place - 1]] if place else [], [*matching[place + is_listed : place + is_listed + 1]]
    facts, problem, is_changed = _facts(site, clips, number, row)
    least, most = decimal(query, "least"), whole_number(query, "boxes", BOXES)
    scores = scored.of_video(row.video_id)
    return rendered(
        "clip.html.j2", request, clips, number=number, row=row, facts=facts, problem=problem, kept=kept,
        back=address("/", kept), before=_link(around[0], kept), after=_link(around[1], kept),
        position=(place + 1, len(matching)) if is_listed else None,
        labels=[clips.classes[label] for label in clips.labels(number)],
        overall=STATUSES[clips.status[number]], failures=clips.failures(number), warnings=clips.warnings(number),
        by_stage=[(key, STATUSES[stage.status[number]]) for key, stage in clips.stages.items()],
        frames=_frames(number, row, facts, None if is_changed else most, least, kept),
        is_playable=not problem and row.is_probed, boxes=most, least="" if least is None else least,
        run=run, best=_best(scores, clips, run), graphs=[_graph(graph) for graph in facts.graphs],
        num_tracks=facts.num_tracks, has_classes=any(frame.classes for frame in facts.frame_boxes),
    )  # fmt: skip


def _link(rows: list[int], kept: Mapping[str, str]) -> str:
    return address(f"/clips/{rows[0]}", kept) if rows else ""


def _facts(site: Site, clips: ShownClips, number: int, row: ClipRow) -> tuple[ClipFacts, str, bool]:
    """Returns (facts, problem, has_changed) of a clip. `problem` says why the frames cannot be shown, or is "".
    `has_changed` is true if the video file has changed since the extraction.
    """
    facts = facts_of(clips, number, row)
    if not row.is_probed:
        return facts, "The cache has no times for this clip, so its frames cannot be found.", False
    try:
        changed = change_of(site.frames.path(row), facts.source)
    except DecodeError as error:
        return facts, str(error), False
    facts.problems += [f"Boxes are not drawn: {changed}."] if changed else []
    return facts, "", bool(changed)


def _frames(
    number: int, row: ClipRow, facts: ClipFacts, most: int | None, least: float | None, kept: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Returns a dictionary for each frame of the clip that the page shows. At most `most` boxes are drawn on a frame,
    with scores of at least `least`. No box is drawn if `most` is None.
    """
    boxes_at = {frame.place: frame for frame in facts.frame_boxes}
    frames = []
    for place in strip_places(len(row.target_times), facts.every):
        seconds = facts.frame_times[place] if place < len(facts.frame_times) else row.target_times[place]
        found = boxes_at.get(place)
        boxes = [] if found is None or most is None else _boxes(number, found, most, least, kept)
        picture = address(f"/clips/{number}/frames/{place}.webp", {"every": str(facts.every)})
        frames.append({"place": place, "seconds": seconds, "boxes": boxes, "picture": picture,
                       "size": (row.frame_width, row.frame_height)})  # fmt: skip
    return frames


def _boxes(
    number: int, frame: BoxesOfFrame, most: int, least: float | None, kept: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Returns a dictionary for each box to draw on a frame. The box with the best score is the last one, so that it
    lies on top.
    """
    drawn = []
    for box in reversed(range(min(most, len(frame.boxes)))):
        score = float(frame.scores[box])
        if least is None or score >= least:
            track = None if frame.tracks is None else int(frame.tracks[box])
            of_class = "" if frame.classes is None else frame.classes[box]
            words = " ".join([*filter(None, [of_class]), *([] if track is None else [str(track)])])
            drawn.append({
                **_rectangle(frame.boxes[box]), "number": box, "score": score, "track": track,
                "class": of_class, "words": words,
                "colour": None if track is None else track % TRACK_COLOURS,
                "href": address(f"/clips/{number}/frames/{frame.index}/boxes/{box}", kept),
            })  # fmt: skip
    return drawn


def _rectangle(box: np.ndarray) -> dict[str, float]:
    x1, y1, x2, y2 = (round(float(edge), 2) for edge in box)
    return {"x": x1, "y": y1, "width": round(max(0.0, x2 - x1), 2), "height": round(max(0.0, y2 - y1), 2)}


def _best(scores: np.ndarray | None, clips: ShownClips, run: Any) -> list[tuple[str, float]]:
    if scores is None:
        return []
    order = np.argsort(-scores, kind="stable")[:BEST_CLASSES]
    return [(clips.classes[index], float(scores[index])) for index in order.tolist()]


def _graph(graph: Any) -> dict[str, Any]:
    """Returns a dictionary with what the page draws of a scene graph: its time, its objects from top to bottom, and the
    height of the drawing.
    """
    return {"seconds": graph.seconds, "objects": [*enumerate(graph.objects)], "height": 24 * max(2, len(graph.objects))}


def picture(site: Site, request: Request) -> Response:
    """Returns one frame of a clip as a WebP picture."""
    _, number, row = _row(site, request)
    place = int(request.path_params["frame"])
    every = whole_number(request.query_params, "every", 0)
    places = strip_places(len(row.target_times), every) if every else []
    if place >= len(row.target_times):
        raise HTTPException(404, f"Clip {number:,} has {counted(len(row.target_times), 'frame')}, from 0 on.")
    return _picture(lambda: site.frames.picture(number, row, place, places if place in places else [place]))


def middle(site: Site, request: Request) -> Response:
    """Returns the frame in the middle of a clip as a WebP picture."""
    _, number, row = _row(site, request)
    return _picture(lambda: site.frames.middle(number, row))


def _picture(make: Any) -> Response:
    """Returns the WebP picture that `make` returns. If the frame cannot be decoded, returns an SVG picture with the
    message of the decoder.
    """
    headers = {"Cache-Control": f"private, max-age={PICTURE_SECONDS}"}
    try:
        return Response(make(), media_type="image/webp", headers=headers)
    except DecodeError as error:
        lines = wrap(on_one_line(str(error)), LETTERS_PER_LINE)[:12]
        words = "".join(f'<tspan x="12" y="{28 + 18 * line}">{escape(text)}</tspan>' for line, text in enumerate(lines))
        return Response(SVG.format(words), media_type="image/svg+xml", headers={"Cache-Control": "no-store"})


def play(site: Site, request: Request) -> Response:
    """Returns the page that plays a clip. Makes the film before it returns, so that the page can show an error."""
    clips, number, row = _row(site, request)
    kept = query_of(filter_of(request.query_params), run=request.query_params.get("run", ""))
    problem, media_type = "", ""
    try:
        media_type = f"video/{site.frames.film(number, row).suffix[1:]}"
    except DecodeError as error:
        problem = str(error)
    is_cut = row.end_seconds - row.start_seconds > MAX_FILM_SECONDS
    return rendered(
        "play.html.j2", request, clips, number=number, row=row, problem=problem, media_type=media_type,
        back=address(f"/clips/{number}", kept), cut=MAX_FILM_SECONDS if is_cut else None,
        has_changed=bool(_change(site, clips, number)),
    )  # fmt: skip


def film(site: Site, request: Request) -> Response:
    """Returns the film of a clip, or only the bytes of the film that the browser asks for. Raises HTTPException (404)
    if the film cannot be made.
    """
    _, number, row = _row(site, request)
    try:
        return FileResponse(site.frames.film(number, row))
    except DecodeError as error:
        raise HTTPException(404, str(error)) from error


def neighbours(site: Site, request: Request) -> Response:
    """Returns the page of the regions that are most similar to one region. The address names this region by clip, frame
    and box.
    """
    clips, number, row = _row(site, request)
    site.neighbours.start(clips)
    region = Region(number, int(request.path_params["frame"]), int(request.path_params["box"]))
    kept = query_of(filter_of(request.query_params), run=request.query_params.get("run", ""))
    problem, found, about = "", [Neighbour(region, 1.0)], ""
    here: list[Neighbour] = []
    elsewhere: list[Neighbour] = []
    try:
        counts, frames, vectors = _regions(clips, number)
        if region.frame >= len(counts) or region.box >= counts[region.frame]:
            raise LookupError(f"This clip has no box {region.box} in frame {region.frame}. Both are counted from 0.")
        if region.frame not in frames:
            text = ", ".join(map(str, dict.fromkeys(frames)))
            raise LookupError(f"Frame {region.frame} has boxes and no regions. Regions are of the frames {text}.")
        here = _within(counts, frames, vectors, region)
        index = site.neighbours.index()
        vector = vectors[frames.index(region.frame), region.box]
        elsewhere = index.nearest(vector, NEIGHBOURS, clips.rows_of_video(row.video_id))
        about = _about(index)
    except (LookupError, CacheError, ValueError, OSError) as error:
        problem, found = str(error), found if here else []
    shown = partial(_shown, clips, kept, lru_cache(partial(_change, site, clips)))
    return rendered(
        "neighbours.html.j2", request, clips, number=number, row=row, region=region, problem=problem, about=about,
        back=address(f"/clips/{number}", kept), asked=[*map(shown, found)],
        groups=[("In this clip", [*map(shown, here)]), ("In other videos", [*map(shown, elsewhere)])],
    )  # fmt: skip


def _about(index: RegionIndex) -> str:
    kept = f"{len(index.places):,}"
    if index.num_all <= len(index.places):
        return f"among {kept} regions"
    return f"among {kept} of about {index.num_all:,} regions, drawn evenly"


def _regions(clips: ShownClips, number: int) -> tuple[list[int], list[int], np.ndarray]:
    """Returns (counts, frames, regions) of the clip in row `number`.

    - counts: the number of boxes of each frame that has boxes.
    - frames: for each of the T time steps of the regions, its frame as an index into counts.
    - regions: [T, N, D], the D channels of N regions at each time step.

    Raises LookupError if the row has no regions. Raises an error of the store if the shard is damaged.
    """
    specs, cache = region_arrays_of(clips.cache), clips.cache
    if not specs:
        raise LookupError(NO_REGIONS)
    if number not in usable_rows(clips, specs[0]):
        raise LookupError(f"This clip has no regions in {specs[0].stage}: it failed, or it is not extracted yet.")
    shard, place = divmod(number, cache.shard_clips)
    count, values = (cache.store.open_shard(spec, shard).row(place) for spec in (cache.array(COUNT), specs[0]))
    return count.tolist(), box_frames_of(cache, specs[0]).tolist(), values


def _within(counts: list[int], frames: list[int], vectors: np.ndarray, region: Region) -> list[Neighbour]:
    """Returns the regions of the same clip that are most similar to `region`, best first. Each frame has at most one of
    them. `counts`, `frames` and `vectors` are the values that `_regions` returns.
    """
    units = unit(vectors)
    query, found = units[frames.index(region.frame), region.box], []
    for step, frame in enumerate(frames):
        if counts[frame] > 0 and frame != region.frame:
            similarity = units[step, : counts[frame]] @ query
            box = int(similarity.argmax())
            found.append(Neighbour(Region(region.row, frame, box), float(similarity[box])))
    return sorted(found, key=lambda one: -one.similarity)[:NEIGHBOURS_HERE]


def _change(site: Site, clips: ShownClips, number: int) -> str:
    """Returns a sentence if the video of the row `number` has changed since the extraction, else "". Also returns "" if
    the video file is missing, because the picture then says so.
    """
    row = row_of(clips.cache, number)
    try:
        return change_of(site.frames.path(row), source_of(clips, number, row))
    except DecodeError:
        return ""


def _shown(
    clips: ShownClips, kept: Mapping[str, str], change: Callable[[int], str], neighbour: Neighbour
) -> dict[str, Any]:
    """Returns a dictionary with what the page shows of one neighbour: picture, box, clip and similarity. If the box
    cannot be shown, `why` in the dictionary says why. `change` takes a row number and returns a sentence if the video
    of the row has changed, else "".
    """
    (row, index, box), cache = neighbour.region, clips.cache
    shard, place = divmod(row, cache.shard_clips)
    spec = cache.array("proposals/boxes")
    rectangle: dict[str, float] | None = None
    why = change(row)
    try:
        rectangle = None if why else _rectangle(cache.store.open_shard(spec, shard).row(place)[index, box])
    except (CacheError, ValueError, OSError) as error:
        why = f"the boxes cannot be read: {error}"
    return {
        "clip_id": clips.clip_id(row), "href": address(f"/clips/{row}", kept),
        "box": rectangle, "why": why,
        "labels": [clips.classes[label] for label in clips.labels(row)],
        "size": clips.frame_sizes[row].tolist(), "similarity": neighbour.similarity,
        "picture": f"/clips/{row}/frames/{index * (spec.frame_step or 1)}.webp",
        "again": address(f"/clips/{row}/frames/{index}/boxes/{box}", kept),
    }  # fmt: skip

"""Prints the output of `predict`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing.text import listed, note, note_listed, say_table

if TYPE_CHECKING:
    from kinegraph.pipeline.predicting.pictures import Pictures
    from kinegraph.pipeline.predicting.predictions import Prediction


def predictions(found: "Sequence[Prediction]", class_names: Sequence[str], top: int, *, by_clip: bool) -> None:
    """Prints a table with the `top` best classes of each video, or of each clip if `by_clip` is true. `found` has one
    Prediction per video, and `class_names` the name of each class.
    """
    from kinegraph.pipeline.predicting.predictions import best

    rows = []
    for one in found:
        parts = [("", one.probabilities)]
        if by_clip:
            parts = [(f"{clip.start:.2f} to {clip.end:.2f}", clip.probabilities) for clip in one.clips]
        for where, probabilities in parts:
            classes = [] if probabilities is None else best(probabilities, class_names, top)
            for place, each in enumerate(classes):
                of = (one.video, where) if place == 0 else ("", "")
                rows.append([*of, each["name"], f"{each['score']:.3f}"])
    header = ["video", "seconds", "class", "score"]
    if not by_clip:
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
    if rows:
        say_table(header, rows, words=("class",))


def failures(found: "Sequence[Prediction]", files: Mapping[str, str]) -> None:
    """Prints to stderr the first 10 videos with a failed clip, with the reason. If other clips of the video have
    scores, the line says how many clips failed.

    `files` is {config key: pattern of the files that the run reads for each video}, for example {"proposals.files":
    "boxes/{stem}.json"}. If a video failed, the patterns are printed, because such a file may be missing.
    """
    for line in listed([f"{one.video}: {_in_part(one)}{one.failure}" for one in failed(found)]):
        note(line)
    for key, pattern in files.items() if failed(found) else ():
        note(f"The run reads {pattern} for each video. To name other files: --set '{key}=PATTERN'")


def _in_part(one: "Prediction") -> str:
    """Returns the beginning of the message about a video of which only some clips failed: "2 of 5 clips failed and are
    left out of the scores, the first as ". The caller adds the reason. Returns "" if all clips failed.
    """
    if not one.clips:
        return ""
    return f"{one.num_failed:,} of {one.num_clips:,} clips failed and are left out of the scores, the first as "


def pictures(drawn: "Pictures", *, boxes: bool) -> None:
    """Prints to stderr which overlays and curves were written, which could not be written, and which videos have
    damaged frames.

    If `boxes` is false, also prints that overlays have no boxes, because the head reads none.
    """
    if drawn.written:
        several = f"{counted(len(drawn.written), 'picture')}, the first is " if len(drawn.written) > 2 else ""
        note(f"wrote {several}{' and '.join(map(str, drawn.written[: 1 if several else 2]))}")
    if drawn.overlays and drawn.written:
        if drawn.with_sound:
            note("Overlays have no sound.")
        if not boxes:
            note("The head reads no boxes, so none are drawn.")
    note_listed("Some frames of the videos are damaged:", drawn.complaints)
    note_listed("No overlay could be written of:", drawn.failures)


def failed(found: "Sequence[Prediction]") -> "list[Prediction]":
    """Returns the predictions in `found` of the videos in which at least one clip failed."""
    return [one for one in found if one.failure]


def lines(found: "Sequence[Prediction]", class_names: Sequence[str]) -> Iterator[list[object]]:
    """Yields the rows of a csv with the predictions `found`. The first row is the header: video, start, end, and the
    `class_names`. Each other row has the probability of each class.

    A video has a row for each clip, with start and end in seconds, and a last row for the whole video. A video whose
    clips all failed has no row.
    """
    yield ["video", "start", "end", *class_names]
    for one in found:
        for clip in one.clips:
            yield [one.video, clip.start, clip.end, *clip.probabilities.tolist()]
        if one.probabilities is not None:
            yield [one.video, "", "", *one.probabilities.tolist()]

"""Writes an overlay: a copy of a video with the boxes that the head read, and with class scores below the picture."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.pipeline.predicting.predictions import FrameBoxes, Prediction, ScoredSpan, best
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import PYAV_ERRORS, OpenVideo, open_video
from kinegraph.stages.pictures.film import Film, writing_film
from kinegraph.stages.pictures.overlay import Band, Edge, OverlayLayout
from kinegraph.stages.remote.staging import Staging

NUM_BARS, NUM_EDGES = 5, 3
SAME_SECONDS = 1e-6  # the times of one frame, decoded twice, are equal up to the rounding of floats
NO_BOXES = FrameBoxes(seconds=-1.0, boxes=np.empty((0, 4)))


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Facts about an overlay that was written. The overlay has `num_frames` frames and no sound.

    `has_sound` says whether the original video has sound. `complaints` names the faults that the decoder found in the
    video, and the first frame that could not be decoded. `complaints` is "" if there were no faults.
    """

    num_frames: int
    has_sound: bool
    complaints: str


def write_overlay(
    prediction: Prediction,
    class_names: Sequence[str],
    target: Path,
    staging: Staging,
    *,
    max_height: int,
    on_frame: Callable[[int], None] = lambda num_frames: None,
) -> Overlay:
    """Writes an overlay, a copy of the video of `prediction` with boxes and scores drawn on it, to `target`. Returns
    facts about it. An existing file is replaced.

    A band below the picture shows the best classes. Frames at which the head read boxes show these boxes. The frames
    after them show the same boxes with dashed lines. If the boxes have edges, the three strongest edges are drawn.

    - `class_names`: the names of all classes.
    - `target`: a file whose name ends with `film_ending()`.
    - `staging`: copies a video at a URL to this machine.
    - `max_height`: the largest height of picture and band together, in px.
    - `on_frame`: is called after each frame with the number of frames so far.

    Raises DecodeError if the video cannot be read, UsageError if PyAV has no encoder, and CacheNotWritable if the file
    cannot be written. After an error, an existing file is unchanged.
    """
    with staging.begin(prediction.video) as at_hand, open_video(at_hand.file) as video:
        try:
            return _written(video, _Timetable(prediction, class_names), target, max_height, on_frame)
        except DecodeError as error:
            raise DecodeError(error.reason, at_hand.with_url(error.detail)) from error


def _written(
    video: OpenVideo, timetable: "_Timetable", target: Path, max_height: int, on_frame: Callable[[int], None]
) -> Overlay:
    layout, lost = None, ""
    with ExitStack() as stack:
        for timed in stopping.checked(video.frames()):
            try:
                pixels = video.rgb(timed.frame)
            except PYAV_ERRORS as error:
                lost = lost or f"the frame at {timed.seconds:.2f} s cannot be shown: {error}"
                continue
            if layout is None:
                height, width = pixels.shape[:2]
                layout = OverlayLayout.fitted(width, height, max_height, timetable.num_bars)
                film: Film = stack.enter_context(writing_film(target, layout.size, 1 / video.frame_period))
            frame, edges, band, is_read_now = timetable.at(timed.seconds)
            drawn = layout.drawn(pixels, frame.boxes, band, dashed=not is_read_now, edges=edges, classes=frame.classes)
            film.add(drawn, timed.seconds)
            on_frame(film.num_frames)
        if layout is None:
            raise DecodeError("truncated", video.complaints or "not one frame could be decoded")
        film.end(_duration(video))
        has_sound = bool(video.container.streams.audio)
        complaints = "; ".join(filter(None, [video.complaints, lost]))
    return Overlay(num_frames=film.num_frames, has_sound=has_sound, complaints=complaints)


def _duration(video: OpenVideo) -> float:
    """Returns for how many seconds the last frame of `video` is shown. If the file does not contain the duration,
    returns one frame period.
    """
    assert video.latest is not None
    frame = video.latest.frame
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else video.frame_period


@dataclass
class _Timetable:
    """Finds the boxes and the text to draw at each time of a video. Call `at` with increasing times.

    `prediction` has the scores and boxes of the video. `class_names` has the names of all classes.
    """

    prediction: Prediction
    class_names: Sequence[str]
    _number: int = -1  # of the last span that has begun
    _next_boxes: int = 0  # number of the first FrameBoxes of the span whose time is not reached
    _bands: dict[int, Band] = field(default_factory=dict)
    _largest: dict[int, float] = field(default_factory=dict)  # weight of an edge in a span

    @property
    def num_bars(self) -> int:
        return min(NUM_BARS, len(self.class_names))

    def at(self, seconds: float) -> tuple[FrameBoxes, Sequence[Edge], Band, bool]:
        """Returns what to draw on the frame at the time `seconds`: the boxes, the edges between boxes, the text band
        below the picture, and whether the head read the boxes at exactly this frame.

        The boxes are those of the last frame that the head read. `seconds` must not be smaller than in the previous
        call.
        """
        spans = self.prediction.spans
        while self._number + 1 < len(spans) and spans[self._number + 1].start <= seconds + SAME_SECONDS:
            self._number, self._next_boxes = self._number + 1, 0
        if self._number < 0 or seconds + SAME_SECONDS >= spans[self._number].end:
            return NO_BOXES, (), Band("no clip at this time"), False
        boxes = spans[self._number].boxes
        while self._next_boxes < len(boxes) and boxes[self._next_boxes].seconds <= seconds + SAME_SECONDS:
            self._next_boxes += 1
        last = boxes[self._next_boxes - 1] if self._next_boxes else NO_BOXES
        is_now = abs(last.seconds - seconds) <= SAME_SECONDS
        return last, self._edges(last), self._band(spans[self._number]), is_now

    def _edges(self, frame: FrameBoxes) -> list[Edge]:
        """Returns the strongest edges between the boxes of `frame`, a frame of the present span. The strongest edge of
        the span has the strength 1.
        """
        if self._number not in self._largest:
            edges = (edge for each in self.prediction.spans[self._number].boxes for edge in each.strongest_edges(1))
            self._largest[self._number] = max((weight for _, _, weight in edges), default=1.0)
        return [Edge(i, j, weight / self._largest[self._number]) for i, j, weight in frame.strongest_edges(NUM_EDGES)]

    def _band(self, span: ScoredSpan) -> Band:
        if self._number not in self._bands:
            times = f"clip {self._number + 1} of {len(self.prediction.spans)}, {span.start:.2f} to {span.end:.2f} s"
            if span.probabilities is None:
                self._bands[self._number] = Band(f"{times}, failed: {span.failure}")
            else:
                bars = best(span.probabilities, self.class_names, NUM_BARS)
                self._bands[self._number] = Band(times, tuple((bar["name"], bar["score"]) for bar in bars))
        return self._bands[self._number]

"""Writes the pictures that `kinegraph predict` is asked for: an overlay and a curve of each video."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kinegraph.pipeline.predicting.curve import write_curve
from kinegraph.pipeline.predicting.overlay import write_overlay
from kinegraph.pipeline.predicting.predictions import Prediction
from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.predicting.videos import listed_videos, picture_files
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.pictures import curves
from kinegraph.stages.pictures.film import film_ending
from kinegraph.stages.remote.staging import Staging

OnProgress = Callable[[str, int, int], None]  # what, done, total, as in `Predictor.predict`


class Pictures:
    """Writes overlays and curves for the predictions of one command. An overlay is a copy of a video with boxes and
    scores drawn on it. A curve is a plot of the scores over time.

    - `videos`: files, URLs, and folders of videos.
    - `overlay`, `curve`: the file or folder to write, or None.
    - `top`: the number of classes in a curve.
    - `max_height`: the largest height of an overlay in px.
    - `overwrite`: whether existing files are replaced.

    The results are attributes:

    - `written`: the files that were written.
    - `failures`: "<video>: <error>" for each video whose overlay could not be written.
    - `complaints`: "<video>: <faults>" for each video that has an overlay although the decoder found faults.
    - `with_sound`: whether one of the videos has sound, which its overlay lacks.

    The constructor raises UsageError if a file exists and `overwrite` is false, if a package is missing, or if
    `overlay` or `curve` does not fit the videos.
    """

    def __init__(
        self,
        videos: Sequence[str | Path],
        overlay: Path | None,
        curve: Path | None,
        *,
        top: int,
        max_height: int,
        overwrite: bool,
    ) -> None:
        self.top, self.max_height = top, max_height
        self.overlays: dict[str, Path] = {}
        self.curves: dict[str, Path] = {}
        self.written: list[Path] = []
        self.failures: list[str] = []
        self.complaints: list[str] = []
        self.with_sound = False
        self._num_frames = 0
        files = listed_videos(videos) if overlay or curve else []
        if overlay is not None:
            ending = film_ending()
            out = overlay.with_suffix(ending) if overlay.suffix.lower() == ".mp4" and ending != ".mp4" else overlay
            self.overlays = picture_files("--overlay", out, files, (ending,), overwrite=overwrite)
        if curve is not None:
            curves.require_matplotlib()
            self.curves = picture_files("--curve", curve, files, curves.ENDINGS, overwrite=overwrite)

    def drawn(
        self, predictor: Predictor, predictions: Iterable[Prediction], on_progress: OnProgress
    ) -> Iterator[Prediction]:
        """Writes the overlay and the curve of each prediction. Then yields the prediction without its boxes, because
        boxes take much memory.

        `predictor` made the predictions. `on_progress` is called with ("frames of overlays", number of frames so far,
        0). A video whose clips all failed gets no picture. A video whose frames cannot be decoded is added to
        `failures`. Any other error is raised.
        """
        with Staging(predictor.config.run.staging) as staging:
            for prediction in predictions:
                if prediction.probabilities is not None:
                    self._draw(prediction, predictor.class_names, staging, on_progress)
                yield prediction.without_boxes()

    def _draw(
        self, prediction: Prediction, class_names: Sequence[str], staging: Staging, on_progress: OnProgress
    ) -> None:
        video = prediction.video
        if video in self.curves:
            write_curve(prediction, class_names, self.curves[video], top=self.top)
            self.written.append(self.curves[video])
        if video not in self.overlays:
            return
        before = self._num_frames

        def on_frame(num_frames: int) -> None:
            self._num_frames = before + num_frames
            on_progress("frames of overlays", self._num_frames, 0)

        try:
            overlay = write_overlay(
                prediction, class_names, self.overlays[video], staging, max_height=self.max_height, on_frame=on_frame
            )
        except DecodeError as error:
            self.failures.append(f"{video}: {error}")
            return
        self.written.append(self.overlays[video])
        self.with_sound |= overlay.has_sound
        if overlay.complaints:
            self.complaints.append(f"{video}: {overlay.complaints}")

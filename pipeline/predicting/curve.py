"""Draws a curve: a plot of the class scores of one video over time."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from kinegraph.cache_schemas.files import write_whole
from kinegraph.pipeline.predicting.predictions import Prediction
from kinegraph.stages.pictures.curves import Curves, curves_file


def write_curve(prediction: Prediction, class_names: Sequence[str], target: Path, *, top: int) -> None:
    """Draws the class scores of `prediction` over time and writes the picture to `target`. An existing file is
    replaced.

    The picture shows the `top` classes with the highest maxima over time, best first. `class_names` has the names of
    all classes. The ending of `target` is the format: .svg, .png or .pdf. Raises UsageError if matplotlib is not
    installed, and CacheNotWritable if the file cannot be written.
    """
    spans, nothing = prediction.spans, np.full(len(class_names), np.nan)
    scores = np.stack([nothing if span.probabilities is None else span.probabilities.numpy() for span in spans])
    best = np.argsort(-np.nanmax(scores, axis=0), kind="stable")[:top]
    curves = Curves(
        title=PurePosixPath(prediction.video).name,
        spans=[(span.start, span.end) for span in spans],
        names=[class_names[number] for number in best],
        scores=scores[:, best],
    )
    write_whole(target, [curves_file(curves, target.suffix.lower())])

"""Draws points in two dimensions, with a colour and a shape for each group. Torch-free."""

from collections.abc import Sequence

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.pictures.picture import WIDE, Picture, plain_axes, styled
from kinegraph.stages.pictures.theme import INK, MARKERS, SERIES, label

ROOM = "\u2003"  # behind a name, because the font of a browser may be wider
LEAST_INCHES, ROW_INCHES = 3.2, 0.185


def scatter(
    name: str, title: str, points: np.ndarray, groups: np.ndarray, names: Sequence[str], axes_names: tuple[str, str],
    description: str,
) -> Picture:  # fmt: skip
    """Draws n points in a plane. The points of one group have the same colour and shape. Up to 64 groups have different
    colours or shapes.

    - `points`: [n, 2], x and y of each point.
    - `groups`: int [n], the index of each point's group in `names`.
    - `names`: the names of the groups.
    - `axes_names`: the names of x and y.
    - `description`: the beginning of the description. The numbers of points and groups are added.

    `data` of the Picture has the arrays `points` [n, 2] and `group` [n, 1], and for each group its name in `class` and
    its number of points in `clips`.
    """
    picture = Picture(name, title, height=max(LEAST_INCHES, 0.4 + ROW_INCHES * len(names)), width=WIDE)
    with styled():
        axes = plain_axes(picture, None)
        for place, text in enumerate(names):
            colour, marker = SERIES[place % len(SERIES)], MARKERS[(place + place // len(SERIES)) % len(MARKERS)]
            here = points[groups == place]
            axes.plot(here[:, 0], here[:, 1], marker, color=colour, markersize=3.5, alpha=0.8, markeredgewidth=0)
            top = 1 - (place + 0.5) * ROW_INCHES / (picture.get_size_inches()[1] - 0.4)
            axes.plot([1.03], [top], marker, color=colour, markersize=4, transform=axes.transAxes, clip_on=False)
            words = f"{label(text, 24)} ({len(here)}){ROOM}"
            axes.annotate(words, (1.03, top), (7, 0), "axes fraction", "offset points", color=INK, va="center",
                          fontsize=7.5)  # fmt: skip
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[])
    counts = np.bincount(groups, minlength=len(names))
    description = f"{description} {counted(len(points), 'point')} of {counted(len(names), 'class')}."
    return picture.describe(description, points=points, group=groups[:, None], **{"class": names, "clips": counts})

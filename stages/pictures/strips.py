"""Draws strips: frames of a clip side by side, with boxes, as one SVG for an HTML page. Imports no matplotlib and no
torch.

Boxes are (x1, y1, x2, y2) in px of the video's frame, even if the frame is shown smaller.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kinegraph.stages.pictures.theme import escaped

SHORT_PX, QUALITY = 224, 80  # short side and quality of a WebP picture, which has 5 to 13 kB
GAP_PX, CAPTION_PX = 6, 20
LINE, EDGE, CHOSEN = "#ffffff", "#000000", "#ffb000"
HEAT_LOW, HEAT_HIGH = (208, 0, 112), (255, 213, 0)  # from a red to a yellow, which both show on most frames
HEAT_OPACITY, DARKENED = 0.8, 0.6
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A heat map over a frame. `shares` [rows, columns] are its values, from 0 (transparent) to 1. `rectangle` is the
    part (x1, y1, x2, y2) of the frame, in px, that the heat map covers. If x1 > x2, the heat map is mirrored.
    """

    shares: np.ndarray
    rectangle: Sequence[float]

    def svg(self, scale_x: float, scale_y: float) -> str:
        """Returns the heat map as an SVG element. `scale_x` and `scale_y` are the size of the shown picture divided by
        the size of the frame.
        """
        x1, y1, x2, y2 = self.rectangle
        shares = np.nan_to_num(self.shares).clip(0, 1)[:, :: -1 if x1 > x2 else 1]
        left, width = min(x1, x2) * scale_x, abs(x2 - x1) * scale_x
        content = io.BytesIO()
        colours = np.array(HEAT_LOW) + shares[..., None] * (np.array(HEAT_HIGH) - HEAT_LOW)
        pixels = np.concatenate([colours, 255 * HEAT_OPACITY * shares[..., None] ** 2], -1).round().astype(np.uint8)
        Image.fromarray(pixels).save(content, "PNG", optimize=True)
        return (
            f'<image href="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}" x="{_px(left)}" '
            f'y="{_px(y1 * scale_y)}" width="{_px(width)}" height="{_px((y2 - y1) * scale_y)}" '
            'preserveAspectRatio="none"/>'
        )


@dataclass(frozen=True, kw_only=True)
class DrawnEdge:
    """An edge of a graph over a frame: a line from the point `start` to the point `end`, with a dot at the end. Points
    are (x, y) in px of the video's frame. `share` is the thickness of the line, from 0 (thin) to 1 (thick).
    """

    start: Point
    end: Point
    share: float = 0.5

    def svg(self, scale_x: float, scale_y: float) -> str:
        """Returns the edge as an SVG element. `scale_x` and `scale_y` are the size of the shown picture divided by the
        size of the frame.
        """
        x1, y1, x2, y2 = (
            _px(value * scale) for value, scale in zip((*self.start, *self.end), (scale_x, scale_y) * 2, strict=True)
        )
        px = 1 + 3 * min(max(self.share, 0), 1)
        line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke='
        return (
            f'<g>{line}"{EDGE}" stroke-opacity="0.55" stroke-width="{_px(px + 2)}"/>'
            f'{line}"{CHOSEN}" stroke-width="{_px(px)}"/>'
            f'<circle cx="{x2}" cy="{y2}" r="{_px(px + 1.5)}" fill="{CHOSEN}" stroke="{EDGE}"/></g>'
        )


@dataclass(frozen=True, kw_only=True)
class StripFrame:
    """One frame of a strip, with everything that is drawn over it. Boxes and points are in px of the video's frame."""

    image: str  # the address of the picture: a URL, or the result of `data_uri`
    # `width`, `height`: the size of the video's frame in px
    width: float
    height: float
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))  # [number of boxes, 4], each (x1, y1, x2, y2)
    caption: str = ""  # a text below the frame
    names: Sequence[str] = ()  # a text for each box, which a browser shows at the pointer
    classes: Sequence[str] = ()  # a text for each box, which is written into the box
    links: Sequence[str] = ()  # an address for each box, to which a click leads
    chosen: int | None = None  # the index of the box that is drawn in another colour, from 0, or None
    path: Sequence[Point] = ()  # the points (x, y) of a line over the frame
    heat: Heat | None = None  # a heat map under the boxes, or None
    edges: Sequence[DrawnEdge] = ()  # graph edges over the boxes
    # (point, text) of texts over the frame. A frame with labels is darkened, so that the texts can be read.
    labels: Sequence[tuple[Point, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Frames of a clip side by side, as one picture. A notebook shows a Strip. `savefig("strip.svg")` writes it to a
    file.
    """

    # `name`, `title`, `description`, `data`: as in a Picture
    name: str
    title: str
    description: str
    frames: Sequence[StripFrame]  # the frames
    columns: int = 4  # the number of frames per row
    data: Mapping[str, np.ndarray] = field(default_factory=dict)

    def svg(self) -> str:
        """Returns the strip as an SVG element for an HTML page."""
        return strip_svg(self.frames, f"{self.title}. {self.description}", columns=self.columns)

    def _repr_svg_(self) -> str:
        return self.svg()

    def savefig(self, fname: Any, **options: Any) -> None:
        """Writes the strip to the SVG file `fname`. `options` are ignored. Raises ValueError if the name does not end
        with .svg.
        """
        if Path(str(fname)).suffix.lower() != ".svg":
            raise ValueError(f"{fname}: a strip of frames is written as .svg alone")
        Path(fname).write_text(self.svg(), encoding="utf-8")


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Returns (rows, columns), the size in px at which a frame of `height` x `width` px is shown. The short side has at
    most SHORT_PX px.
    """
    scale = min(1.0, SHORT_PX / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def webp(pixels: np.ndarray, short_px: int = SHORT_PX) -> bytes:
    """Returns a WebP file with the picture `pixels`, uint8 RGB [rows, columns, 3]. A larger picture is made smaller, so
    that its short side has `short_px` px.
    """
    image = Image.fromarray(pixels)
    scale = min(1.0, short_px / min(image.size))
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=QUALITY, method=4)
    return content.getvalue()


def data_uri(pixels: np.ndarray, short_px: int = SHORT_PX) -> str:
    """Returns a data URI with the picture `pixels`, uint8 RGB [rows, columns, 3], for `StripFrame.image`. A larger
    picture is made smaller, so that its short side has `short_px` px.
    """
    return "data:image/webp;base64," + base64.b64encode(webp(pixels, short_px)).decode()


def strip_svg(frames: Sequence[StripFrame], words: str, *, columns: int = 4) -> str:
    """Returns an SVG element with `frames`, in rows of `columns` frames. `words` describe the strip for readers who do
    not see it.

    All frames have the same height. The SVG has no ids, so a page may have any number of strips. For screen readers, a
    strip with links is a group of links, and any other strip is an image.
    """
    if not frames:
        return (
            f'<svg class="strip" role="img" aria-label="{escaped(words)}" viewBox="0 0 1 1" width="1" height="1"></svg>'
        )
    columns = max(1, min(columns, len(frames)))
    height = SHORT_PX
    widths = [max(1.0, height * frame.width / max(frame.height, 1)) for frame in frames]
    cell, rows = max(widths) + GAP_PX, -(-len(frames) // columns)
    total = cell * columns - GAP_PX, rows * (height + CAPTION_PX)
    role = "group" if any(frame.links for frame in frames) else "img"
    parts = [
        f'<svg class="strip" xmlns="http://www.w3.org/2000/svg" role="{role}" aria-label="{escaped(words)}" '
        f'viewBox="0 0 {_px(total[0])} {_px(total[1])}" width="{_px(total[0])}" height="{_px(total[1])}">'
    ]
    for place, (frame, width) in enumerate(zip(frames, widths, strict=True)):
        row, column = divmod(place, columns)
        parts.append(_frame(frame, column * cell, row * (height + CAPTION_PX), width, height))
    return "".join([*parts, "</svg>"])


def _frame(frame: StripFrame, left: float, top: float, width: float, height: float) -> str:
    scale_x, scale_y = width / max(frame.width, 1e-9), height / max(frame.height, 1e-9)
    parts = [
        f'<svg x="{_px(left)}" y="{_px(top)}" width="{_px(width)}" height="{_px(height)}" '
        f'viewBox="0 0 {_px(width)} {_px(height)}">'
        f'<image href="{escaped(frame.image)}" width="{_px(width)}" height="{_px(height)}" preserveAspectRatio="none"/>'
    ]
    if frame.heat is not None:
        parts.append(frame.heat.svg(scale_x, scale_y))
    if frame.labels:
        parts.append(f'<rect width="{_px(width)}" height="{_px(height)}" fill="{EDGE}" opacity="{DARKENED}"/>')
    scale = np.array([scale_x, scale_y, scale_x, scale_y])
    boxes = np.asarray(frame.boxes, float).reshape(-1, 4) * scale
    if frame.links:
        parts += [_linked_box(frame, number, box, width) for number, box in enumerate(boxes)]
    elif len(boxes):
        parts.append(_plain_boxes(frame, boxes, width))
    if len(frame.path) > 1:
        points = " ".join(f"{_px(x * scale_x)},{_px(y * scale_y)}" for x, y in frame.path)
        for colour, px, opacity in ((EDGE, 5, 0.6), (CHOSEN, 2, 1)):
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{px}" opacity="{opacity}"/>'
            )
    parts += [edge.svg(scale_x, scale_y) for edge in frame.edges]
    parts += [
        f'<text x="{_px(x * scale_x)}" y="{_px(y * scale_y)}" font-size="12" font-family="sans-serif" fill="{LINE}" '
        f'dominant-baseline="middle">{escaped(text)}</text>'
        for (x, y), text in frame.labels
    ]
    parts.append("</svg>")
    if frame.caption:
        parts.append(
            f'<text x="{_px(left + 1)}" y="{_px(top + height + 14)}" font-size="12" '
            f'font-family="sans-serif" fill="var(--muted, #56606b)">{escaped(frame.caption)}</text>'
        )
    return "".join(parts)


def _plain_boxes(frame: StripFrame, boxes: np.ndarray, picture_width: float) -> str:
    """Returns SVG elements of the boxes of a frame without links. A box is a thin line over a wider translucent dark
    line, so it can be seen on any frame. `boxes` are (x1, y1, x2, y2) in px of the picture, which is `picture_width` px
    wide.
    """
    rectangles = [_rectangle(box) for box in boxes]
    lines = [f"{rectangle}>{_title(frame, number)}</rect>" for number, rectangle in enumerate(rectangles)]
    if frame.chosen is not None and frame.chosen < len(boxes):
        rectangle = rectangles[frame.chosen]
        rectangles[frame.chosen] = f'{rectangle} stroke-width="5.5"'
        line = lines[frame.chosen].removeprefix(rectangle)
        lines[frame.chosen] = f'{rectangle} stroke="{CHOSEN}" stroke-width="3"{line}'
    words = [_word(word, box, picture_width) for word, box in zip(frame.classes, boxes, strict=False)]
    return (
        f'<g fill="none" stroke="{EDGE}" stroke-opacity="0.55" stroke-width="4">{"/>".join([*rectangles, ""])}</g>'
        f'<g fill="none" stroke="{LINE}" stroke-width="1.5">{"".join(lines)}</g>{"".join(words)}'
    )


def _linked_box(frame: StripFrame, number: int, box: np.ndarray, picture_width: float) -> str:
    """Returns an SVG element of the box number `number` as a link. `box` is in px of the picture, which is
    `picture_width` px wide.
    """
    rectangle, title = _rectangle(box), _title(frame, number)
    colour, px = (CHOSEN, 3) if number == frame.chosen else (LINE, 1.5)
    drawn = (
        f'{rectangle} fill="none" stroke="{EDGE}" stroke-opacity="0.55" stroke-width="{px + 2.5}"/>'
        f'{rectangle} fill="none" stroke="{colour}" stroke-width="{px}"/>'
    )
    if number < len(frame.classes):
        drawn += _word(frame.classes[number], box, picture_width)
    text = escaped(frame.names[number]) if number < len(frame.names) else f"box {number}"
    face = f'{rectangle} class="face" fill="transparent"/>'
    return f'<a href="{escaped(frame.links[number])}" aria-label="{text}">{title}{drawn}{face}</a>'


def _rectangle(box: np.ndarray) -> str:
    """Returns the beginning of the SVG element of `box`. The caller adds attributes and closes the tag."""
    x, y, width, height = (_px(value) for value in (box[0], box[1], max(box[2] - box[0], 0), max(box[3] - box[1], 0)))
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}"'


def _title(frame: StripFrame, number: int) -> str:
    return f"<title>{escaped(frame.names[number])}</title>" if number < len(frame.names) else ""


def _word(word: str, box: np.ndarray, picture_width: float) -> str:
    """Returns `word` as an SVG element in an upper corner of a box. It ends at the right corner if the box lies on the
    right side of the picture, so that the picture does not cut it.
    """
    is_right = box[0] > 0.6 * picture_width
    x, anchor = (box[2] - 3, "end") if is_right else (box[0] + 3, "start")
    return (
        f'<text x="{_px(x)}" y="{_px(box[1] + 12)}" text-anchor="{anchor}" font-size="11" font-family="sans-serif" '
        f'fill="{LINE}" stroke="{EDGE}" stroke-width="2.5" paint-order="stroke">{escaped(word)}</text>'
    )


def _px(value: float) -> str:
    """Returns a length as text with at most one decimal. NaN and infinity become 0."""
    rounded = round(float(value), 1) if np.isfinite(value) else 0.0
    return f"{rounded:g}" if abs(rounded) < 1e5 else f"{rounded:.1f}"

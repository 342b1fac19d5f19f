"""Draws boxes and graph edges on a frame of a video, and a band with the scores of classes below the frame. Torch-free.

Boxes are (x1, y1, x2, y2) in px of the frame. The centre of pixel i lies at i + 0.5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from kinegraph.stages.pictures import lettering

LEAST_FONT_PX, MOST_FONT_PX = 10, 20
FRAMES_PER_FONT = 36  # a font is 1/36 of the picture's height
LINE_SPACE_PX, MARGIN_PX = 5, 4
DASH_PX, GAP_PX = 6, 5
GROUND, BAR = (24, 24, 24), (32, 96, 168)
LINE, EDGE = (255, 255, 255, 255), (0, 0, 0, 150)
LINK, FAINTEST_LINK = (255, 176, 0), 110  # the colour of an edge, and the opacity (0 to 255) of the weakest edge
Size = tuple[int, int]
Corners = tuple[int, int, int, int]  # x1, y1, x2, y2 of the first and the last pixel


class Edge(NamedTuple):
    """A graph edge between two boxes of a frame. `first` and `second` are the indices of the boxes, from 0, and
    `strength` is from 0 to 1.
    """

    first: int
    second: int
    strength: float


@dataclass(frozen=True)
class Band:
    """The text below a frame. `title` is its first line. `bars` has (name of a class, score from 0 to 1) for each
    class, which is drawn as a bar.
    """

    title: str
    bars: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class OverlayLayout:
    """The sizes of all frames of one overlay video, in px. A frame consists of the picture and of a band below the
    picture.

    Widths and heights are even, because video encoders need even numbers.
    """

    picture: Size  # (width, height) of the picture
    size: Size  # (width, height) of the whole frame
    font_px: int  # the height of letters

    @classmethod
    def fitted(cls, width: int, height: int, max_height: int, num_bars: int) -> "OverlayLayout":
        """Returns the OverlayLayout, the sizes of all frames of the overlay, for a video of `width` x `height` px and a
        band with `num_bars` bars.

        Picture and band together are at most `max_height` px high. The picture is made smaller than the video if
        necessary, and never larger. Odd sides lose one pixel.
        """
        font_px = min(MOST_FONT_PX, max(LEAST_FONT_PX, min(height, max_height) // FRAMES_PER_FONT))
        band = _even((num_bars + 1) * (font_px + LINE_SPACE_PX) + 2 * MARGIN_PX)
        scale = min(1.0, (max_height - band) / height)
        picture = _even(width * scale), _even(height * scale)
        return cls(picture=picture, size=(picture[0], picture[1] + band), font_px=font_px)

    def drawn(
        self,
        pixels: np.ndarray,
        boxes: np.ndarray,
        band: Band,
        *,
        dashed: bool,
        edges: Sequence[Edge] = (),
        classes: Sequence[str] = (),
    ) -> np.ndarray:
        """Returns one frame of the overlay, uint8 RGB [height, width, 3].

        - `pixels`: the frame of the video, uint8 RGB [rows, columns, 3].
        - `boxes`: [number of boxes, 4], (x1, y1, x2, y2) in px of the video's frame. Boxes outside of the frame are not
          drawn.
        - `band`: the text below the picture.
        - `dashed`: if true, boxes and edges are thin, and boxes are dashed.
        - `edges`: lines between the middles of two boxes. A stronger edge is wider and less transparent.
        - `classes`: a text for each box, which is written into the box. Empty for boxes without texts.
        """
        image = Image.fromarray(pixels)
        if image.size != self.picture:
            image = image.resize(self.picture, Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(image, "RGBA")  # the mode in which translucent colours are blended
        height, width = pixels.shape[:2]
        inside = np.clip(boxes, 0, (width, height, width, height))
        has_area = (inside[:, 2:] > inside[:, :2]).all(1)
        scaled = inside * np.tile((self.picture[0] / width, self.picture[1] / height), 2)
        for box in scaled[has_area]:
            (_draw_dashed if dashed else _draw_whole)(draw, self._corners(box), self._line_px)
        middles = (scaled[:, :2] + scaled[:, 2:]) / 2
        for edge in reversed(edges):  # the strongest one on top
            if has_area[[edge.first, edge.second]].all():
                width_px = self._line_px if dashed else round(self._line_px * (1 + 2 * edge.strength))
                _draw_edge(draw, middles[edge.first], middles[edge.second], width_px, edge.strength)
        for box, word in zip(scaled[has_area], np.array(classes)[has_area] if classes else (), strict=False):
            self._write(draw, box, word)
        return np.concatenate([np.asarray(image), _band_pixels(self, band)])

    def _write(self, draw: ImageDraw.ImageDraw, box: np.ndarray, word: str) -> None:
        """Writes `word` into the upper left corner of a box. If there is no room to the right, the text begins further
        to the left.
        """
        shown = lettering.fitted(word, self.font_px, self.picture[0])
        x = min(float(box[0]) + MARGIN_PX, self.picture[0] - lettering.width_px(shown, self.font_px))
        lettering.write(draw, (max(1.0, x), float(box[1]) + self.font_px / 2 + MARGIN_PX), shown, self.font_px)

    @property
    def _line_px(self) -> int:
        return 1 + self.picture[1] // 360

    def _corners(self, box: np.ndarray) -> Corners:
        """Returns (x1, y1, x2, y2) of the first and the last pixel inside of a box. `box` is (x1, y1, x2, y2) in px of
        the picture.
        """
        first, end = np.floor(box[:2] + 0.5).astype(int), np.floor(box[2:] + 0.5).astype(int)
        x1, y1 = np.minimum(first, np.array(self.picture) - 1)
        x2, y2 = np.maximum(end - 1, (x1, y1))
        return int(x1), int(y1), int(x2), int(y2)


def _even(length: float) -> int:
    return max(2, int(length + 1e-6) // 2 * 2)


def _draw_whole(draw: ImageDraw.ImageDraw, corners: Corners, line_px: int) -> None:
    """Draws a box as a white line inside of its edges, with a translucent black line on each side. `corners` is (x1,
    y1, x2, y2) of the first and the last pixel of the box. The white line is `line_px` px wide.
    """
    x1, y1, x2, y2 = corners
    for inset, width, colour in ((-1, line_px + 2, EDGE), (0, line_px, LINE)):
        left, top, right, bottom = x1 + inset, y1 + inset, x2 - inset, y2 - inset
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=width)


def _draw_dashed(draw: ImageDraw.ImageDraw, corners: Corners, line_px: int) -> None:
    """Draws a box as a thin line of white dashes. The gaps between the dashes are translucent black. `corners` is (x1,
    y1, x2, y2) of the first and the last pixel of the box. `line_px` is not used.
    """
    x1, y1, x2, y2 = corners
    draw.rectangle(corners, outline=EDGE, width=1)
    for start, end in _dashes(x1, x2):
        draw.line((start, y1, end, y1), fill=LINE)
        draw.line((start, y2, end, y2), fill=LINE)
    for start, end in _dashes(y1, y2):
        draw.line((x1, start, x1, end), fill=LINE)
        draw.line((x2, start, x2, end), fill=LINE)


def _draw_edge(draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, width_px: int, strength: float) -> None:
    """Draws a graph edge as a line from `start` to `end`, with a dot at each end. Both are points (x, y) in px of the
    picture. The line is `width_px` px wide, has a dark outline, and is more transparent if `strength` (from 0 to 1) is
    smaller.
    """
    opacity = round(FAINTEST_LINK + (255 - FAINTEST_LINK) * strength)
    line = [(float(x), float(y)) for x, y in (start, end)]
    for more_px, colour in ((2, EDGE), (0, (*LINK, opacity))):
        draw.line(line, fill=colour, width=width_px + more_px)
        for point in line:
            draw.circle(point, width_px + more_px / 2, fill=colour)


def _dashes(first: int, last: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last + 1, DASH_PX + GAP_PX):
        yield start, min(start + DASH_PX - 1, last)


@lru_cache(maxsize=4)
def _band_pixels(layout: OverlayLayout, band: Band) -> np.ndarray:
    """Returns the band below the picture, uint8 RGB [height, width, 3]. `band` has its text, and `layout` has its size
    and the size of the letters.
    """
    width, height = layout.size[0], layout.size[1] - layout.picture[1]
    image = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(image)
    line_height, room = layout.font_px + LINE_SPACE_PX, max(1, width - 2 * MARGIN_PX)

    def write(number: int, text: str) -> None:
        shown = lettering.fitted(text, layout.font_px, room - MARGIN_PX)
        middle = MARGIN_PX + (number + 0.5) * line_height
        lettering.write(draw, (2 * MARGIN_PX, middle), shown, layout.font_px)

    write(0, band.title)
    for number, (name, score) in enumerate(band.bars, 1):
        top, end = MARGIN_PX + number * line_height, MARGIN_PX + round(min(1.0, max(0.0, score)) * (room - 1))
        draw.rectangle((MARGIN_PX, top + 1, end, top + line_height - 2), fill=BAR)
        write(number, f"{score:.2f}  {name}")
    pixels = np.asarray(image)
    pixels.flags.writeable = False
    return pixels

"""Writes text on pictures with Pillow. Letters have a dark outline, so they can be read on a bright picture, too.
Torch-free.
"""

from functools import lru_cache

from PIL import ImageDraw, ImageFont

from kinegraph.cache_schemas.words import on_one_line

Colour = tuple[int, int, int]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
OUTLINE_PX = 1
CUT = "..."


@lru_cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """Returns the font that comes with Pillow, in letters of `size_px` px.

    The font has Latin letters, digits and signs. Pillow draws a box in place of any other character.
    """
    loaded = ImageFont.load_default(size_px)
    assert isinstance(loaded, ImageFont.FreeTypeFont)
    return loaded


def width_px(text: str, size_px: int) -> float:
    """Returns the width in px of `text` on one line, in letters of `size_px` px, with the outline."""
    return font(size_px).getlength(text) + 2 * OUTLINE_PX


def fitted(text: str, size_px: int, most_px: float) -> str:
    """Returns `text` on one line that is at most `most_px` px wide, in letters of `size_px` px.

    Control characters are replaced by escapes. A text that is too wide loses its last characters and ends with `...`.
    """
    line = on_one_line(text)
    if width_px(line, size_px) <= most_px:
        return line
    for length in range(len(line), 0, -1):
        if width_px(line[:length] + CUT, size_px) <= most_px:
            return line[:length] + CUT
    return ""


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size_px: int, colour: Colour = WHITE) -> None:
    """Writes `text` as one line in letters of `size_px` px. `at` is the point (x, y) in px at which the middle of the
    left end of the line lies.
    """
    draw.text(at, text, colour, font(size_px), anchor="lm", stroke_width=OUTLINE_PX, stroke_fill=BLACK)

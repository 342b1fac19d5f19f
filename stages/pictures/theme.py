"""Holds the colours, the fonts and the style of all figures. Imports no matplotlib and no torch.

A figure is drawn in the colours LIGHT. In the SVG for a page, `themed` replaces each of these colours by a CSS variable
of the same name. So the figure follows the light or dark theme of the page.
"""

import html
import re
from collections.abc import Mapping
from typing import Any

from kinegraph.cache_schemas.words import on_one_line

# Each of c1 to c8 has a contrast of 4.5 or more to its ground, because some are colours of text too.
LIGHT: Mapping[str, str] = {
    "ground": "#fefefe", "ink": "#1c2530", "muted": "#56606b", "grid": "#d6dbe1", "panel": "#f3f5f8",
    "c1": "#1f6fb4", "c2": "#b4540a", "c3": "#1b7a55", "c4": "#a63d79", "c5": "#80640a", "c6": "#6a52b3",
    "c7": "#5c6670", "c8": "#b5372c",
}  # fmt: skip
DARK: Mapping[str, str] = {
    "ground": "#14181d", "ink": "#e7eaee", "muted": "#a3adb8", "grid": "#39424c", "panel": "#1d232a",
    "c1": "#6cb4f4", "c2": "#f3a65c", "c3": "#5ed0a3", "c4": "#e993c2", "c5": "#d9b64c", "c6": "#b9a7f2",
    "c7": "#a8b2bc", "c8": "#f18c81",
}  # fmt: skip
SERIES = tuple(LIGHT[f"c{number}"] for number in range(1, 9))
INK, MUTED, GRID = LIGHT["ink"], LIGHT["muted"], LIGHT["grid"]
RASTER = "#3d8fd1"  # colour of heat maps. It does not follow the theme, because it can be seen on both grounds
MARKERS, DASHES = ("o", "s", "^", "D", "v", "P", "X", "*"), ("-", "--", "-.", ":")
STYLE: Any = {  # settings of matplotlib
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "svg.hashsalt": "kinegraph",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.unicode_minus": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "image.interpolation": "nearest",
}  # fmt: skip
MOST_LETTERS = 32
COLOUR_NAMES = {colour: name for name, colour in LIGHT.items()}
TAG, COLOUR = re.compile(r"<[^>]*>"), re.compile(r"#[0-9a-f]{6}\b")
BETWEEN_TAGS = re.compile(r">\s+<")
FONT_OF_ALL = "font-family=\"'DejaVu Sans', sans-serif\""
NOT_NEEDED = re.compile(r""" transform="rotate\(-0 [^"]*\)"|font-family: 'DejaVu Sans', sans-serif; """)
LONG_NUMBER = re.compile(r"(\b\d+\.\d\d)\d+")  # a hundredth of a point is not seen
SAME_STYLE = re.compile(r'<use [^>]*style="([^"]*)"/>\s*(?:<use [^>]*style="\1"/>\s*)+')  # the marks of a series
REFERENCE = re.compile(r'(\sid="|url\(#|href="#)')


def css() -> str:
    """Returns CSS that defines a variable for each colour, in one version for a light screen and one for a dark screen.
    Printed pages have the light colours.
    """
    light, dark = ("".join(f"--{name}:{value};" for name, value in colours.items()) for colours in (LIGHT, DARK))
    return f":root{{color-scheme:light dark;{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def label(text: str, most: int = MOST_LETTERS) -> str:
    """Returns `text` on one line of at most `most` characters. A longer text is cut and ends with "...". Control
    characters are replaced by escapes.
    """
    line = on_one_line(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def escaped(text: str) -> str:
    """Returns `text` in a form that may stand in XML or HTML, also in an attribute. Control characters, and characters
    that XML does not allow, are replaced by visible escapes.
    """
    return html.escape("".join(c if c.isprintable() or c in "\u200c\u200d" else _visible(c) for c in text))


def _visible(character: str) -> str:
    return " " if character in "\n\t" else character.encode("unicode_escape", "backslashreplace").decode()


def themed(svg: str, name: str, words: str) -> str:
    """Returns the SVG file `svg` of a figure as an element for an HTML page. Its colours become CSS variables, and the
    element is made smaller than the file.

    - `name`: a text that is put before each id, so that the ids of several figures on a page differ.
    - `words`: a description of the figure for readers who do not see it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"(?s)\s*<metadata>.*?</metadata>", "", body)

    def of_tag(match: re.Match[str]) -> str:
        tag = REFERENCE.sub(
            rf"\g<1>{name}-", NOT_NEEDED.sub("", " ".join(match[0].split()).replace("base64, ", "base64,"))
        )
        return LONG_NUMBER.sub(r"\1", COLOUR.sub(lambda found: _variable(found[0]), tag))

    body = SAME_STYLE.sub(_in_one_group, BETWEEN_TAGS.sub("><", TAG.sub(of_tag, body)))
    return body.replace("<svg", f'<svg role="img" aria-label="{escaped(words)}" {FONT_OF_ALL}', 1).rstrip()


def _in_one_group(uses: re.Match[str]) -> str:
    style = f' style="{uses[1]}"'
    return f"<g{style}>{uses[0].replace(style, '')}</g>"


def _variable(colour: str) -> str:
    return f"var(--{COLOUR_NAMES[colour]}, {colour})" if colour in COLOUR_NAMES else colour

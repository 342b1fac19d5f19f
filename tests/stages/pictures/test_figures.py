"""Every figure on odd input: nothing, one row, NaN, many and hostile names. Also the traps of matplotlib."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest

from kinegraph.stages.pictures.bars import bars, dots, histogram, shares
from kinegraph.stages.pictures.lines import Line, lines
from kinegraph.stages.pictures.matrices import MOST_OPACITY, cells, density, matrix
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.seeds import seed_scores
from kinegraph.stages.pictures.theme import DARK, LIGHT, RASTER, css, label

HOSTILE = [
    "<b>&\"'",
    "$x^2$ and $\\alpha",
    "_hidden",
    "a\nb\x00\x1b[31m",
    "w" * 200,
    "\u202eright to left \u05d0",
    "语",
]
MANY = [f"class {number}" for number in range(400)]
Draw = Callable[[list[str]], Picture]
NAN = float("nan")


def numbers(names: list[str]) -> np.ndarray:
    values = np.linspace(0, 1, len(names))
    values[::3] = NAN
    return values


FIGURES: dict[str, Draw] = {
    "shares": lambda names: shares("f", "t", names, {"ok": np.ones(len(names)), "failed": np.zeros(len(names))}),
    "bars": lambda names: bars("f", "t", names, np.arange(len(names)), "clips"),
    "dots": lambda names: dots("f", "t", names, {"train": numbers(names), "_test": numbers(names)}, "clips"),
    "histogram": lambda names: histogram("f", "t", {name: np.ones(3) for name in names[:6]}, np.arange(4.0), "x"),
    "lines": lambda names: lines(
        "f",
        "t",
        [Line(name=n, x=np.arange(4.0), y=np.array([[1, NAN, 3, 4], [NAN, NAN, 1, 2]])) for n in names[:20]],
        "epoch",
        "y",
    ),
    "matrix": lambda names: matrix("f", "t", np.eye(len(names)), names, names, "true", "predicted", "d"),
    "density": lambda names: density("f", "t", np.full((4, 3), NAN), (0, 1, 0, 1), "x", "y", "d"),
    "seeds": lambda names: seed_scores(
        "f", "t", names, [np.array([0.5, 0.6]) for _ in names], "top1", {"chance": numbers(names)}
    ),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_figures_take_any_names(kind: str) -> None:
    for names in ([], HOSTILE):
        picture = FIGURES[kind](names)
        root = ET.fromstring(picture.svg())
        assert picture.description
        text = " ".join(root.itertext())
        if names == HOSTILE and kind not in ("density",):
            assert "_hidden" in text
            assert "$x^2$" in text  # not read as mathematics
            assert "\\x00" in text
            assert "\\u202e" in text
            assert "w" * 200 not in text


def test_figures_of_many_classes_are_small() -> None:
    assert len(FIGURES["dots"](MANY[:40]).svg()) < 120_000
    assert len(FIGURES["matrix"](MANY).svg()) < 60_000


def test_ids_of_two_figures_differ_and_equal_figures_are_equal() -> None:
    def svg(name: str) -> str:
        return bars(name, "title", ["a", "b"], [1, 2], "clips").svg()

    first, second = svg("first"), svg("second")
    ids = [set(re.findall(r'\sid="([^"]+)"', each)) for each in (first, second)]
    assert not ids[0] & ids[1]
    assert all(len(re.findall(r'\sid="', each)) == len(found) for each, found in zip((first, second), ids, strict=True))
    references = set(re.findall(r'(?:url\(#|href="#)([^")]+)', first))
    assert references <= ids[0]
    assert svg("first") == first
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", first)


def test_colours_follow_the_theme_and_files_have_plain_ones() -> None:
    picture = dots("d", "t", ["a"], {"train": [1.0], "test": [2.0]}, "clips")
    svg = picture.svg()
    assert "var(--c1, #1f6fb4)" in svg
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"var\(--\w+, #[0-9a-f]{6}\)|(url\(|href=\")#\w+", "", svg)) == []
    for form, begin in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
        contents = []
        for _ in range(2):
            content = io.BytesIO()
            picture.savefig(content, format=form)
            contents.append(content.getvalue())
        assert contents[0].startswith(begin)
        assert contents[0] == contents[1]  # no date
        assert b"var(" not in contents[0]
    assert picture._repr_svg_() == svg


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_colours_can_be_read(colours: dict[str, str]) -> None:
    text = {name: value for name, value in colours.items() if name not in ("ground", "grid", "panel")}
    assert min(contrast(value, colours["ground"]) for value in text.values()) >= 4.5
    assert min(contrast(colours[name], colours["panel"]) for name in ("ink", "muted")) >= 4.5
    assert contrast(RASTER, colours["ground"]) >= 3.0
    mixed = [
        round(
            MOST_OPACITY * int(RASTER[at : at + 2], 16) + (1 - MOST_OPACITY) * int(colours["ground"][at : at + 2], 16)
        )
        for at in (1, 3, 5)
    ]
    assert contrast("#" + "".join(f"{part:02x}" for part in mixed), colours["ink"]) >= 4.5  # numbers in cells


def test_css_has_both_themes_and_paper_is_light() -> None:
    assert "@media screen and (prefers-color-scheme:dark)" in css()
    assert css().count("--c8:") == 2


def test_cells_are_opaque_by_value() -> None:
    pixels = cells(np.array([[0.0, 1.0], [2.0, NAN]]))
    assert pixels[0, 0, 3] == pixels[1, 1, 3] == 0
    assert 0 < pixels[0, 1, 3] < pixels[1, 0, 3] == pytest.approx(MOST_OPACITY)


def test_numbers_of_a_figure() -> None:
    picture = seed_scores("s", "t", ["a", "b"], [np.array([0.2, 0.4]), np.array([0.5])], "top1")
    assert picture.data["mean"] == pytest.approx([0.3, 0.5])
    assert picture.data["std"] == pytest.approx([np.std([0.2, 0.4], ddof=1), 0])
    assert "a 0.300 ± 0.141" in picture.description
    assert label("x" * 40) == "x" * 29 + "..."

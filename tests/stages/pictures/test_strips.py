"""Strips: frames as pictures in an SVG, with boxes in pixels of the video."""

import base64
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinegraph.stages.pictures.strips import CAPTION_PX, SHORT_PX, Heat, Strip, StripFrame, data_uri, strip_svg, webp

SVG = "{http://www.w3.org/2000/svg}"
PIXELS = np.full((480, 640, 3), 90, np.uint8)
BOXES = np.array([[0.0, 0, 320, 240], [64, 48, 128, 96]])


def frame(**given: object) -> StripFrame:
    return StripFrame(**{"image": "data:image/webp;base64,AAAA", "width": 640, "height": 480} | given)  # type: ignore[arg-type]


def test_boxes_lie_where_the_video_has_them() -> None:
    root = ET.fromstring(strip_svg([frame(boxes=BOXES)] * 3, "words", columns=2))
    width = SHORT_PX * 640 / 480
    inner = root.findall(f"{SVG}svg")
    assert [float(each.get("x", "")) for each in inner] == pytest.approx([0, width + 6, 0], abs=0.1)
    assert [float(each.get("y", "")) for each in inner] == [0, 0, SHORT_PX + CAPTION_PX]
    shown = inner[0].findall(f"{SVG}g/{SVG}rect")
    assert len(shown) == 4  # a dark edge and a light line for each box
    assert float(shown[0].get("width", "")) == pytest.approx(width / 2, abs=0.1)
    assert [float(shown[3].get(name, "")) for name in ("x", "y")] == pytest.approx([width / 10, SHORT_PX / 10], abs=0.1)


def test_links_names_and_the_chosen_box() -> None:
    shown = frame(boxes=BOXES, names=["<first>", "second"], links=["/a?x=1&y=2", "/b"], chosen=1, caption="\x001 s")
    svg = strip_svg([shown], 'a "strip"')
    root = ET.fromstring(svg)
    assert root.get("role") == "group"
    links = root.findall(f".//{SVG}a")
    assert [link.get("href") for link in links] == ["/a?x=1&y=2", "/b"]
    assert [link.get("aria-label") for link in links] == ["<first>", "second"]
    assert [title.text for title in root.iter(f"{SVG}title")] == ["<first>", "second"]
    assert svg.count("#ffb000") == 1
    assert "\\x001 s" in "".join(root.itertext())
    assert ET.fromstring(strip_svg([frame()], "w")).get("role") == "img"


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_heat_map_lies_in_its_rectangle(mirrored: bool) -> None:
    """The hot cell is the first one of the upper row, or its last one of a mirrored crop."""
    shares = np.array([[1.0, 0.5, 0], [0, 0, np.nan]])
    rectangle = (480, 120, 160, 360) if mirrored else (160, 120, 480, 360)
    svg = strip_svg([frame(heat=Heat(shares=shares, rectangle=rectangle))], "words")
    image = ET.fromstring(svg).findall(f"{SVG}svg/{SVG}image")[1]
    scale = SHORT_PX / 480
    places = [float(image.get(key, "")) for key in ("x", "y", "width", "height")]
    assert places == pytest.approx([160 * scale, 120 * scale, 320 * scale, 240 * scale], abs=0.1)
    content = base64.b64decode(image.get("href", "").partition("base64,")[2])
    opacity = np.asarray(Image.open(io.BytesIO(content)))[..., 3]
    assert opacity[:, :: -1 if mirrored else 1].tolist() == [[204, 51, 0], [0, 0, 0]]


@pytest.mark.parametrize("boxes", [np.empty((0, 4)), np.full((1, 4), np.nan), np.array([[9.0, 9, 2, 2]])])
def test_odd_boxes_and_no_frames(boxes: np.ndarray) -> None:
    ET.fromstring(strip_svg([frame(boxes=boxes, width=0, height=0, path=[(1, 2), (3, np.inf)])], "w"))
    ET.fromstring(strip_svg([], "w"))


def test_pictures_are_small_and_strips_are_written(tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(webp(PIXELS)))
    assert (image.format, image.size) == ("WEBP", (299, 224))
    assert webp(PIXELS) == webp(PIXELS)
    strip = Strip(name="s", title="a $ <b>", description="d", frames=[frame(image=data_uri(PIXELS))])
    strip.savefig(tmp_path / "strip.svg")
    assert ET.parse(tmp_path / "strip.svg").getroot().get("aria-label") == "a $ <b>. d"
    assert strip._repr_svg_() == strip.svg()
    with pytest.raises(ValueError, match=r"as \.svg alone"):
        strip.savefig(tmp_path / "strip.pdf")

"""Pages of `browse`, asked in this process: what they show, and that nothing in a cache is run or breaks them."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np
import pytest

from kinegraph.cache_schemas.cache import CLASSES, Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.browsing import clip_pages, neighbours
from kinegraph.pipeline.browsing.server import _listening
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.stage import clips_options
from kinegraph.stages.errors import UsageError
from tests.pipeline.browsing.conftest import Browsed
from tests.pipeline.conftest import Videos

HOSTILE = (
    "<script>alert(1)</script>", "two\nlines", 'quo"te\'s & <b>bold</b>', "\u202eright to left", "שלום", "$x_1$ _y",
    "javascript:alert(1)", "{{ 7 * 7 }}", "long" * 80,
)  # fmt: skip


def links(page: Any, start: str) -> list[str]:
    assert page.status_code == 200, page.text
    return [
        html.unescape(found) for found in re.findall(r'(?:href|src)="([^"]*)"', page.text) if found.startswith(start)
    ]


def bare_cache(root: Path, names: Iterator[str] | Any, classes: list[str]) -> Cache:
    """A cache with a row for each name and no sealed shard."""
    Cache.create(root, clips_options(ClipOptions()), {"kind": "zarr", "shard_clips": 64, "compression": "none"})
    storage = open_storage(root)
    storage.put(CLASSES, [json.dumps(classes).encode()])
    rows = [
        ClipRow(
            clip_id=f"{name}:0:center", video_id=name, path=f"/nowhere/{name}", split=name[:30], start_seconds=0.0,
            end_seconds=1.0, labels=(number % len(classes),), target_times=(0.0, 0.5), crop=(0.0, 0.0, 8.0, 8.0),
            frame_width=8, frame_height=8,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    ClipsTable.from_rows(rows).write(storage)
    return Cache(root)


def test_from_the_grid_to_a_box_and_its_neighbours(whole: Cache, browsed: Browsed) -> None:
    client = browsed(whole)
    grid = client.get("/", params={"class": "left", "status": "ok"})
    clips = links(grid, "/clips/")
    assert sum(link.endswith(".webp") for link in clips) == 3
    page = client.get(next(link for link in clips if not link.endswith(".webp")))
    assert "<bdi>left/v1.mp4:0:center</bdi></h1>" in page.text
    back = urlsplit(links(page, "/?")[0])
    assert parse_qs(back.query) == {"class": ["left"], "status": ["ok"], "page": ["1"]}
    pictures = [link for link in links(page, "/clips/") if ".webp" in link]
    assert len(pictures) == 4
    assert {client.get(link).headers["content-type"] for link in pictures} == {"image/webp"}
    box = next(link for link in links(page, "/clips/") if "/boxes/" in link)
    near = client.get(box)
    assert "In other videos" in near.text
    assert "In this clip" in near.text
    shown = {urlsplit(link).path.split("/")[2] for link in links(near, "/clips/") if "/boxes/" in link}
    assert shown > {urlsplit(box).path.split("/")[2]}
    assert client.head(box).content == b""


def test_boxes_by_number_and_score(whole: Cache, browsed: Browsed) -> None:
    client = browsed(whole)
    counts = [
        client.get("/clips/0", params=query).text.count("/boxes/")
        for query in ({}, {"boxes": "1"}, {"boxes": "0"}, {"least": "1000"}, {"least": "-1000"})
    ]
    assert counts[1] <= 4
    assert counts[0] == counts[4] > counts[1] > 0 == counts[2] == counts[3]


def test_a_frame_with_boxes_and_without_regions(
    whole: Cache, browsed: Browsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone may make regions of every second frame with boxes alone."""
    for module in (clip_pages, neighbours):
        monkeypatch.setattr(module, "box_frames_of", lambda cache, spec: np.array([0, 2, 2, 3]))
    client = browsed(whole)
    refused = client.get("/clips/0/frames/1/boxes/0").text
    assert "Frame 1 has boxes and no regions. Regions are of the frames 0, 2, 3." in refused
    near = client.get("/clips/0/frames/2/boxes/0").text
    assert "In other videos" in near
    shown = [link.split("/")[4] for link in re.findall(r'href="(/clips/[^"]*/boxes/[^"]*)"', near)]
    assert {*shown} <= {"0", "2", "3"}


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/clips/6", 404, "There is no clip 6: the cache has 6"),
        ("/clips/x", 404, "There is no such page."),
        ("/../../etc/passwd", 404, "There is no such page."),
        ("/?page=0", 400, "page: given &#39;0&#39;, expected a whole number from 1 on."),
        ("/clips/0?boxes=many", 400, "boxes: given &#39;many&#39;"),
        ("/clips/0?least=much", 400, "least: given &#39;much&#39;, expected a number."),
        ("/clips/0/frames/99.webp", 404, "has 8 frames"),
        ("/clips/0/frames/0/boxes/99", 200, "This clip has no box 99 in frame 0."),
        ("/clips/0/frames/9/boxes/0", 200, "This clip has no box 0 in frame 9."),
        ("/?page=999", 200, "left/v1.mp4"),
    ],
)
def test_addresses_that_do_not_exist(whole: Cache, browsed: Browsed, address: str, status: int, words: str) -> None:
    answer = browsed(whole).get(address)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_a_film_is_served_in_parts(whole: Cache, browsed: Browsed, tmp_path: Path) -> None:
    client = browsed(whole)
    assert '<video controls loop preload="auto" src="/clips/0/film"' in client.get("/clips/0/play").text
    film = client.get("/clips/0/film")
    assert film.headers["content-type"] == "video/mp4"
    (tmp_path / "film.mp4").write_bytes(film.content)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert len([*container.decode(video=0)]) == 13
    part = client.get("/clips/0/film", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, film.content[10:20])
    assert client.get("/clips/0/film", headers={"Range": "bytes=99999999-"}).status_code == 416


def test_failed_clips_have_the_words_of_the_decoder(windows_cache: Cache, browsed: Browsed) -> None:
    client = browsed(windows_cache)
    page = client.get("/failures")
    assert "1 failed clip." in page.text
    (record, *_) = [record for record in windows_cache.ledger.records("clips") if record.failures]
    words = html.escape(record.failures[0].detail)
    assert words in page.text
    (link,) = links(page, "/clips/")
    failed = client.get(link)
    assert "Failed in <bdi>clips</bdi>: unreadable." in failed.text
    assert words in failed.text
    assert client.get("/failures", params={"reason": "timeout"}).text.count("<td><a") == 0


def test_a_video_that_is_damaged_now(whole: Cache, browsed: Browsed, shared_videos: Videos, video_folder: Path) -> None:
    """Frames, film and page say so, and other clips are as before."""
    (shared_videos.root / "left/v1.mp4").write_bytes(b"no video any more")
    client = browsed(whole)
    page = client.get("/clips/0")
    assert "Boxes are not drawn: the video has changed since it was extracted." in page.text
    assert "/boxes/" not in page.text
    for link in ("/clips/0/middle.webp", "/clips/0/frames/0.webp?every=2"):
        picture = client.get(link)
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/svg+xml")
        assert "unreadable" in picture.text
    played = client.get("/clips/0/play")
    assert (played.status_code, "cannot be played" in played.text, "<video" in played.text) == (200, True, False)
    assert client.get("/clips/0/film").status_code == 404
    assert "/boxes/" in client.get("/clips/1").text


def test_a_video_that_is_replaced_while_pages_are_open(
    whole: Cache, browsed: Browsed, shared_videos: Videos, video_folder: Path
) -> None:
    """No page shows boxes on the new video, and none shows frames of the old one."""
    client = browsed(whole)
    picture, film = (client.get(f"/clips/0/{name}").content for name in ("middle.webp", "film"))
    box, other = "/clips/0/frames/0/boxes/0", "/clips/1/frames/0/boxes/0"
    drawn = [client.get(page).text.count('<rect class="line') for page in (box, other)]
    told = "The video has changed since it was extracted."
    assert told not in client.get("/clips/0/play").text
    video = shared_videos.root / "left/v1.mp4"
    video.write_bytes((shared_videos.root / "right/v2.mp4").read_bytes())
    now = [client.get(page).text for page in (box, other)]
    no_box = [page.count("No box is drawn: <bdi>the video has changed since it was extracted</bdi>.") for page in now]
    assert no_box[0] > 1, "the box itself, and its neighbours in the clip"
    assert no_box[1] > 0, "neighbours in another video"
    left = [old - new for old, new in zip(drawn, no_box, strict=True)]
    assert [page.count('<rect class="line') for page in now] == left
    assert client.get("/clips/0/middle.webp").content != picture
    assert client.get("/clips/0/film").content != film
    assert told in client.get("/clips/0/play").text
    for chunk in [*Path(whole.root, "data.zarr/proposals/boxes").glob("c.*")]:
        chunk.unlink()
        chunk.write_bytes(b"damaged")
    page = browsed(whole).get(other)
    assert (page.status_code, "No box is drawn: <bdi>the boxes cannot be read" in page.text) == (200, True)


def test_videos_elsewhere(
    whole: Cache, browsed: Browsed, shared_videos: Videos, video_folder: Path, tmp_path: Path
) -> None:
    (shared_videos.root / "left").rename(tmp_path / "left")
    client = browsed(whole)
    assert client.get("/").text.count("no file</span>") == 3
    page = client.get("/clips/0")
    assert "missing: no file" in page.text
    assert "give --videos ROOT" in page.text
    assert "Facts" in page.text
    moved = browsed(whole, videos=tmp_path)
    assert "no file" not in moved.get("/").text
    assert moved.get("/clips/0/middle.webp").headers["content-type"] == "image/webp"
    with pytest.raises(UsageError, match=r"--videos .*nowhere: no such folder"):
        browsed(whole, videos=tmp_path / "nowhere")


def test_hostile_names_are_shown_and_not_run(tmp_path: Path, browsed: Browsed) -> None:
    client = browsed(bare_cache(tmp_path / "cache", HOSTILE, [*HOSTILE]))
    for address in ("/", "/clips/0", "/clips/1", "/clips/3", "/failures"):
        page = client.get(address)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<b>bold" not in page.text
        assert "\u202e" not in page.text
        assert re.findall(r"<script(?! src=\"/browse.js\" defer>)", page.text) == []
    grid = client.get("/").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in grid
    assert "two\\nlines" in grid
    assert "{{ 7 * 7 }}" in grid
    options = {html.unescape(value) for value in re.findall(r'<option value="([^"]+)"', grid)}
    for name in ("two\\nlines", "<script>alert(1)</script>", "\\u202eright to left"):
        assert name in options
        assert [*filter(None, {"1 clip." in client.get("/", params={key: name}).text for key in ("class", "split")})]
    refused = client.get("/clips/0/play")
    assert "cannot be played" in refused.text
    assert "<script>alert" not in refused.text
    assert "<script>" not in client.get("/clips/0/middle.webp").text


def test_ten_thousand_classes(tmp_path: Path, browsed: Browsed) -> None:
    client = browsed(
        bare_cache(tmp_path / "cache", [f"v{n}" for n in range(60)], [f"class {n}" for n in range(10_000)])
    )
    page = client.get("/", params={"class": "class 5"})
    assert "1 clip." in page.text
    assert "11 clips." in client.get("/", params={"class": "LASS 5"}).text
    assert len(page.content) < 20_000
    assert "Page 1 of 2" in client.get("/").text


def test_the_server_listens_on_this_machine_alone() -> None:
    with _listening(0) as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(UsageError, match=f"--port {port}: another program uses this port"):
            _listening(port)

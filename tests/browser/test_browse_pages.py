"""Pages of `browse` in headless Chromium: quiet, within the window, without a violation, and used as people use them.

`make test-browser` runs these tests. With KINEGRAPH_SCREENSHOTS=FOLDER they leave pictures of the pages there.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.browsing.server import _listening, application, open_site
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from tests.conftest import six_videos, tiny_stages
from tests.pipeline.browsing.test_pages import HOSTILE, bare_cache

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
IN_BOTH_THEMES = ("grid", "clip", "failed", "box")  # pages with all colours between them
PLAYS = """video => new Promise(done => video.readyState >= 2 ? done(video.videoWidth)
    : video.addEventListener("loadeddata", () => done(video.videoWidth)))"""
WIDTHS, THEMES, TOKEN = (390, 1280, 1920), ("light", "dark"), "secret"
PATHS = {
    "grid": "/", "clip": "/clips/1", "failed": "/clips/0", "box": "/clips/1/frames/0/boxes/0", "play": "/clips/1/play",
    "failures": "/failures", "runs": "/runs", "nothing": "/?name=nothing",
}  # fmt: skip


@contextmanager
def served(cache: Cache, folder: Path) -> Iterator[str]:
    """Serves the pages of a cache in a thread, and yields their address without the token."""
    folder.mkdir()
    listening = _listening(0)
    port = int(listening.getsockname()[1])
    app = application(open_site(cache.root, folder), port=port, token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cache of all stages, in which the first of seven videos has failed."""
    root = tmp_path_factory.mktemp("browse")
    videos = six_videos(root / "videos")
    (videos / "left" / "bad.mp4").write_text("no video")
    inline = {"run": {"executor": "inline", "threads": 1, "batch_size": 2}, "tracks": {}}
    config = check_config(tiny_stages(root / "cache", videos) | inline, "browse")
    index(config)
    extract(config)
    with served(Cache(config.cache), root / "films") as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("hostile")
    with served(bare_cache(root / "cache", HOSTILE, [*HOSTILE]), root / "films") as found:
        yield found


class Visitor:
    """A browser that has been let in. It notes messages, failed answers and requests to other places."""

    def __init__(self, browser: "Browser", address: str, theme: str = "light", width: int = 1280) -> None:
        self.faults: list[str] = []
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, 0))
        self.page.on("response", lambda response: self._note(response.url, response.status))
        self.page.goto(f"{address}/?token={TOKEN}")
        assert self.page.url == f"{address}/"

    def _note(self, url: str, status: int) -> None:
        if not url.startswith(self.address) or status > 399:
            self.faults.append(f"{status} {url}")

    def go(self, path: str) -> "Page":
        self.page.goto(self.address + path)
        return self.page


@pytest.mark.parametrize("theme", THEMES)
def test_pages_are_quiet_fit_and_have_no_violation(browser: "Browser", address: str, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for width in WIDTHS:
        visitor = Visitor(browser, address, theme, width)
        for name in PATHS if theme == THEMES[0] else IN_BOTH_THEMES:
            page = visitor.go(PATHS[name])
            sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert sizes[0] <= sizes[1], (name, width)
            if width == WIDTHS[0]:
                results = Axe().run(page)
                assert results.violations_count == 0, results.generate_report()
            if folder := os.environ.get("KINEGRAPH_SCREENSHOTS"):
                page.wait_for_load_state("networkidle")
                page.screenshot(path=Path(folder) / f"browse-{name}-{theme}-{width}.png", full_page=True)
        assert visitor.faults == []
        visitor.context.close()


def test_from_a_failure_to_its_words_and_back(browser: "Browser", address: str) -> None:
    visitor = Visitor(browser, address)
    page = visitor.page
    page.select_option("select[name=status]", "failed")
    page.click("button[type=submit]")
    page.locator(".card a").click()
    assert "Failed in clips: unreadable" in page.locator(".problem").first.inner_text()
    page.click("text=Back to the clips")
    assert "status=failed" in page.url
    assert page.locator(".card").count() == 1
    assert visitor.faults == []
    visitor.context.close()


def test_a_box_by_the_keyboard_and_a_film(browser: "Browser", address: str) -> None:
    visitor = Visitor(browser, address)
    page = visitor.go("/clips/1")
    page.locator(".strip svg a").first.focus()
    assert page.locator("#box-name").inner_text().startswith("box 3, score")
    page.keyboard.press("Enter")
    page.wait_for_url("**/boxes/3**")
    assert page.locator(".card").count() > 3
    page.click("text=Back to the clip")
    page.wait_for_selector("text=Play")  # only the page of a clip has it
    page.wait_for_load_state()
    page.locator("body").press("ArrowRight")
    page.wait_for_url("**/clips/2**")
    page.click("text=Play")
    assert page.locator("video").evaluate(PLAYS) == 96
    assert visitor.faults == []
    visitor.context.close()


def test_names_are_shown_and_not_run(browser: "Browser", hostile: str) -> None:
    visitor = Visitor(browser, hostile)
    visitor.page.on("dialog", lambda dialog: visitor.faults.append(dialog.message))
    for path in ("/", "/clips/0", "/clips/2", "/failures"):
        page = visitor.go(path)
        assert page.locator("script:not([src])").count() == 0
    names = visitor.go("/").locator(".clip-name").all_inner_texts()
    assert "<script>alert(1)</script>:0:center" in names
    assert visitor.faults == []
    visitor.context.close()


def test_nobody_else_is_let_in(browser: "Browser", address: str) -> None:
    """Another browser of this machine, and a page of another server that asks for a picture or a frame."""
    visitor = Visitor(browser, address)
    stranger = browser.new_page()
    assert stranger.goto(f"{address}/").status == 403
    stranger.set_content(f'<iframe src="{address}/?token={TOKEN}"></iframe><img src="{address}/clips/1/middle.webp">')
    stranger.wait_for_load_state("networkidle")
    assert stranger.evaluate("document.querySelector('img').naturalWidth") == 0
    assert "Clips" not in [frame.title() for frame in stranger.frames]
    stranger.close()
    visitor.context.close()

"""The report in headless Chromium: no message, no request, no overflow, no violation, and it answers clicks and keys.

`make test-browser` runs these tests. With KINEGRAPH_SCREENSHOTS=FOLDER they leave pictures of the page there.
"""

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kinegraph.pipeline.reports.head_figures import HeadFigures
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.report import write_report
from kinegraph.stages.heads.build import build_head
from tests.made_reports import HOSTILE, WORDS, hostile_cache, write_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
WIDTHS, THEMES = (390, 1280, 1920), ("light", "dark")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a cache with hostile names, and of runs, compared with itself. Heads without training draw maps,
    messages and relations, so no section but those of scene graphs and of failures is absent.
    """
    root = tmp_path_factory.mktemp("browser")
    cache = hostile_cache(root)
    runs = write_runs(root / "runs", cache.root, [row.video_id for row in cache.clips.rows()])
    for folder in runs.glob("*/seed0"):
        (folder / "model.safetensors").touch()
    attributes = root / "attributes.csv"
    with attributes.open("w", newline="") as file:
        csv.writer(file).writerows([["class", "kind <b>"], *([name, "game & <i>"] for name in cache.classes)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Look, "head", untrained)
        report = write_report(
            [cache.root, str(runs)], root / "report.html", against=str(runs), attributes=str(attributes)
        )
    assert report.absent.keys() == {"Scene graphs"}
    return report.path


def untrained(look: Look, folder: Path, name: str) -> HeadFigures:
    """An ATR in place of the STRG of the runs, and a pooling head in place of the other."""
    kind, options = ("atr", {"reasoner": "graph"}) if name == "strg_joint" else ("avg_pool", {})
    spec = {key: it.shape for key, it in look.cache.readable().items()}
    return HeadFigures(look.samples, look.finder, name, build_head(kind, spec, 2, **options).eval())


class Visit:
    """A page that is open, and what it said and asked for."""

    def __init__(self, browser: "Browser", file: Path, theme: str, width: int) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(
            offline=True,
            viewport={"width": width, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        if folder := os.environ.get("KINEGRAPH_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{file.stem}-{theme}-{width}.png", full_page=True)


@pytest.mark.parametrize("theme", THEMES)
def test_the_page_is_quiet_fits_and_has_no_violation(browser: "Browser", page_file: Path, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for width in WIDTHS:
        visit = Visit(browser, page_file, theme, width)
        assert visit.messages == []
        assert [url for url in visit.requests if not url.startswith(("file:", "data:"))] == []
        sizes = visit.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1], width
        if width != 1920:
            results = Axe().run(visit.page)
            assert results.violations_count == 0, results.generate_report()
        visit.context.close()


def test_clicks_and_keys(browser: "Browser", page_file: Path) -> None:
    visit = Visit(browser, page_file, "light", 1280)
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    failed = page.locator("#failures")
    assert WORDS in failed.inner_text()
    field = failed.locator("input[type=search]")
    field.fill("nothing like this")
    assert failed.locator("tbody").last.locator("tr:visible").count() == 0
    assert "0 of 1 rows" in failed.inner_text()
    field.fill("ONERROR")
    assert failed.locator("tbody").last.locator("tr:visible").count() == 1
    heads = page.locator("#heads table.sortable").first
    first = lambda: heads.locator("tbody tr td").first.inner_text()  # noqa: E731
    assert first() == "strg_joint"
    score = heads.locator("th button", has_text="test top1")
    score.focus()
    page.keyboard.press("Enter")
    assert first() == "avg_pool"
    assert score.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert first() == "strg_joint"
    details = page.locator("#coverage details", has_text="Clips by class and split (").first
    details.locator("summary").click()
    assert HOSTILE[0] in details.inner_text()
    page.locator("nav a", has_text="Clips").last.click()
    assert page.locator("#clips image").first.evaluate("node => node.getBBox().width") > 100
    assert visit.messages == []
    visit.context.close()


def test_injected_code_does_not_run_and_the_page_prints(browser: "Browser", page_file: Path, tmp_path: Path) -> None:
    """The policy of the page holds even if somebody writes into the file."""
    text = page_file.read_text(encoding="utf-8")
    added = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("<footer>", added + "<footer>"), encoding="utf-8")
    visit = Visit(browser, changed, "light", 1280)
    assert visit.page.title() != "run"
    assert any("Content Security Policy" in message for message in visit.messages)
    visit.context.close()
    visit = Visit(browser, page_file, "dark", 1280)
    assert visit.page.pdf(format="A4").startswith(b"%PDF")
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(254, 254, 254)"
    visit.context.close()

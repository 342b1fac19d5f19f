"""A report replaces no file of a cache, and none that no report wrote. Its page has at most 20 MB."""

from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports import report as reporting
from kinegraph.pipeline.reports.outputs import require_own
from kinegraph.pipeline.reports.page import MOST_BYTES
from kinegraph.pipeline.reports.report import WrittenReport, rendered, write_report
from kinegraph.pipeline.reports.section import Absent, ReportFigure, ReportTable, Section
from kinegraph.pipeline.training.results import unfinished_runs
from kinegraph.stages.errors import UsageError
from kinegraph.stages.pictures.strips import Strip, StripFrame
from tests.made_reports import write_runs


@pytest.mark.parametrize("name", ["clips.parquet", "data.zarr/new.json", "report.htm", "ledger/report"])
def test_files_of_a_cache_are_refused(hostile: Cache, name: str) -> None:
    file = Path(hostile.root, name)
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(UsageError, match=r"--out .*: lies in the cache .*\. Name a file that ends with \.html"):
        write_report([hostile.root], file)
    assert (file.read_bytes() if file.exists() else None) == before
    with pytest.raises(UsageError, match=r"--failures .* ends with \.csv"):
        require_own(Path("new.html"), None, file)
    with pytest.raises(UsageError, match=r"--figures .*: lies in the cache"):
        require_own(Path("new.html"), Path(hostile.root, "figures"), None)


def test_files_that_no_report_wrote_are_refused(
    hostile: Cache, tmp_path: Path, written: tuple[WrittenReport, str]
) -> None:
    mine, empty = tmp_path / "mine.html", tmp_path / "empty"
    mine.write_text("<!doctype html><p>mine")
    empty.touch()
    with pytest.raises(UsageError, match=r"mine\.html: is a file that no report wrote"):
        require_own(mine, None, None)
    with pytest.raises(UsageError, match=r"--failures .*mine\.html: is a file that no report wrote"):
        require_own(tmp_path / "new.html", None, mine)
    link = tmp_path / "link"
    link.symlink_to(hostile.root, target_is_directory=True)
    with pytest.raises(UsageError, match="lies in the cache"):
        require_own(link / "clips.parquet", None, None)
    page, table = written[0].path, written[0].path.parent / "failures.csv"
    for out in (page, empty, tmp_path / "new.html", Path(hostile.root, "new.html")):
        require_own(out, tmp_path / "figures", table)


def test_a_page_has_at_most_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips go first, then rows of tables. Measured are the bytes of the page itself."""
    frame = StripFrame(image="data:image/webp;base64," + "A" * 40_000, width=4, height=3)
    strip = Strip(name="strip", title="t", description="d", frames=[frame])
    rows = [["x" * 90, str(at)] for at in range(1_000)]
    table = ReportTable(caption="Rows", header=["a", "b"], rows=rows)
    monkeypatch.setattr(reporting, "SECTIONS", tuple((name, name, None) for name in ("attention", "rows")))
    sections: dict[str, Section | Absent] = {
        "attention": Section([]), "rows": Section([table, ReportFigure(strip, "")])
    }  # fmt: skip
    whole, page = rendered("title", [], sections)
    assert page.left_out == 0
    assert len(whole) < MOST_BYTES == 20_000_000
    told = []
    for most in (len(whole), len(whole) - 30_000, 70_000, 20_000):
        monkeypatch.setattr(reporting, "MOST_BYTES", most)
        html, page = rendered("title", [], sections)
        assert len(html) <= most
        told.append((page.left_out, "rows left out: a page has at most 20 MB" in html.decode()))
    assert told == [(0, False), (1, False), (1, True), (1, True)]
    monkeypatch.setattr(reporting, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match="and at most 100 B are allowed"):
        rendered("title", [], sections)


def test_unfinished_runs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path / "runs", str(tmp_path / "gone"), seeds=(0,))
    for name in ("avg_pool/seed0", "avg_pool/seed1"):
        (runs / name).mkdir(exist_ok=True)
        (runs / name / "state.pt").touch()  # seed 0 is finished: it has results
    assert unfinished_runs(runs) == [runs / "avg_pool/seed1"]
    monkeypatch.setattr(reporting, "SECTIONS", reporting.SECTIONS[:1])
    report = write_report([str(runs)], tmp_path / "report.html")
    told = f"1 run is not finished, so no score or figure has them ({runs / 'avg_pool/seed1'})."
    assert report.unfinished == f"{told} `kinegraph train CONFIG` goes on."
    assert "1 run is not finished" in report.path.read_text()
    with pytest.raises(UsageError, match=r"no folder of trained runs .* 1 run is not finished"):
        write_report([str(runs / "avg_pool/seed1")], tmp_path / "other.html")

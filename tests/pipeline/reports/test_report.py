"""The page: its sections, its safety, its figures, and what it says of odd input."""

import csv
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinegraph
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports import page as pages
from kinegraph.pipeline.reports import report as reporting
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.page import Page
from kinegraph.pipeline.reports.published import PUBLISHED
from kinegraph.pipeline.reports.report import SECTIONS, WrittenReport, write_report
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, ReportTable, Section
from kinegraph.pipeline.training.results import find_results
from kinegraph.stages.errors import UsageError
from kinegraph.stages.pictures.strips import Strip
from tests.made_reports import HOSTILE, WORDS, write_runs

Written = tuple[WrittenReport, str]


class Tags(HTMLParser):
    """Collects tags with their attributes, ids, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(contents: Contents, *names: str) -> dict[str, Any]:
    """The sections `names`."""
    return {name: make(contents) for name, _, make in SECTIONS if name in names}


def words(section: Any) -> str:
    return " ".join(part.text for part in section.parts if isinstance(part, Paragraph))


def test_a_report_has_every_section_with_content(written: Written) -> None:
    report, text = written
    page = Tags(text)
    names = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert names == [name for name, _, _ in SECTIONS]
    without_weights = {"Class activation maps", "Graphs"}
    assert report.absent.keys() == {"Comparison", "Scene graphs", *without_weights}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "href" in attributes]
    assert {f"#{name}" for name in names} <= set(links)
    assert report.num_figures >= 20
    assert report.num_bytes == len(text.encode()) < 1_000_000


def test_every_section_says_why_it_is_absent() -> None:
    for name, _, make in SECTIONS:
        section = make(Contents(why_no_cache="the reason"))
        assert isinstance(section, Absent), name
        assert section.reason.endswith((".", "reason"))


def test_hostile_names_are_text(written: Written) -> None:
    _, text = written
    page = Tags(text)
    assert HOSTILE[0] in page.text
    assert "cost $5_a$\\n\\u202etxet" in page.text
    assert WORDS in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # the page's own
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "link", "object")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_the_page_asks_nothing_from_elsewhere(written: Written) -> None:
    _, text = written
    page = Tags(text)
    addresses = [
        value or "" for _, attributes in page.tags for name, value in attributes.items()
        if name.rpartition(":")[2] in ("href", "src", "action", "data")
    ]  # fmt: skip
    assert addresses
    assert all(address.startswith(("#", "data:image/webp;base64,", "data:image/png;base64,")) for address in addresses)
    without = re.sub(r'xmlns(:\w+)?="[^"]+"', "", text).replace("https://evil.example", "")
    assert "http://" not in without
    assert "https://" not in without
    (policy,) = [at["content"] for tag, at in page.tags if tag == "meta" and at.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_no_id_and_no_name_of_a_region_occurs_twice(written: Written) -> None:
    tags = Tags(written[1]).tags
    ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    regions = Counter(attributes["aria-label"] for _, attributes in tags if attributes.get("role") == "region")
    assert [name for name, count in regions.items() if count > 1] == []
    assert "Clips by stage, figure" in regions
    assert re.search(r"var\(--\w+,", written[1]) is None, "the page defines all variables, so it needs no other colours"


def test_two_reports_are_equal(hostile: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are compared in tests/stages/pictures; here are tables, samples and strips."""
    few = [
        entry for entry in SECTIONS if entry[0] in ("attention", "provenance", "disk-and-time", "clips", "neighbours")
    ]
    monkeypatch.setattr(reporting, "SECTIONS", tuple(few))
    contents = []
    for name in ("one.html", "two.html"):
        write_report([hostile.root], tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_attention_comes_first_and_names_what_is_odd(written: Written) -> None:
    section = written[1].partition('<section id="attention"')[2].partition("</section>")[0]
    text = Tags(section).text
    assert "Random weights: features/tiny, proposals" in text
    assert "1 clip of clips failed, 16.7% of all." in text
    assert "the best epoch is among the last" in text
    assert 'href="#failures"' in section


def test_figures_are_written_as_files(hostile: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [entry for entry in SECTIONS if entry[0] in ("attention", "disk-and-time", "clips")]
    monkeypatch.setattr(reporting, "SECTIONS", tuple(few))
    report = write_report([hostile.root], tmp_path / "report.html", figures=tmp_path / "figures")
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert len(files) == report.num_figures
    assert {"disk.pdf", "time.pdf", "sealed.pdf", "strip_1.svg"} <= files
    assert (tmp_path / "figures" / "disk.pdf").read_bytes().startswith(b"%PDF")


def test_figures_of_one_name_get_names_of_their_own(
    hostile: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads named a-b and a_b make figures of one name."""
    look = kinegraph.look(hostile)
    strip = Strip(name="coverage", title="", description="", frames=[], data={})

    def make(contents: Contents) -> Section:
        return Section([ReportFigure(look.coverage(), ""), ReportFigure(strip, "")])

    monkeypatch.setattr(reporting, "SECTIONS", (SECTIONS[0], ("one", "One", make), ("two", "Two", make)))
    report = write_report([hostile.root], tmp_path / "report.html", figures=tmp_path)
    files = {path.name for path in tmp_path.glob("coverage*")}
    assert files == {"coverage.pdf", "coverage_2.svg", "coverage_3.pdf", "coverage_4.svg"}
    assert report.num_figures == 4


def test_all_failures_are_written_as_a_file(written: Written) -> None:
    rows = [*csv.reader((written[0].path.parent / "failures.csv").read_text().splitlines())]
    assert rows[0] == ["video", "clip", "stages", "reason", "words"]
    assert rows[1][3:] == ["truncated", WORDS]
    assert "v0.mp4" in rows[1][0] or "v1.mp4" in rows[1][0]


def test_every_figure_of_the_page_is_a_method_of_look(hostile: Cache, tmp_path: Path) -> None:
    """The page has no other figures: it calls `kinegraph.look`, and the runs of a look."""
    look = kinegraph.look(hostile.root)
    videos = [row.video_id for row in hostile.clips.rows()]
    contents = Contents(look=look, runs=look.runs(write_runs(tmp_path / "runs", hostile.root, videos)))
    drawn = {
        part.drawing.name
        for _, _, make in SECTIONS
        for section in [make(contents)]
        if isinstance(section, Section)
        for part in section.parts
        if isinstance(part, ReportFigure)
    }
    again = {
        look.coverage(), look.classes(), look.durations(), look.frame_sizes(), look.disk(), look.time(), look.sealed(),
        look.boxes_a_frame(), look.scores_by_rank(), look.box_sizes(), look.box_centres(), look.box_cover(),
        look.box_overlaps(), contents.runs.heads(), contents.runs.curves("top1"),
        contents.runs.classes(), contents.runs.confusion(), contents.runs.calibration(),
    }  # fmt: skip
    assert {picture.name for picture in again} <= drawn
    arrays = look.samples.vector_arrays()
    of_arrays = {f"{kind}_{array.replace('/', '_')}" for kind in ("norms", "spread", "steps") for array in arrays}
    assert of_arrays <= drawn
    others = drawn - of_arrays - {picture.name for picture in again}
    of_names = r"(strip|mistake|class_maps|neighbours|curves|pca|tsne)_\w+"
    assert all(re.fullmatch(of_names, name) for name in others), others


def test_without_videos_frames_come_from_another_folder(hostile: Cache, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(hostile.root, root)
    cache = Cache(root)
    gone = cache.clips.with_paths([f"elsewhere/{row.video_id}" for row in cache.clips.rows()])
    gone.write(cache.storage)
    without = made(Contents(look=kinegraph.look(root)), "attention", "clips", "neighbours")
    assert "--videos ROOT" in without["clips"].reason
    assert "--videos ROOT" in without["neighbours"].reason
    assert isinstance(without["attention"], Section)
    folder = Path(hostile.rows(0)[0].path).parents[1]
    assert isinstance(made(Contents(look=kinegraph.look(root, videos=folder)), "clips")["clips"], Section)


def test_a_cache_that_grows_and_one_without_stages(hostile: Cache, tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    shutil.copytree(hostile.root, growing)
    cache = Cache(growing)
    for key in cache.stage_keys():
        cache.ledger.unseal(key, cache.num_shards - 1)
    section = made(Contents(look=kinegraph.look(growing)), "attention")["attention"]
    assert "The cache is incomplete: clips lacks 1 shard of 3" in words(section)
    assert kinegraph.look(growing).coverage().data["not run"].tolist() == [2] * 4
    for folder in ("stages", "ledger", "data.zarr"):
        shutil.rmtree(growing / folder)
    sections = made(Contents(look=kinegraph.look(growing)), *(name for name, _, _ in SECTIONS))
    assert "No stage has begun yet" in sections["provenance"].reason
    assert all(isinstance(sections[name], Absent) for name in ("features", "proposals", "clips", "failures"))
    assert "No stage has begun yet" in words(sections["attention"])


def test_runs_whose_cache_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path / "runs", str(tmp_path / "gone"))
    few = [entry for entry in SECTIONS if entry[0] in ("attention", "coverage", "heads")]
    monkeypatch.setattr(reporting, "SECTIONS", tuple(few))
    report = write_report([str(runs), str(runs / "avg_pool")], tmp_path / "report.html")  # a run counts once
    assert report.absent.keys() == {"Coverage"}
    assert "The cache of the runs cannot be opened. No cache at" in report.absent["Coverage"]
    assert "predictions-test.parquet" in made(Contents(runs=Runs(find_results(runs))), "classes")["classes"].reason
    text = Tags(report.path.read_text()).text
    assert "Charades mAP 36.2 (I3D, 50 boxes)" in text
    assert "0.810 ± 0.010" in text
    assert "0.310 ± 0.010" in text


def test_published_scores_are_those_of_the_papers() -> None:
    page = (Path(__file__).parents[3] / "docs" / "papers.md").read_text(encoding="utf-8")
    for score in PUBLISHED.values():
        assert f"| {score} |" in page


def test_places_that_do_not_go_together(hostile: Cache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such folder, looked from /"):
        write_report([str(tmp_path / "nowhere")], tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"is no cache .* and no folder of trained runs"):
        write_report([str(tmp_path)], tmp_path / "report.html")
    with pytest.raises(UsageError, match="are 2 caches"):
        write_report([hostile.root, hostile.root], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_page_drops_strips_that_it_has_no_room_for(hostile: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = made(Contents(look=kinegraph.look(hostile)), "attention", "clips")
    monkeypatch.setattr(pages, "MOST_STRIPS", 2)
    page = Page({name: name for name in sections})
    text = page.render("title", [], sections, "1")
    assert page.left_out >= 1
    assert f"{page.left_out} strip" in text
    assert "left out: no page has more than 2 strips" in text


def test_runs_of_several_caches_are_named(tmp_path: Path) -> None:
    """Heads that read different arrays of one cache may be compared."""
    found = find_results(write_runs(tmp_path, "one", seeds=(0,)))
    other = [(folder, run.model_copy(update={"cache_fingerprint": "g"})) for folder, run in found]
    assert "no comparison" not in str([*Runs([found[0], other[1]]).attention()])
    moved = [(folder, run.model_copy(update={"cache": "two"})) for folder, run in other]
    assert "trained on 2 caches (one, two). Scores on different" in str([*Runs([found[0], moved[1]]).attention()])


def test_a_control_of_other_classes_is_not_compared(hostile: Cache, tmp_path: Path) -> None:
    videos = [row.video_id for row in hostile.clips.rows()]
    runs = Runs(find_results(write_runs(tmp_path, hostile.root, videos, seeds=(0,))))
    control = runs.control()
    assert control is not None
    assert control[0] in runs.classes().data
    control[1].class_names = ("a", "b", "c")
    assert runs.control() is None
    assert "avg_pool" not in runs.classes().data


def test_10_000_classes(hostile: Cache, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(hostile.root, root)
    (root / "classes.json").write_text(json.dumps([f"class {number}" for number in range(10_000)]))
    look = kinegraph.look(root)
    sections = made(Contents(look=look), "attention", "coverage")
    assert "9,998 classes have no clip in split train" in words(sections["attention"])
    (table,) = [part for part in sections["coverage"].parts if isinstance(part, ReportTable)]
    assert (len(table.rows), table.closed) == (10_000, True)
    assert len(look.classes().data["label"]) == 40


def test_data_of_a_figure_becomes_a_table() -> None:
    table = pages.data_table("t", {"edges": np.arange(4.0), "clips": np.arange(3)})
    assert table is not None
    assert (table.header, table.rows) == (["from", "clips"], [["0", "0"], ["1", "1"], ["2", "2"]])
    long = pages.data_table("t", {"value": np.arange(1000)})
    assert long is not None
    assert (len(long.rows), long.note) == (59, "Every 17th row of 1,000.")
    assert pages.data_table("t", {"matrix": np.eye(3)}) is None


def test_table_of_curves_has_the_mean_of_the_seeds_that_have_a_value() -> None:
    y = np.array([[1.0, 2.0, np.nan, np.nan], [3.0, np.nan, 5.0, np.inf]])
    table = pages.data_table("t", {"x of avg_pool": np.arange(4), "y of avg_pool": y})
    assert table is not None
    assert table.rows == [["0", "2"], ["1", "2"], ["2", "5"], ["3", "nan"]]

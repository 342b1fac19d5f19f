"""A cache of six videos with made-up values and hostile names, and its report with runs. Made once, without torch."""

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports.report import WrittenReport, write_report
from tests.made_reports import hostile_cache, write_runs


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache with names that are HTML and mathematics, and a failed clip in each stage. Do not change it."""
    return hostile_cache(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def written(hostile: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[WrittenReport, str]:
    """The report of the hostile cache with runs, and its text."""
    root = tmp_path_factory.mktemp("report")
    runs = write_runs(root / "runs", hostile.root, [row.video_id for row in hostile.clips.rows()])
    places = [hostile.root, str(runs)]
    report = write_report(places, root / "report.html", failures=root / "failures.csv")
    return report, report.path.read_text(encoding="utf-8")

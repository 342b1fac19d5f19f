"""Scripts of benchmarks/ write JSON of one form, and docs/benchmarks.md is what the recorded JSON says."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import extraction, render, stores
from benchmarks.results import Case, report
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.pipeline.caches.declared import declare


def some_cases() -> list[Case]:
    return [
        Case(
            name="r50",
            unit="clips",
            amount=10,
            about="5 videos",
            seconds={"whole extraction": [1.0, 2.0, 1.0], "plain loop": [4.0, 7.0, 4.0]},
            left_out={"decoding, torchcodec": "torchcodec is not installed"},
        )
    ]


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    report("extraction", some_cases, tmp_path / "new" / "one.json", device="cpu", quick=True)
    found: dict[str, Any] = json.loads((tmp_path / "new" / "one.json").read_text())
    return found


def test_a_script_prints_ratios_and_writes_a_document(
    capsys: pytest.CaptureFixture[str], document: dict[str, Any]
) -> None:
    assert capsys.readouterr().out.splitlines()[1:] == [
        "r50, whole extraction / plain loop: 10 / 2.5 clips/s, ratio 4.00 (3.50 to 4.00)",
        "r50, left out: decoding, torchcodec: torchcodec is not installed",
    ]
    assert (document["schema"], document["benchmark"], document["quick"]) == (1, "extraction", True)
    assert {"machine", "versions", "date", "load", "load_after"} <= document.keys()
    assert document["cases"][0]["seconds"]["plain loop"] == [4.0, 7.0, 4.0]


def test_tables_are_rendered(document: dict[str, Any]) -> None:
    text = render.measured([document])
    assert "| whole extraction | 10 | 1 (1 to 2) | 1 (1 to 1) |" in text
    assert "| plain loop | 2.5 | 4 (4 to 7) | 4 (3.5 to 4) |" in text
    assert "Left out: decoding, torchcodec: torchcodec is not installed." in text
    assert "### Measured: extraction on cpu" in text
    assert "This was a quick run" in text
    assert "This was a quick run" not in render.measured([document | {"quick": False}])
    assert render.measured([]) == render.NONE_YET


def test_text_around_the_marks_stays(document: dict[str, Any]) -> None:
    text = f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n"
    made = render.page(text, [document])
    assert made.startswith(f"before\n{render.BEGIN}\n")
    assert made.endswith(f"\n{render.END}\nafter\n")
    assert "old" not in made
    assert render.page(made, [document]) == made
    with pytest.raises(ValueError, match="the marks"):
        render.page("no marks", [document])


def test_the_page_is_what_the_recorded_files_say() -> None:
    page = render.PAGE.read_text(encoding="utf-8")
    assert page == render.page(page, render.documents()), "run `python -m benchmarks.render`"


@pytest.mark.parametrize("case", extraction.CASES)
def test_configs_of_the_cases_are_valid(case: str, tmp_path: Path) -> None:
    config = extraction.config_of(case, tmp_path, num_clips=8, device="cuda", precision="bf16")
    assert {backbone.precision for backbone in config.backbones.values()} == {"bf16"}
    assert (config.run.device, config.run.batch_size, config.store.shard_clips) == ("cuda", 2, 4)
    assert any(key.startswith("regions/") for key in declare(config, {}).stages) == ("regions" in case)


# webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stores_write_and_read_the_same_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script itself compares what each store reads with what was written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stores, "SPEC", ArraySpec(**vars(stores.SPEC) | {"shape": (2, 3, 4)}))
    run: Callable[[], Any] = partial(stores.measured, 2 * stores.SHARD, 1)
    writing, reading = run()
    assert writing.seconds.keys() == reading.seconds.keys() == stores.STORES.keys()
    assert [*tmp_path.iterdir()] == []

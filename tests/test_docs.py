"""The documentation says what the code does."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator

import kinegraph
from kinegraph.cache_schemas.arrays import every_array
from kinegraph.cli.app import app
from kinegraph.pipeline.config import check_config, load_config
from kinegraph.pipeline.config_file import read_config_file
from kinegraph.pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_BYTES = {"README.md": 8_000, "docs/design.md": 12_000}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is a script."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generate: ModuleType) -> None:
    documents = generate.documents()
    assert {path.name for path in documents} == {"config.md", "config.schema.json", "cli.md", "python.md", "SPEC.md"}
    for path, text in documents.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `python docs/generate.py`"


def test_generated_pages_leave_nothing_out(generate: ModuleType) -> None:
    spec = generate.SPEC.read_text(encoding="utf-8")
    assert all(f"| `{array.name}` |" in spec for array in every_array())
    cli = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        assert command.hidden or f"## kinegraph {command.name}\n" in cli
        flags = [parameter.opts[0] for parameter in command.params if parameter.param_type_name == "option"]
        assert command.hidden or all(f"| `{flag}" in cli for flag in flags)
    python = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert all(f"### kinegraph.{name}\n" in python for name in kinegraph.__all__)
    assert (ROOT / "examples" / "training_loop.py").read_text(encoding="utf-8") in python


@pytest.mark.parametrize("page", MAX_BYTES)
def test_pages_that_are_read_first_are_short(page: str) -> None:
    assert len((ROOT / page).read_bytes()) <= MAX_BYTES[page]


def test_prose_of_the_readme_fits_80_columns() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("|")] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += [path for path, _ in links_of(page) if path in PAGES and path not in reached]
    assert set(PAGES) == reached


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    document = json.loads((ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_the_schema_takes_every_example(schema: Draft202012Validator) -> None:
    for path in [*(ROOT / "examples").rglob("*.yaml"), ROOT / "pipeline" / "demo.yaml"]:
        assert [error.message for error in schema.iter_errors(read_config_file(path))] == [], path


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("clips", {"num_frame": 8}),
        ("clips", {"num_frames": "many"}),
        ("clips", {"fps": 0}),
        ("dataset", {"kind": "folders", "root": "videos"}),
        ("dataset", {"kind": "interactions", "root": "videos", "annotations": "a.csv"}),
        ("backbones", {"i3d": {"model": "i3d_r50"}}),
        ("run", {"slurm": {"gpu": 1}}),
        ("cliips", {}),
    ],
)
def test_the_schema_refuses_what_kinegraph_refuses(
    schema: Draft202012Validator, section: str, keys: dict[str, Any]
) -> None:
    document = read_config_file(ROOT / "examples" / "real_videos.yaml") | {section: keys}
    assert not schema.is_valid(document)
    with pytest.raises(ConfigError):
        check_config(document, "test")


@pytest.mark.parametrize("path", [*(ROOT / "examples").rglob("*.yaml"), ROOT / "pipeline" / "demo.yaml"], ids=str)
def test_examples_are_valid(path: Path) -> None:
    load_config(path)


def links_of(page: Path) -> list[tuple[Path, str]]:
    """The files that a page links to, and the heading in each; those of the web are left out."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [((page.parent / path).resolve() if path else page, heading) for path, _, heading in links]


def headings(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    titles = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    links = links_of(page)
    rooms = "stages|pipeline|cache_schemas|cli|tests|examples|benchmarks|docs"
    named = re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.read_text(encoding="utf-8"))
    missing = [path for path in [*(path for path, _ in links), *(ROOT / name for name in named)] if not path.exists()]
    assert not missing
    pages = [(path, heading) for path, heading in links if heading]
    assert [(path, heading) for path, heading in pages if heading not in headings(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_taken_for_html(page: Path) -> None:
    """GitHub drops what looks like a tag, unless it is code."""
    text = re.sub(r"(?s)```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"))
    assert re.findall(r"<[a-zA-Z/].*", text) == []

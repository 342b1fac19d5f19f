"""The documentation says what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from pipeline.config import load_config

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.TARGET.read_text(encoding="utf-8") == generate.page(), "run `python docs/generate.py`"
    text = generate.SPEC.read_text(encoding="utf-8")
    assert text == generate.spec_page(), "run `python docs/generate.py`"
    assert all(f"| `{spec.name}` |" in text for spec in generate.array_specs())


@pytest.mark.parametrize("path", [*(ROOT / "examples").rglob("*.yaml"), ROOT / "pipeline" / "demo.yaml"], ids=str)
def test_examples_are_valid(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = {page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    named = {
        ROOT / name for name in re.findall(r"`((?:stages|pipeline|tests|examples|benchmarks|docs)/[\w./-]+)`", text)
    }
    missing = [path for path in links | named if not path.exists()]
    assert not missing

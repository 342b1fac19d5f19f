"""The documentation says what the code does."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kinegraph.cache_schemas.arrays import every_array
from kinegraph.pipeline.config import check_config, load_config
from kinegraph.pipeline.config_file import read_config_file
from kinegraph.pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.TARGET.read_text(encoding="utf-8") == generate.page(), "run `python docs/generate.py`"
    assert generate.SCHEMA.read_text(encoding="utf-8") == generate.schema(), "run `python docs/generate.py`"
    text = generate.SPEC.read_text(encoding="utf-8")
    assert text == generate.spec_page(), "run `python docs/generate.py`"
    assert all(f"| `{spec.name}` |" in text for spec in every_array())


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


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = {page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    named = {
        ROOT / name for name in re.findall(r"`((?:stages|pipeline|tests|examples|benchmarks|docs)/[\w./-]+)`", text)
    }
    missing = [path for path in links | named if not path.exists()]
    assert not missing

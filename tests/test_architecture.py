"""Imports point downwards, what must start at once is free of torch, and functions fit on a screen."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["cache_schemas", "stages", "pipeline", "cli"]  # each may import those before it
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_FUNCTION_LINES = 60

# Rooms of stages/, and the rooms beside them that they may not import: stage 1 and stage 2 meet only in the cache.
EXTRACTORS = {"decode", "backbones", "proposals", "regions", "scene_graphs"}
TRAINERS = {"heads", "training"}
FORBIDDEN = {"heads": {"decode"}} | dict.fromkeys(EXTRACTORS, TRAINERS)

WITHOUT_TORCH = [
    "cache_schemas.reader",
    "cache_schemas.hdf5_shards",
    "cache_schemas.zarr_shards",
    "pipeline.config",
    "pipeline.feed",
    "pipeline.indexing",
    "pipeline.plan",
    "pipeline.status",
    "pipeline.verification",
    "pipeline.upgrade",
    "pipeline.extraction",
    "pipeline.executors.slurm",
    "pipeline.exporting",
    "pipeline.exporting_npy",
    "pipeline.importing",
    "cli.app",
    "kinegraph",
]


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever the import stands, also under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)
    assert "cache_schemas.cache.Cache" in set(imported(ROOT / "pipeline" / "plan.py"))
    assert "pipeline.demo.run_demo" in set(imported(ROOT / "cli" / "heads.py")), "imports inside functions count"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    room, *rest = path.relative_to(ROOT).parts
    above = {*ROOMS[ROOMS.index(room) + 1 :], "kinegraph", "tests"}
    forbidden = FORBIDDEN.get(rest[0], set()) if room == "stages" else set()
    for module in imported(path):
        first, *below = module.split(".")
        assert first not in above, f"{module}: {room} may import {ROOMS[: ROOMS.index(room)]} only"
        assert not (first == "stages" and below and below[0] in forbidden), f"{module} in stages/{rest[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_packages_say_nothing_in_their_init() -> None:
    assert [path for path in FILES if path.name == "__init__.py" and path.read_bytes()] == []


def test_what_starts_at_once_imports_no_torch() -> None:
    """One process: each module in turn, with torch forbidden, and fsspec, which only a URL needs."""
    program = "import sys, importlib; sys.modules.update(torch=None, torchvision=None, fsspec=None)\n" + "\n".join(
        f"importlib.import_module({module!r})" for module in WITHOUT_TORCH
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr

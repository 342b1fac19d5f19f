"""Imports point downwards, what must start at once is free of torch, and functions fit on a screen."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["cache_schemas", "stages", "pipeline", "cli"]  # each may import those before it
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_FUNCTION_LINES = 60
MAX_BOXES, MAX_FLOORS = 20, 8  # of pipeline/: its wings and the files beside them

# Rooms of stages/, and the rooms beside them that they may not import: stage 1 and stage 2 meet only in the cache.
EXTRACTORS = {"decode", *(path.parent.name for path in (ROOT / "stages").glob("*/stage.py"))}
TRAINERS = {"heads", "training"}
FORBIDDEN = {"heads": {"decode"}, "pictures": {"decode", *TRAINERS}} | dict.fromkeys(EXTRACTORS, TRAINERS)

WITHOUT_TORCH = [
    "kinegraph.stages.kinds",
    "kinegraph.cache_schemas.reader",
    "kinegraph.cache_schemas.hdf5_shards",
    "kinegraph.cache_schemas.zarr_shards",
    "kinegraph.stages.pictures.curves",
    "kinegraph.stages.pictures.film",
    "kinegraph.stages.pictures.overlay",
    "kinegraph.pipeline.config",
    "kinegraph.pipeline.extraction.feed",
    "kinegraph.pipeline.caches.indexing",
    "kinegraph.pipeline.caches.plan",
    "kinegraph.pipeline.predicting.videos",
    "kinegraph.pipeline.status",
    "kinegraph.pipeline.caches.verification",
    "kinegraph.pipeline.reports.report",
    "kinegraph.pipeline.upgrading.upgrade",
    "kinegraph.pipeline.extraction.run",
    "kinegraph.pipeline.extraction.executors.slurm",
    "kinegraph.pipeline.extraction.worker",
    "kinegraph.pipeline.exchange.to_store",
    "kinegraph.pipeline.exchange.to_npy",
    "kinegraph.pipeline.exchange.to_coco",
    "kinegraph.pipeline.browsing.server",
    "kinegraph.pipeline.exchange.importing",
    "kinegraph.cli.app",
    "kinegraph",
]


@cache
def nodes(path: Path) -> list[ast.AST]:
    return [*ast.walk(ast.parse(path.read_text()))]


@cache
def imported(path: Path) -> list[str]:
    """Every module a file imports, wherever the import stands, also under TYPE_CHECKING."""
    return [*_imported(path)]


def _imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)
    assert "kinegraph.cache_schemas.cache.Cache" in set(imported(ROOT / "pipeline" / "caches" / "plan.py"))
    inside_functions = set(imported(ROOT / "cli" / "heads.py"))
    assert "kinegraph.pipeline.demo.run_demo" in inside_functions


def test_imports_point_downwards() -> None:
    assert [fault for path in FILES for fault in _wrong_imports(path)] == []


def _wrong_imports(path: Path) -> Iterator[str]:
    room, *rest = path.relative_to(ROOT).parts
    allowed = ROOMS[: ROOMS.index(room) + 1]
    forbidden = FORBIDDEN.get(rest[0], set()) if room == "stages" else set()
    for module in imported(path):
        package, *below = module.split(".")
        if package in {*ROOMS, "tests"}:
            yield f"{path}: {module}; the installed name is kinegraph.{module}"
        elif package == "kinegraph" and (not below or below[0] not in allowed):
            yield f"{path}: {module}; {room} may import {allowed} only"
        elif package == "kinegraph" and below[0] == "stages" and below[1] in forbidden:
            yield f"{path}: {module} in stages/{rest[0]}"


def imports_among(boxes: dict[str, str]) -> dict[str, set[str]]:
    """Which boxes the files of each box import; `boxes`: the box of each module."""
    below: dict[str, set[str]] = {box: set() for box in boxes.values()}
    for path in FILES:
        name = ".".join(("kinegraph", *path.relative_to(ROOT).with_suffix("").parts))
        for module in imported(path) if name in boxes else ():
            below[boxes[name]] |= {boxes[it] for it in (module, module.rpartition(".")[0]) if it in boxes}
    return below


MODULES = [".".join(("kinegraph", *path.relative_to(ROOT).with_suffix("").parts)) for path in FILES]


PASSED_ON = re.compile(r"\{(?![^{}]*sentence\()[^{}]*\b(error|fault)\b(?!\.strerror)[^{}]*\}\.(?=[ \"'])")


def test_words_that_are_passed_on_get_one_full_stop() -> None:
    """They may end with one already: `sentence` of cache_schemas/words.py adds what lacks."""
    assert PASSED_ON.search('f"{path}: {error}. Restore it."')
    assert not PASSED_ON.search('f"{path}: {sentence(error)} Restore it."')
    assert [str(path) for path in FILES if PASSED_ON.search(path.read_text())] == []


def test_imports_make_no_circle() -> None:
    """Those inside functions and under TYPE_CHECKING count: what two files know of each other belongs into a third."""
    below = imports_among({name: name for name in MODULES})
    assert "kinegraph.cache_schemas.cache" in below["kinegraph.pipeline.caches.plan"]
    TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


def test_wings_of_the_pipeline_make_no_circle_and_few_floors() -> None:
    boxes = {name: name.split(".")[2] for name in MODULES if name.startswith("kinegraph.pipeline.")}
    below = {box: found - {box} for box, found in imports_among(boxes).items() if box != "__init__"}
    floors: dict[str, int] = {}
    for box in TopologicalSorter(below).static_order():
        floors[box] = 1 + max((floors[found] for found in below[box]), default=0)
    assert floors["shards"] < floors["extraction"] < floors["training"]
    assert len(floors) <= MAX_BOXES
    assert max(floors.values()) <= MAX_FLOORS


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path}: {node.name}"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_packages_say_nothing_in_their_init() -> None:
    assert [path for path in FILES if path.name == "__init__.py" and path.read_bytes()] == []


def test_what_starts_at_once_imports_no_torch() -> None:
    """One process: each module in turn, with torch forbidden, and fsspec, which only a URL needs. Then heads, a network
    of ours and sources of proposals, which start without torchvision."""
    lines = [
        "import gc, importlib, os, sys",
        "gc.disable()",  # what is imported is no garbage; with it and without taking apart it takes half the time
        "sys.modules.update(torch=None, torchvision=None, fsspec=None)",
        *(f"importlib.import_module({module!r})" for module in WITHOUT_TORCH),
        "del sys.modules['torch']",
        "import kinegraph.pipeline.training.table, kinegraph.pipeline.predicting.predictor",
        "from kinegraph.stages.backbones.build import build_backbone",
        "build_backbone('tiny_i3d', 'random:0', ['res4'])",
        "import kinegraph.stages.proposals.run",
        "os._exit(0)",
    ]
    program = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr

"""Each config in examples/datasets passes `index` and `plan` on a tiny copy of the owners' layout.

The copy is written by the contract test of the data set: `tests/stages/datasets/test_<kind>.py`.
"""

import os
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from kinegraph.cli.app import app
from kinegraph.pipeline.config import load_config
from kinegraph.stages.datasets.folders import is_video
from tests.coded_videos import write
from tests.stages.datasets.owners_contract import OwnersContract

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples" / "datasets").glob("*.yaml"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 10 s."""
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", 100, 10, size=(64, 48))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.jpg"
    Image.new("RGB", (64, 48)).save(path)
    return path


def _contract(options: dict[str, object]) -> OwnersContract:
    """The contract test whose own options are all among `options`, those of an example."""
    module = import_module(f"tests.stages.datasets.test_{options['kind']}")
    contracts = [
        value for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, OwnersContract) and hasattr(value, "options")
    ]  # fmt: skip
    return next(each() for each in contracts if each.options.items() <= options.items())


def _fill(root: Path, clip: Path, image: Path) -> None:
    """Puts the same small video or image into each empty file."""
    for path in [path for path in root.rglob("*") if path.is_file() and not path.stat().st_size]:
        path.unlink()
        os.link(clip if is_video(path.name) else image, path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_index_and_plan(path: Path, tmp_path: Path, clip: Path, image: Path) -> None:
    dataset = load_config(path).dataset
    assert dataset is not None
    _contract(dataset.model_dump()).write(tmp_path)
    _fill(tmp_path / "videos", clip, image)
    places = {"dataset.root": tmp_path / "videos", "dataset.annotations": tmp_path, "cache": tmp_path / "cache"}
    settings = [part for key, place in places.items() for part in ("--set", f"{key}={place}")]
    for command in ("index", "plan"):
        result = CliRunner().invoke(app, [command, str(path), *settings])
        assert result.exit_code == 0, result.output
        assert "could not be opened" not in result.output
    assert "to write" in result.output

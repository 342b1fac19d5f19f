"""Commands run in this process, with their output and exit code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kinegraph.cli.app import app
from tests.caches import write_config

Command = Callable[..., Any]


@pytest.fixture
def kinegraph() -> Command:
    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def config(tmp_path: Path, tiny_document: dict[str, Any]) -> Path:
    run = {"executor": "inline", "threads": 1, "batch_size": 2}
    return write_config(tmp_path / "my.yaml", tiny_document | {"run": run})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"

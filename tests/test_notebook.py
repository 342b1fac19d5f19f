"""The notebook in examples/: it runs from the first cell to the last, and has no outputs in the repository."""

import json
import os
from pathlib import Path

import pytest

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from tests.conftest import six_videos, tiny_stages

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "explore.ipynb"


def test_it_has_no_outputs() -> None:
    code = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 8
    assert {(*cell["outputs"], cell["execution_count"]) for cell in code} == {(None,)}


@pytest.mark.notebook
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test-notebook` runs this. Three figures are drawn, and a head of one's own is trained and scored."""
    import nbformat
    from nbclient import NotebookClient

    inline = {"run": {"executor": "inline", "threads": 1, "batch_size": 2}}
    config = check_config(tiny_stages(tmp_path / "cache", six_videos(tmp_path / "videos")) | inline, "notebook")
    index(config)
    extract(config)
    monkeypatch.setenv("KINEGRAPH_DEMO", str(tmp_path))
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type != "execute_result"] == []
    drawn = [output for output in outputs if "image/svg+xml" in output.data]
    assert len(drawn) == 4
    assert all("<svg" in output.data["image/svg+xml"] for output in drawn)
    assert "'top1'" in outputs[-2].data["text/plain"]

"""Tests see what a fresh machine has; CI fails where it skips what it could run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LESS = "tests/test_nothing.py"
SKIPS_ITSELF = "tests/test_that_skips_itself.py"
CASES = """
import pytest

def test_a_package():
    pytest.importorskip("no_such_package")

@pytest.mark.skip(reason="no GPU: none is here")
def test_a_gpu(): ...

@pytest.mark.shared
def test_shared(): ...

@pytest.mark.xfail(strict=True)
def test_xfails():
    raise AssertionError

@pytest.mark.faults
def test_faults(): ...
"""


def test_programs_are_those_of_a_fresh_machine() -> None:
    for name in ("git", "make", "sh", "cp", "python3"):
        assert shutil.which(name), name
    for name in ("scancel", "sbatch", "sacct", "squeue", "nvidia-smi", "ffmpeg", "chromium", "c++", "kinegraph"):
        assert shutil.which(name) is None, name
    told = subprocess.run(
        ["python3", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == sys.prefix
    assert [*Path.home().iterdir()] == [] or "home" in Path.home().parts
    assert not os.environ.keys() & {"LANG", "SLURM_JOB_ID", "TORCH_HOME"}
    identity = subprocess.run(["git", "config", "user.email"], capture_output=True, text=True, check=False, cwd="/")
    assert identity.stdout == ""


@pytest.mark.compiler
def test_a_marked_test_sees_the_programs_of_the_machine() -> None:
    assert Path(os.environ["PATH"].partition(os.pathsep)[0]) != Path.home().parent / "bin"


def outcomes(tmp_path: Path, *options: str, ci: str) -> tuple[int, str]:
    """Exit code and output of pytest with these hooks, beside no folder `shared`."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "tests", root / "tests", ignore=lambda folder, names: [n for n in names if _is_left(n)])
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / LESS).write_text(CASES)
    (root / SKIPS_ITSELF).write_text("import pytest\npytest.importorskip('no_such_module')\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "pyproject.toml", *options]
    environment = os.environ | {"CI": ci, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    return done.returncode, done.stdout + done.stderr


def _is_left(name: str) -> bool:
    return name not in {"conftest.py", "fresh_machine.py", "warm_processes.py", "__init__.py"}


def test_ci_fails_on_a_skip_of_what_is_missing(tmp_path: Path) -> None:
    """Also in a process of pytest-xdist, and where a module skips itself."""
    code, said = outcomes(tmp_path, LESS, SKIPS_ITSELF, "-n", "1", "--continue-on-collection-errors", ci="true")
    assert code == 1, said
    assert "1 failed, 2 skipped, 1 xfailed, 1 error" in said
    assert "could not import 'no_such_package'" in said
    assert "could not import 'no_such_module'" in said
    assert said.count("CI skips nothing that it could run") >= 2
    assert "which is not part of the repository" in said


def test_elsewhere_the_same_is_skipped(tmp_path: Path) -> None:
    code, said = outcomes(tmp_path, LESS, ci="")
    assert code == 0, said
    assert "3 skipped, 1 deselected, 1 xfailed" in said


def test_what_is_asked_for_by_its_marker_runs(tmp_path: Path) -> None:
    code, said = outcomes(tmp_path, LESS, "-m", "faults", ci="true")
    assert code == 0, said
    assert "1 passed, 4 deselected" in said

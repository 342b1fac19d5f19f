"""What is installed is one package. A user's own `pipeline.py`, `stages/` and `cli.py` stand in nobody's way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fake_slurm
from tests.caches import same_bytes, write_config
from tests.conftest import six_videos, tiny_stages

pytestmark = pytest.mark.install
ROOT = Path(__file__).resolve().parent.parent
OWN_FILES = ("pipeline.py", "cli.py", "cache_schemas.py", "stages/__init__.py")
BARE = (
    "from importlib.util import find_spec; print([*filter(find_spec, ('cli', 'pipeline', 'stages', 'cache_schemas'))])"
)


def run(*command: object, folder: Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with kinegraph and, from this environment, all that it depends on."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", "--without-pip", "environment", folder=folder)
    python = folder / "environment" / "bin" / "python"
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    (Path(site) / "dependencies.pth").write_text("\n".join(packages))
    what: tuple[object, ...] = ("--no-build-isolation", "--editable", ROOT)
    if request.param == "wheel":
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, folder=ROOT)
        what = tuple(folder.glob("*.whl"))
    install = ("install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", *what)
    run(sys.executable, "-m", "pip", "--python", python, *install, folder=folder)
    return python


@pytest.fixture(scope="module")
def folder(python: Path) -> Path:
    """A user's folder with modules of the names that an installation once took."""
    folder = python.parents[2] / "work"
    for name in OWN_FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise ImportError('this is the module of a user')\n")
    six_videos(folder / "videos")
    return folder


def test_the_package_is_the_one_name(python: Path, folder: Path) -> None:
    told = run(python, "-c", "import kinegraph; print(kinegraph.load_config, kinegraph.__file__)", folder=folder)
    is_wheel = "site-packages" in told
    assert is_wheel == (python.parents[2].name.startswith("wheel"))
    assert "load_config" in told
    if is_wheel:
        assert run(python, "-c", BARE, folder=python.parent).strip() == "[]"
    assert run(python, "-c", "import kinegraph.pipeline.caches.plan as plan; print(plan.make_plan)", folder=ROOT)


def test_the_command_and_its_workers(python: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local, Dask's and SLURM's workers seal the same bytes from that folder."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    fake_slurm.install(folder / "bin")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    command = python.parent / "kinegraph"
    assert run(command, "--version", folder=folder).startswith("kinegraph ")
    sealed = []
    for executor in ("local", "dask", "slurm"):
        document = tiny_stages(folder / f"cache_{executor}", folder / "videos")
        document["run"] |= {"executor": executor, "workers": 1}
        config = write_config(folder / "config.yaml", document)
        run(command, "index", config, folder=folder)
        run(command, "extract", config, folder=folder)
        sealed.append(same_bytes(folder / f"cache_{executor}"))
    assert sealed[0] == sealed[1] == sealed[2]


def test_under_torchrun(python: Path, folder: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 1)
    assert "kinegraph " in run(python, *torchrun, "-m", "kinegraph", "--version", folder=folder)

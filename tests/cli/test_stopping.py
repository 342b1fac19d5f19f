"""SIGINT, SIGTERM and SIGUSR1 at any moment: the command ends with 130 or 143, soon, and says how to go on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cli.exits import after_stop
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.training.checkpoint import is_trained
from tests.caches import same_bytes, write_config
from tests.cli.stopped_exactly import MOMENTS
from tests.command_server import Run

ROOT = Path(__file__).resolve().parents[2]
KINEGRAPH = [sys.executable, "-m", "kinegraph"]
GOES_ON = ". The same command goes on from there."
SAID = {
    "extract": f"stopped. Finished shards are kept{GOES_ON}\n",
    "train": f"stopped. Finished runs are kept{GOES_ON}\n",
}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


def test_moments_at_which_threading_holds_its_locks(run: Run) -> None:
    """A handler that raised hung at some of them, and ended with 1 at others."""
    done = run(*MOMENTS, script=str(Path(__file__).with_name("stopped_exactly.py")))
    assert done.code == 0, done.said
    assert json.loads(done.told) == {moment: [143, "\nstopped.\n"] for moment in MOMENTS}


@pytest.fixture
def config(tmp_path: Path, tiny_document: dict[str, Any]) -> Path:
    """All is sealed, and a head takes long to train; nothing of it is trained."""
    train = {"run": str(tmp_path / "runs"), "head": "avg_pool", "epochs": 100_000, "val_split": None}
    path = write_config(tmp_path / "config.yaml", tiny_document | {"train": train})
    index(load_config(path))
    return path


def stopped_after(command: list[str], seconds: float, sent: signal.Signals) -> tuple[int, str]:
    """The signal comes so long after the process says that it obeys; exit code and stderr."""
    program = (
        "from kinegraph.__main__ import main; import kinegraph.cache_schemas.stopping as s; s.obey(); "
        "print(flush=True); main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(sent)
        _, said = process.communicate()
    return process.returncode, said


def stop_at_random(config: Path, moments: int, draw: random.Random) -> None:
    """Extraction and training, in turn; the interrupted cache is sound each time, and complete in the end."""
    settings = load_config(config)
    extract(settings)
    whole = same_bytes(Path(settings.cache))
    shutil.rmtree(Path(settings.cache))
    index(settings)
    for moment in range(moments):
        sent = draw.choice([*CODES])
        command = ["train" if moment % 2 else "extract", str(config)]
        if command[0] == "train":
            extract(settings)
        code, said = stopped_after(command, draw.uniform(0, 8), sent)
        if command[0] == "extract" and code == 0:  # all was sealed when the signal came
            assert same_bytes(Path(settings.cache)) == whole
        else:
            assert (code, said.endswith((SAID[command[0]], "\nstopped.\n"))) == (CODES[sent], True), said
        assert "Traceback" not in said
        assert verify(settings.cache).ok
        assert not [*Cache(settings.cache).storage.names("leases")]
        if command[0] == "train":
            assert not is_trained(Path(settings.train.run))
            shutil.rmtree(Path(settings.cache))
            index(settings)
    extract(settings)
    assert same_bytes(Path(settings.cache)) == whole


def test_two_random_moments(config: Path) -> None:
    """One of an extraction and one of a training; these processes import torch anew."""
    stop_at_random(config, 2, random.Random(0))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_eighty_random_moments(config: Path) -> None:
    seed = int(os.environ.get("FAULTS_SEED", time.time_ns() % 10**6))
    print(f"FAULTS_SEED={seed}")
    stop_at_random(config, 80, random.Random(seed))


@pytest.mark.parametrize(("sent", "code"), CODES.items())
@pytest.mark.parametrize(
    ("module", "command"),
    [("typer", "plan"), ("pydantic.type_adapter", "plan"), ("rich.panel", "no_such_command")],
    ids=["start", "parsing", "wrong usage"],
)
def test_a_signal_during_imports(config: Path, module: str, command: str, sent: signal.Signals, code: int) -> None:
    """That is before the command has begun."""
    program = """
import os, sys
number, module = int(sys.argv.pop()), sys.argv.pop()
class Finder:
    def find_spec(self, name, path=None, target=None):
        global number
        if name == module and number:
            number, sent = 0, number
            os.kill(os.getpid(), sent)
sys.meta_path.insert(0, Finder())
from kinegraph.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, command, str(config), module, str(int(sent))],
        capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "\nstopped.\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("extract", f"Finished shards are kept{GOES_ON}"),
        (
            "train --overwrite",
            "Finished runs are kept. The same command, without --overwrite, goes on from there.",
        ),
        ("export --to zarr", f"Finished shards are kept{GOES_ON}"),
        *((f"export --to {files}", "The same command writes all files anew.") for files in ("npy", "tad", "coco")),
        ("export --to=webdataset", "The same command writes all files anew."),
        ("verify --frames --repair", "The same command goes on from there."),
        ("verify --repair", "The same command does the rest."),
        ("verify --frames", "Nothing was changed."),
        ("evaluate --json", "The same command begins anew."),
        ("index", "Headers that were read are kept. The same command reads the others."),
        *((name, "Nothing was changed.") for name in ("plan", "status", "results", "models")),
    ],
)
def test_each_command_says_what_is_true_of_it(command: str, words: str) -> None:
    name, *arguments = command.split()
    assert after_stop(name, ["kinegraph", name, *arguments]) == words


def test_a_command_that_seals_nothing_says_so(tmp_path: Path) -> None:
    """The signal comes while it reads."""
    program = """
import os, signal
from kinegraph.cache_schemas import cache, stopping
from kinegraph.__main__ import main
def struck(self, root):
    os.kill(os.getpid(), signal.SIGTERM)
    stopping.check()
cache.Cache.__init__ = struck
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "status", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "\nstopped. Nothing was changed.\n")


def test_a_caller_that_catches_the_stop_ends_with_its_code() -> None:
    program = """
import os, signal
from kinegraph.cache_schemas import stopping
from kinegraph.cli.exits import Terminated, stop_on_signals
stop_on_signals()
os.kill(os.getpid(), signal.SIGTERM)
try:
    stopping.check()
except Terminated:
    print("caught")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "caught\n", "")


def test_ctrl_c_before_any_signal_is_obeyed() -> None:
    program = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "kinegraph.cache_schemas.stopping":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["kinegraph", "models"]
runpy.run_module("kinegraph", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_stdout_that_is_closed_or_not_read() -> None:
    models = [*KINEGRAPH, "models"]
    reading, writing = os.pipe()
    os.close(reading)  # as `| true` does
    unread = subprocess.run(models, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(writing)
    assert (unread.returncode, unread.stderr) == (0, "")
    for closed in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        line = ["sh", "-c", f"{' '.join(models)} {closed}"]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), closed


def test_a_stdout_without_room() -> None:
    models = [*KINEGRAPH, "models"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(models, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")

"""Help, version and wrong usage, as processes: exit codes, and what goes to stdout and what to stderr.

Processes are forked from one that has imported everything; one of each kind is started as a user does.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version

import pytest
import typer

from kinegraph.cli.app import COMMANDS
from kinegraph.cli.exits import exit_code
from tests.command_server import Run

NAMES = [*(command.__name__.strip("_") for command in COMMANDS), "slurm-task"]
Ended = tuple[int, str, str]  # exit code, stdout, stderr


def started(*arguments: str) -> Ended:
    """A command in a process of its own that imports everything anew."""
    done = subprocess.run([sys.executable, "-m", "kinegraph", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def forked(run: Run, arguments: Sequence[str]) -> Ended:
    done = run(*arguments)
    return done.code, done.told, done.said


def test_help_of_every_command(run: Run) -> None:
    helps = [started("--help"), *(forked(run, [name, "--help"]) for name in NAMES)]
    for name, (code, stdout, stderr) in zip(["", *NAMES], helps, strict=True):
        assert (code, stderr) == (0, ""), name
        assert "Usage:" in stdout, name
        assert name in stdout, name


def test_version() -> None:
    assert started("--version") == (0, f"kinegraph {version('kinegraph')}\n", "")


def test_a_shell_completes_commands_and_options() -> None:
    words = {
        "kinegraph in": {"init", "index"},
        "kinegraph plan my.yaml --ca": {"--calibrate"},
        "kinegraph slurm": set(),
    }
    for line, completed in words.items():
        shell = {"_KINEGRAPH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        run = "import sys; sys.argv[:] = ['kinegraph']; from kinegraph.cli.app import main; main()"
        process = subprocess.run(
            [sys.executable, "-c", run], env=os.environ | shell, capture_output=True, text=True, check=False
        )
        assert (process.returncode, {*process.stdout.split()}) == (0, completed), process.stderr


def test_wrong_flags_and_values_and_missing_arguments(run: Run) -> None:
    missing = [[name] for name in NAMES if name not in ("models", "demo")]
    wrong = {
        "No such command": ["nonsense"],
        "No such option: --nonsense": ["index", "my.yaml", "--nonsense"],
        "No such option: --version": ["models", "--version"],
        "'--limit'": ["extract", "my.yaml", "--limit", "many"],
        "'--seeds'": ["train", "my.yaml", "--seeds", "0"],
        "'--seeds': Input": ["demo", "--seeds", "1000000000"],
        "'--frames'": ["import", "features", "--into", "cache", "--frames", "-1"],
        "requires an argument": ["export", "cache", "out", "--to"],
        "Got unexpected extra argument": ["verify", "cache", "another"],
        "'INDEX'": ["slurm-task", "folder", "first"],
        "my.yaml: no such config file": ["plan", "my.yaml"],
        "--head '': names no head": ["train", "my.yaml", "--head", ""],
        "--to tar: allowed: zarr, hdf5, npy": ["export", "cache", "out", "--to", "tar"],
    }
    ends = [("Missing", arguments, forked(run, arguments)) for arguments in missing]
    ends += [(sentence, arguments, forked(run, arguments)) for sentence, arguments in wrong.items()]
    ends += [("No such command", ["nonsense"], started("nonsense"))]
    for sentence, arguments, (code, stdout, stderr) in ends:
        assert (code, stdout) == (2, ""), arguments
        assert sentence in stderr, (arguments, stderr)


@pytest.mark.parametrize("end", [typer.Exit(7), typer.Abort(), typer.BadParameter("a sentence")])
def test_ends_of_typer_are_no_failures_of_a_command(end: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit and Abort are RuntimeErrors."""

    def command() -> None:
        raise end

    with pytest.raises(type(end)) as raised:
        exit_code(command)
    assert raised.value is end
    assert capsys.readouterr() == ("", "")

"""Help, version and wrong usage, as processes: exit codes, and what goes to stdout and what to stderr."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version

import pytest
import typer

from kinegraph.cli.app import COMMANDS
from kinegraph.cli.exits import exit_code

NAMES = [*(command.__name__.strip("_") for command in COMMANDS), "slurm-task"]
Ended = tuple[int, str, str]  # exit code, stdout, stderr


def ended(commands: Sequence[Sequence[str]]) -> list[Ended]:
    """All commands at once, each in a process of its own."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "kinegraph", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for arguments in commands
    ]
    said = [process.communicate() for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def test_help_of_every_command() -> None:
    helps = ended([["--help"], *([name, "--help"] for name in NAMES)])
    for name, (code, stdout, stderr) in zip(["", *NAMES], helps, strict=True):
        assert (code, stderr) == (0, ""), name
        assert "Usage:" in stdout, name
        assert name in stdout, name


def test_version() -> None:
    assert ended([["--version"]]) == [(0, f"kinegraph {version('kinegraph')}\n", "")]


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


def test_wrong_flags_and_values_and_missing_arguments() -> None:
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
        "--to tar: allowed: zarr, hdf5, npy": ["export", "cache", "out", "--to", "tar"],
    }
    sentences = [*["Missing"] * len(missing), *wrong]
    for arguments, sentence, (code, stdout, stderr) in zip(
        [*missing, *wrong.values()], sentences, ended([*missing, *wrong.values()]), strict=True
    ):
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

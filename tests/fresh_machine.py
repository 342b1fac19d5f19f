"""The environment of a machine that has Python, make, git and a shell, and nothing of its user."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

# git, make, the shell and coreutils. A test that needs another program makes it, or carries one of the markers below.
PROGRAMS = """
git make sh
basename cat chmod chown cp cut date dd df dirname du echo env expr false head hostname id kill ln ls mkdir mkfifo
mktemp mv nohup nproc od printf pwd readlink realpath rm rmdir seq sleep sort split stat sync tail tee test timeout
touch tr true truncate tty uname uniq wc yes
""".split()
MACHINE_MARKERS = ("slurm", "browser", "compiler")  # of tests that see the programs of this machine
# Settings of a user, a job or a shell. Tests set what they need.
FOREIGN = ("AWS_", "DASK_", "GIT_", "HF_", "HUGGINGFACE_", "LC_", "SLURM_", "TORCH_HOME", "TORCHINDUCTOR_", "XDG_")


def environment(folder: Path, machine: Mapping[str, str]) -> dict[str, str]:
    """Variables for a fresh machine whose programs and home lie in `folder`, made of those of this machine."""
    programs, home = folder / "bin", folder / "home"
    programs.mkdir()
    home.mkdir()
    for name in PROGRAMS:
        if path := shutil.which(name, path=machine.get("PATH")):
            (programs / name).symlink_to(path)
    python = programs / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # a link would not be of the virtual environment
    python.chmod(0o755)
    kept = {name: value for name, value in machine.items() if not name.startswith(FOREIGN) and name != "LANG"}
    return kept | {"PATH": str(programs), "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}


def replace_environment(variables: Mapping[str, str]) -> None:
    """Make these the variables of this process, and of those that it starts."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)

"""Finds the versions of all software that affects the values of features. Ledger records contain these versions."""

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kinegraph.pipeline.errors import ProgramMissing
from kinegraph.pipeline.machine import programs

PACKAGES = ("kinegraph", "torch", "torchvision", "av", "numpy", "pillow", "zarr", "h5py")
MUST_AGREE = ("kinegraph", "torch")  # all machines that work on one cache at a time must have the same versions


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of each package in PACKAGES, of Python and of FFmpeg's libraries, as a dict {name: version}.

    If kinegraph runs from a git checkout, the dict also has "git", the output of `git describe`.
    """
    import av

    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    installed["ffmpeg"] = ", ".join(f"{name} {'.'.join(map(str, v))}" for name, v in av.library_versions.items())
    if revision := _git("describe", "--always", "--dirty"):
        installed["git"] = revision
    return installed


def agreed_versions() -> dict[str, str]:
    """Returns the versions of the software that must be the same on all machines, as a dict {name: version}. The names
    are those in MUST_AGREE. If kinegraph runs from a git checkout, the dict also has "git", the commit.

    Uncommitted changes are not compared.
    """
    agreed = {package: versions()[package] for package in MUST_AGREE}
    commit = _git("rev-parse", "HEAD")  # the text of `git describe` would depend on the tags in the checkout
    return agreed | ({"git": commit} if commit else {})


def differing_versions(expected: Mapping[str, str], found: Mapping[str, str] | None = None) -> str:
    """Returns a text that lists the packages whose version in `found` is not the version in `expected`. For example,
    "torch 2.9.0 (here 2.11.0)" means 2.9.0 in `found` and 2.11.0 in `expected`. Returns "" if no version differs.

    `expected` and `found` map names of packages to versions. If `found` is None, the versions of this process are
    taken. A package that `found` lacks is not compared.
    """
    found = agreed_versions() if found is None else found
    differing = {name: found[name] for name, same in expected.items() if found.get(name, same) != same}
    return ", ".join(f"{package} {other} (here {expected[package]})" for package, other in differing.items())


@functools.cache
def _git(*command: str) -> str:
    """Returns the output of the git command `command` in the checkout of kinegraph. Returns "" if kinegraph does not
    run from a checkout, or if the command fails.

    A command runs only once in a process.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        done = programs.run("git", "-C", str(root), *command, seconds=10)
    except (ProgramMissing, subprocess.TimeoutExpired) as error:
        programs.tell_once(
            f"{error}, so records do not name the commit of kinegraph in {root}. Install git to record the commit."
        )
        return ""
    return "" if done.returncode else done.stdout.strip()

"""Versions of everything that computes, for ledger records."""

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kinegraph.pipeline.errors import ProgramMissing
from kinegraph.pipeline.machine import programs

PACKAGES = ("kinegraph", "torch", "torchvision", "av", "numpy", "pillow", "zarr", "h5py")
MUST_AGREE = ("kinegraph", "torch")  # of all machines that work on one cache at a time


@functools.cache
def versions() -> dict[str, str]:
    """Package versions, FFmpeg's libraries, Python, and the git revision where this is a checkout."""
    import av

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["ffmpeg"] = ", ".join(f"{name} {'.'.join(map(str, v))}" for name, v in av.library_versions.items())
    if revision := _git("describe", "--always", "--dirty"):
        found["git"] = revision
    return found


def agreed_versions() -> dict[str, str]:
    """What of this process's versions all machines must have: of MUST_AGREE, and the commit in a checkout.

    What `git describe` calls a commit depends on the tags that a checkout has. Whether there are changes on top is left
    out: they may be made while workers run.
    """
    found = {package: versions()[package] for package in MUST_AGREE}
    commit = _git("rev-parse", "HEAD")
    return found | ({"git": commit} if commit else {})


def differing_versions(expected: Mapping[str, str], found: Mapping[str, str] | None = None) -> str:
    """What of `found` (by default of this process) is not as expected: `torch 2.9.0 (here 2.11.0)`, or nothing.

    What it does not know, as the commit where it is no checkout, counts as the same.
    """
    found = agreed_versions() if found is None else found
    differing = {name: found[name] for name, same in expected.items() if found.get(name, same) != same}
    return ", ".join(f"{package} {other} (here {expected[package]})" for package, other in differing.items())


@functools.cache
def _git(*command: str) -> str:
    """What git says of this checkout, as of the first time it is asked; nothing where it is none."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        done = programs.run("git", "-C", str(root), *command, seconds=10)
    except (ProgramMissing, subprocess.TimeoutExpired) as error:
        programs.tell_once(
            f"{error}, so records do not name the commit of kinegraph in {root}. Install git to have it."
        )
        return ""
    return "" if done.returncode else done.stdout.strip()

"""Finds the folder of this user for files that programs may lose."""

import os
from pathlib import Path


def user_cache(name: str) -> Path | None:
    """Returns the path of the folder `kinegraph/<name>` in the user's folder for caches. The folder may not exist yet.

    The folder for caches is `$XDG_CACHE_HOME`, or `~/.cache` (XDG base directory specification). Returns None where the
    user has no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "kinegraph" / name
    try:
        return Path.home() / ".cache" / "kinegraph" / name
    except RuntimeError:
        return None

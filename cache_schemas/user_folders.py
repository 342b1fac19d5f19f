"""Finds the user's folder for cache files, which programs may delete at any time."""

import os
from pathlib import Path


def user_cache(name: str) -> Path | None:
    """Returns the path of the folder `kinegraph/<name>` in the user's cache folder, which is `$XDG_CACHE_HOME` or
    `~/.cache`. The folder may not exist yet. Returns None if the user has no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "kinegraph" / name
    try:
        return Path.home() / ".cache" / "kinegraph" / name
    except RuntimeError:
        return None

"""Refuses to write a report over the files of a cache, or over a file that no report wrote. Torch-free."""

from collections.abc import Callable
from pathlib import Path

from kinegraph.cache_schemas.cache import MANIFEST
from kinegraph.cache_schemas.clips_table import TABLE
from kinegraph.stages.errors import UsageError

FAILURE_COLUMNS = ("video", "clip", "stages", "reason", "words")
KIND = '<p class="kind">kinegraph report</p>'  # every report has it
HEAD_BYTES = 1 << 16  # KIND is in the first bytes of a report


def require_own(out: Path, figures: Path | None, failures: Path | None) -> None:
    """Checks the paths that a report will write: the page `out`, the folder `figures` and the csv `failures`.

    Raises UsageError if a path lies in a cache. Pages that end with .html and csv files that end with .csv are allowed
    there. Raises UsageError, too, if `out` or `failures` is an existing file that is not empty and that no report
    wrote.
    """
    _require_own("--out", out, ".html", _is_page)
    if failures is not None:
        _require_own("--failures", failures, ".csv", _is_csv)
    if figures is not None and (cache := _cache_around(figures / "figure")):
        raise UsageError(f"--figures {figures}: lies in the cache {cache}. Name a folder outside of it.")


def _require_own(flag: str, path: Path, ending: str, is_own: Callable[[str], bool]) -> None:
    cache = _cache_around(path)
    if cache is not None and path.suffix != ending:
        text = f"{flag} {path}: lies in the cache {cache}, where other files belong to the cache."
        raise UsageError(f"{text} Name a file that ends with {ending}, or a file outside of the cache.")
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head and not is_own(head.decode("utf-8", "replace")):
        text = f"{flag} {path}: is a file that no report wrote, and it would be replaced."
        raise UsageError(f"{text} Name another file, or remove this one.")


def _cache_around(path: Path) -> Path | None:
    """Returns the folder of the cache in which `path` lies, or None if `path` lies in no cache."""
    found = (folder for folder in path.resolve().parents if (folder / MANIFEST).exists())
    return next((folder for folder in found if (folder / TABLE).exists()), None)


def _is_page(head: str) -> bool:
    return head.startswith("<!doctype html>") and KIND in head


def _is_csv(head: str) -> bool:
    return head.startswith(",".join(FAILURE_COLUMNS))

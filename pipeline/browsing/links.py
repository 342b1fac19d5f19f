"""Makes the addresses of the pages of `kinegraph browse`, and reads the parameters of an address. Torch-free."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from urllib.parse import urlencode

from starlette.exceptions import HTTPException

from kinegraph.cache_schemas.words import on_one_line
from kinegraph.pipeline.browsing.catalogue import ClipFilter

NAME_OF = {"label": "class"}  # field of ClipFilter -> its other name in addresses
FIELDS = {NAME_OF.get(field.name, field.name): field.name for field in fields(ClipFilter)}
MAX_LETTERS = 1000  # the longest value


def filter_of(query: Mapping[str, str]) -> ClipFilter:
    """Returns the ClipFilter that the parameters `query` of an address describe. Unknown parameters are ignored.

    A name in an address has escapes in place of line ends, as on the pages, because browsers change line ends.
    """
    return ClipFilter(**{field: on_one_line(query.get(name, ""))[:MAX_LETTERS] for name, field in FIELDS.items()})


def query_of(wanted: ClipFilter, **more: object) -> dict[str, str]:
    """Returns the parameters of an address, {name: value}, that describe the filter `wanted`, together with the
    parameters `more`. Parameters with an empty value are left out.
    """
    values = {NAME_OF.get(field, field): value for field, value in asdict(wanted).items()} | more
    return {name: str(value) for name, value in values.items() if value not in ("", None)}


def address(path: str, query: Mapping[str, str]) -> str:
    """Returns the address of the page at `path` with the parameters `query`: "/clips/3", {"page": "2"} ->
    "/clips/3?page=2".
    """
    return f"{path}?{urlencode(query, errors='replace')}" if query else path


def whole_number(query: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    """Returns the parameter `name` of an address as a whole number. Returns `default` if the parameter is missing or
    empty. Raises HTTPException (400) if the value is no whole number or is less than `least`.
    """
    given = query.get(name, "")
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 10) or int(given) < least:
        raise HTTPException(400, f"{name}: given {given[:40]!r}, expected a whole number from {least} on.")
    return int(given)


def decimal(query: Mapping[str, str], name: str) -> float | None:
    """Returns the parameter `name` of an address as a float. Returns None if the parameter is missing or empty. Raises
    HTTPException (400) if the value is not a number.
    """
    given = query.get(name, "").strip()
    if not given:
        return None
    try:
        return float(given)
    except ValueError:
        raise HTTPException(400, f"{name}: given {given[:40]!r}, expected a number.") from None

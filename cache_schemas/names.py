"""Checks the names of objects, arrays and stage keys in the documents of a cache. Each name must be a path that stays
below the cache. Otherwise a damaged document could lead to a file outside of it.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

from kinegraph.cache_schemas.errors import UnsafeName

SHOWN_CHARACTERS = 80
_STAYS_BELOW = re.compile(r"(?!(?:.*/)?\.\.?(?:/|\Z))[^/\\\0]+(?:/[^/\\\0]+)*", re.DOTALL)


def checked_name(name: str) -> str:
    """Returns `name`, the name of an object in the cache, unchanged. Raises UnsafeName if the name could lead out of
    the cache: if it is absolute, has a backslash or a NUL, or has a part that is empty, `.` or `..`.
    """
    if _is_plain(name) or _STAYS_BELOW.fullmatch(name) is not None:
        return name
    shown = repr(name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}...")
    raise UnsafeName(
        f"{shown} is no name below a cache: parts joined by `/` are expected, none of them empty, `.` or `..`, "
        "without backslash and NUL. What gave this name is damaged, or made to do harm."
    )


def _is_plain(name: str) -> bool:
    """Returns True if a few fast comparisons show that `name` is safe. If the result is False, `checked_name` makes the
    full check. The comparisons save time, because a ledger record has many names.
    """
    if not name or name[0] in "./" or name[-1] == "/" or "//" in name or "/." in name:
        return False
    return "\\" not in name and "\0" not in name


ObjectName = Annotated[str, AfterValidator(checked_name)]

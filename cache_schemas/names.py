"""Checks names that documents contain: objects, arrays, stage keys.

Each name is a POSIX path that stays below a root.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

from kinegraph.cache_schemas.errors import UnsafeName

SHOWN_CHARACTERS = 80
_STAYS_BELOW = re.compile(r"(?!(?:.*/)?\.\.?(?:/|\Z))[^/\\\0]+(?:/[^/\\\0]+)*", re.DOTALL)


def checked_name(name: str) -> str:
    """Returns the name unchanged. Raises UnsafeName for a name that could leave the root.

    Such a name is absolute, has a part `.` or `..`, has an empty part, or contains a backslash or a NUL.
    """
    if _is_plain(name) or _STAYS_BELOW.fullmatch(name) is not None:
        return name
    shown = repr(name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}...")
    raise UnsafeName(
        f"{shown} is no name below a cache: parts joined by `/` are expected, none of them empty, `.` or `..`, "
        "without backslash and NUL. What gave this name is damaged, or made to do harm."
    )


def _is_plain(name: str) -> bool:
    """Returns whether a quick look shows that the name is safe. Most names pass. A ledger record has many."""
    if not name or name[0] in "./" or name[-1] == "/" or "//" in name or "/." in name:
        return False
    return "\\" not in name and "\0" not in name


ObjectName = Annotated[str, AfterValidator(checked_name)]

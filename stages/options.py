"""Defines the base class of config sections, and functions for errors about a section. Torch-free."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from kinegraph.cache_schemas.documents import shortened

MAX_SECONDS = 366 * 86_400.0
MAX_SEED = (1 << 63) - 1
SplitName = Annotated[str, StringConstraints(min_length=1)]
ClassName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class StageOptions(BaseModel):
    """The base class of the sections of a config. A section cannot be changed after it is made. pydantic refuses an
    unknown key, an infinite number and NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def need(is_met: bool, key: str, given: object, allowed: str) -> None:
    """Raises ValueError if `is_met` is False. The message is `<key>: given <value>, allowed: <values>`.

    `key` is an option of the config, `given` is its value, and `allowed` is a text about the allowed values.
    """
    if not is_met:
        raise ValueError(f"{key}: given {shortened(repr(given))}, allowed: {allowed}")


@contextmanager
def under(key: str) -> Iterator[None]:
    """Returns a context that puts `key` and a colon in front of the message of each ValueError that the `with` block
    raises.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error

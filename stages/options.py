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
    """The base class of config sections. A section cannot be changed after it is made. A section with an unknown key,
    an infinite number or NaN is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def need(held: bool, key: str, given: object, allowed: str) -> None:
    """Raises ValueError if the condition `held` is False. The message has `key`, the value `given` and the values
    `allowed`.
    """
    if not held:
        raise ValueError(f"{key}: given {shortened(repr(given))}, allowed: {allowed}")


@contextmanager
def under(key: str) -> Iterator[None]:
    """Returns a context that puts `key` in front of the message of a ValueError that is raised in the context."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error

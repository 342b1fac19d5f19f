"""Base of every config section."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

MAX_SECONDS = 366 * 86_400.0
MAX_SEED = (1 << 63) - 1
SplitName = Annotated[str, StringConstraints(min_length=1)]


class StageOptions(BaseModel):
    """Immutable; unknown keys, infinite numbers and NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

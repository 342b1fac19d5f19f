"""Base of every config section."""

from pydantic import BaseModel, ConfigDict


class StageOptions(BaseModel):
    """Immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

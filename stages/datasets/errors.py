"""Defines the error for data sets that cannot be listed."""

from kinegraph.stages.errors import UsageError


class DatasetError(UsageError):
    """Raised if a data set cannot be listed. The message names the place, and says what was expected."""

"""A data set that cannot be listed."""

from kinegraph.stages.errors import UsageError


class DatasetError(UsageError):
    """A data set that cannot be listed; the message says what was looked for and where."""

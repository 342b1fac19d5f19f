"""Defines the error of data sets."""

from kinegraph.stages.errors import UsageError


class DatasetError(UsageError):
    """A data set cannot be listed. The message says what was expected and where."""

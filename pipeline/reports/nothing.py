"""Defines the error that a figure raises if it has nothing to show."""


class NothingToShowError(ValueError):
    """A figure cannot be drawn, because the cache or the run has no values for the figure. The message says why, and
    what to do.
    """

"""The error of a figure that has nothing to show."""


class NothingToShowError(ValueError):
    """A cache or a run has nothing for a figure. The message says why, and what to do."""

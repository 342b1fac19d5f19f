"""Defines the error for files of Action Genome. Imports no torch."""


class ReleaseError(ValueError):
    """Raised if a file of Action Genome is missing, damaged, or of another release. The message names the file and says
    what is wrong.
    """

"""Defines the error of Action Genome's files. Torch-free."""


class ReleaseError(ValueError):
    """Raised if a file of Action Genome is missing, damaged, or of another release. The message says which."""

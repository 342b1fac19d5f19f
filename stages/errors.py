"""Defines the base classes of errors that a user can fix by another request. Torch-free."""


class UsageError(ValueError):
    """The request cannot be met. The message says what was given, what is allowed and what to do."""


class WeightsError(UsageError):
    """Weights cannot be found, or do not belong to the network."""

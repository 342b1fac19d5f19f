"""Defines the base classes of errors that a user can fix by another request. Torch-free."""


class UsageError(ValueError):
    """Raised if a request of the user cannot be met. The message has the given value, the allowed values and the
    remedy.
    """


class WeightsError(UsageError):
    """Raised if weights cannot be found, or do not belong to the network."""

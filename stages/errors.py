"""Defines the base classes of errors that a user can fix by another request. Torch-free."""


class UsageError(ValueError):
    """Raised if kinegraph cannot do what the user asks for. The message has the given value, the allowed values and the
    remedy.
    """


class WeightsError(UsageError):
    """Raised if the weights of a network cannot be found, or do not belong to the network."""

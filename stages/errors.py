"""Base of the errors a user can mend by asking for something else. Torch-free."""


class UsageError(ValueError):
    """What was asked for cannot be had; the message says what was given, what is allowed and what to do."""


class WeightsError(UsageError):
    """Weights that cannot be found or do not belong to the network."""

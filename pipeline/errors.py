"""Errors of the pipeline that a user can act on."""

from kinegraph.stages.errors import UsageError


class ConfigError(UsageError):
    """A config that cannot be used: names file, key path, what was given and what is allowed."""


class ExchangeError(UsageError):
    """An export or import that cannot be had as asked."""


class ClusterError(UsageError):
    """A cluster that cannot do the work: not reachable, or its workers lack something."""


class AnotherRunError(UsageError):
    """Another run is at work on a cache that has to be left alone meanwhile."""


class ClusterLost(RuntimeError):
    """A cluster that went away, or whose workers all die, during the work."""


class SetAsideError(RuntimeError):
    """Work units that killed their worker three times and were set aside."""


class ProgramMissing(UsageError):
    """A program of the machine that is not on the PATH, or may not be run."""


class OutOfTimeError(RuntimeError):
    """A clean stop because no further unit could end within the job's walltime; the same command goes on."""


class WalltimeError(UsageError):
    """A walltime in which not even one unit fits."""


class SlurmError(RuntimeError):
    """A job array that did not do its work, or of which nobody knows."""

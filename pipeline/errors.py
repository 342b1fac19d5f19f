"""Errors of the pipeline that a user can act on."""

from kinegraph.stages.errors import UsageError


class ConfigError(UsageError):
    """The config cannot be used. The message names the file, the key path, the given value and the allowed values."""


class ExchangeError(UsageError):
    """The export or import cannot be done with the given files, cache and options. The message says why."""


class ClusterError(UsageError):
    """The cluster cannot be reached, or its workers cannot do the work. The message says what the workers lack."""


class AnotherRunError(UsageError):
    """The command needs the cache for itself, and another run works on the cache."""


class ClusterLost(RuntimeError):
    """The cluster went away during the work, or all its workers died."""


class SetAsideError(RuntimeError):
    """Some work units killed every worker that tried them. These units are not tried again in this run."""


class ProgramMissing(UsageError):
    """A program of the machine is not on the PATH or may not be run."""


class OutOfTimeError(RuntimeError):
    """The run stopped cleanly because no further work unit could end within the time limit.

    The remaining units run if the same command is called again.
    """


class WalltimeError(UsageError):
    """Not even one work unit fits into the time limit of the run."""


class SlurmError(RuntimeError):
    """A job array of SLURM did not do its work, or SLURM does not know the array any more."""

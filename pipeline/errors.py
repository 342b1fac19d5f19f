"""Errors of the pipeline that a user can act on."""

from kinegraph.stages.errors import UsageError


class ConfigError(UsageError):
    """Raised if the config cannot be used. The message names the file, the key path, the given value and the allowed
    values.
    """


class ExchangeError(UsageError):
    """Raised if an export or import cannot be done with the given files, cache and options. The message says why."""


class ClusterError(UsageError):
    """Raised if a cluster cannot be reached, or if its workers cannot do the work. The message says what the workers
    lack.
    """


class AnotherRunError(UsageError):
    """Raised if a command needs the cache for itself and another run works on the cache."""


class ClusterLost(RuntimeError):
    """Raised if the cluster went away during the work, or if all its workers died."""


class SetAsideError(RuntimeError):
    """Raised if work units killed every worker that tried them. A work unit is one shard with the stage keys to compute
    for it. These units are not tried again in this run.
    """


class ProgramMissing(UsageError):
    """Raised if a program such as sbatch is not on the PATH or may not be run."""


class OutOfTimeError(RuntimeError):
    """Raised if no further work unit can end within the time limit. All work units that have begun are sealed.

    The same command, called again, runs the remaining work units.
    """


class WalltimeError(UsageError):
    """Raised if the time limit of the run is too short for even one work unit."""


class SlurmError(RuntimeError):
    """Raised if a SLURM job array did not do its work, or if SLURM does not know the array any more."""

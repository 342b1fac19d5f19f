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
    """Raised if shards killed every worker process that tried to compute them. These shards are not tried again in this
    run.
    """


class ProgramMissing(UsageError):
    """Raised if a program such as sbatch is not on the PATH or may not be run."""


class OutOfTimeError(RuntimeError):
    """Raised if no further shard can be computed within the time limit. All shards that were begun are finished.

    The same command, called again, computes the remaining shards.
    """


class WalltimeError(UsageError):
    """Raised if the time limit of the run is too short to compute even one shard."""


class SlurmError(RuntimeError):
    """Raised if a SLURM job array did not do its work, or if SLURM does not know the array any more."""

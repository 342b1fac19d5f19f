"""What `--executor slurm` asks SLURM for. Torch-free."""

from pydantic import Field

from stages.options import StageOptions


class SlurmOptions(StageOptions):
    """Of each task of the array; `run.workers` says how many tasks there are, `run.walltime_seconds` for how long."""

    gpus: int = Field(0, ge=0, description="of one task, as --gres=gpu:N")
    cpus: int | None = Field(None, ge=1, description="of one task; null: `run.threads`")
    memory_gb: int | None = Field(None, ge=1, description="of one task; null: what the cluster gives")
    max_running: int | None = Field(None, ge=1, description="tasks that run at a time; null: all")
    options: dict[str, str | int | bool] = Field(
        default_factory=dict,
        description="further options of sbatch, without dashes, as `{partition: gpu, account: lab, exclusive: true}`",
    )
    setup: tuple[str, ...] = Field((), description="shell lines before the command, as `module load cuda`")
    folder: str | None = Field(
        None, description="scripts and logs, where all nodes see them; null: `slurm` below the cache"
    )

"""What `--executor slurm` asks SLURM for. Torch-free."""

from pydantic import Field, field_validator, model_validator

from kinegraph.stages.options import StageOptions

OURS = ("array", "chdir", "open-mode", "output")  # tasks and logs are found by them

GPU = ("gres", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "tres-per-task")  # they may ask for GPUs


class SlurmOptions(StageOptions):
    """Of each task of the array; `run.workers` says how many tasks there are, `run.walltime_seconds` for how long."""

    gpus: int = Field(0, ge=0, le=1000, description="of one task, 0 or 1, as --gres=gpu:1; more GPUs are more tasks")
    cpus: int | None = Field(None, ge=1, le=4096, description="of one task; null: `run.threads`")
    memory_gb: int | None = Field(None, ge=1, le=1_000_000, description="of one task; null: what the cluster gives")
    max_running: int | None = Field(None, ge=1, le=100_000, description="tasks that run at a time; null: all")
    options: dict[str, str | int | bool] = Field(
        default_factory=dict,
        description="further options of sbatch, without dashes, as `{partition: gpu, account: lab, exclusive: true}`",
    )
    setup: tuple[str, ...] = Field(
        (), description="shell lines first, as `module load cuda`; one that fails ends the task"
    )
    folder: str | None = Field(
        None, description="scripts and logs, where all nodes see them; null: `slurm` below the cache"
    )

    @property
    def asked_gpu(self) -> str:
        """How the config asks for a GPU; empty where it does not."""
        if self.gpus:
            return f"run.slurm.gpus: {self.gpus}"
        given = {
            key: value for key, value in self.options.items() if key in GPU and value and "gpu" in f"{key}={value}"
        }
        return next((f"run.slurm.options.{key}: {value}" for key, value in given.items()), "")

    @field_validator("options")
    @classmethod
    def _are_free(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        if taken := sorted(options.keys() & {*OURS}):
            raise ValueError(f"{taken[0]}: given {options[taken[0]]!r}, allowed: any option of sbatch but {OURS}")
        return options

    @model_validator(mode="after")
    def _uses_its_gpus(self) -> "SlurmOptions":
        if self.gpus > 1:
            raise ValueError(
                f"gpus: given {self.gpus}, allowed: 0 or 1, as a task is one worker on one device; for {self.gpus} "
                "GPUs ask for as many tasks (run.workers)"
            )
        return self

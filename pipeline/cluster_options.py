"""Defines the config sections `run.dask` and `run.slurm`, which describe a cluster. Torch-free."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from kinegraph.stages.options import MAX_SECONDS, StageOptions

OURS = ("array", "chdir", "open-mode", "output")  # kinegraph finds tasks and logs by these options
GPU = (
    "gres",
    "gpus",
    "gpus-per-node",
    "gpus-per-socket",
    "gpus-per-task",
    "tres-per-task",
)  # options that ask for GPUs
LISTS = ("job_script_prologue", "worker_extra_args", "job_extra_directives", "job_directives_skip")  # of dask-jobqueue


class JobQueueOptions(StageOptions):
    """Options of Dask workers that run as jobs of a batch system. The package dask-jobqueue submits the jobs. The
    number of jobs depends on the work that is left, and is at most `jobs` at a time. Each job runs one worker.
    """

    kind: Literal["slurm", "pbs", "lsf", "sge"] = Field(description="the batch system")
    jobs: int = Field(1, ge=1, le=10_000, description="most jobs at a time, one worker process each")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="keywords of dask-jobqueue's cluster: `{cores: 4, memory: 16GB, queue: gpu}`. `walltime` is not "
        "allowed, use `run.walltime_seconds`",
    )

    @field_validator("options")
    @classmethod
    def _leave_time_to_us(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "walltime" in options:
            raise ValueError(
                f"walltime: given {options['walltime']!r}, allowed: run.walltime_seconds instead, which workers obey"
            )
        return options

    @field_validator("options")
    @classmethod
    def _one_line_is_a_list(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Returns a copy of `options` in which each single string becomes a list of one string, for the options in
        LISTS.

        dask-jobqueue would take each letter of a string for a line.
        """
        return {key: [value] if key in LISTS and isinstance(value, str) else value for key, value in options.items()}


class DaskOptions(StageOptions):
    """Options of the executor `dask`, which say which Dask cluster it uses. `scheduler` or `scheduler_file` name a
    cluster that runs already. `jobqueue` starts a cluster in a batch system. By default kinegraph starts `run.workers`
    processes on this machine.
    """

    scheduler: str | None = Field(None, description="address of a running scheduler, such as `tcp://host:8786`")
    scheduler_file: str | None = Field(None, description="file that a running scheduler wrote (`--scheduler-file`)")
    jobqueue: JobQueueOptions | None = Field(None, description="workers as jobs of a batch system, see below")
    interface: str | None = Field(
        None,
        description="network interface of a scheduler started here, such as `ib0`. null: loopback, for this machine "
        "only",
    )
    dashboard: str = Field(
        "127.0.0.1:0", description="address of the dashboard of a scheduler started here. Port 0: any free port"
    )
    memory_limit: str = Field(
        "auto",
        description="memory of a worker process started here, such as `16GB`. A process that takes more is killed. "
        "auto: an equal share of the machine's memory",
    )
    timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=MAX_SECONDS,
        description="time limit in seconds for the answers of a scheduler and of its first worker",
    )

    @model_validator(mode="after")
    def _names_one_cluster(self) -> "DaskOptions":
        given = [key for key in ("scheduler", "scheduler_file", "jobqueue") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{given[1]}: given beside {given[0]}, allowed: one of scheduler, scheduler_file, jobqueue"
            )
        return self


class SlurmOptions(StageOptions):
    """Options of a SLURM job array. `run.workers` is the number of its tasks, and `run.walltime_seconds` is the time
    limit of each task.
    """

    gpus: int = Field(
        0, ge=0, le=1000, description="GPUs of one task, 0 or 1 (--gres=gpu:1). For more GPUs ask for more tasks"
    )
    cpus: int | None = Field(None, ge=1, le=4096, description="CPU cores of one task. null: `run.threads`")
    memory_gb: int | None = Field(
        None, ge=1, le=1_000_000, description="memory of one task, GB. null: the default of the cluster"
    )
    max_running: int | None = Field(None, ge=1, le=100_000, description="most tasks that run at a time. null: all")
    options: dict[str, str | int | bool] = Field(
        default_factory=dict,
        description="other options of sbatch, without dashes: `{partition: gpu, account: lab, exclusive: true}`",
    )
    setup: tuple[str, ...] = Field(
        (), description="shell lines that run first, such as `module load cuda`. A line that fails ends the task"
    )
    folder: str | None = Field(
        None, description="folder of scripts and logs, which all nodes must see. null: `slurm` below the cache"
    )

    @property
    def asked_gpu(self) -> str:
        """Returns the option by which the config asks for a GPU, as text such as "run.slurm.gpus: 1". Returns "" if the
        config asks for no GPU.
        """
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
                f"gpus: given {self.gpus}, allowed: 0 or 1, because a task is one worker on one device. For "
                f"{self.gpus} GPUs ask for as many tasks (run.workers)"
            )
        return self

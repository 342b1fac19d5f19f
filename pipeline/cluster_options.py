"""Config of the `dask` executor: whose cluster, and how to reach it. Torch-free, and without dask."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from kinegraph.stages.options import MAX_SECONDS, StageOptions

LISTS = ("job_script_prologue", "worker_extra_args", "job_extra_directives", "job_directives_skip")  # of dask-jobqueue


class JobQueueOptions(StageOptions):
    """Dask workers as jobs of a batch system, started and stopped with the work there is (dask-jobqueue)."""

    kind: Literal["slurm", "pbs", "lsf", "sge"] = Field(description="the batch system")
    jobs: int = Field(1, ge=1, le=10_000, description="at most so many jobs at a time, one worker process each")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="keywords of dask-jobqueue's cluster: `{cores: 4, memory: 16GB, queue: gpu}`; its `walltime` is "
        "`run.walltime_seconds`",
    )

    @field_validator("options")
    @classmethod
    def _leave_time_to_us(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "walltime" in options:
            raise ValueError(
                f"walltime: given {options['walltime']!r}, allowed: run.walltime_seconds instead, so that workers know"
            )
        return options

    @field_validator("options")
    @classmethod
    def _one_line_is_a_list(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Dask-jobqueue would take its letters for lines."""
        return {key: [it] if key in LISTS and isinstance(it, str) else it for key, it in options.items()}


class DaskOptions(StageOptions):
    """The cluster of the `dask` executor: one on this machine with `run.workers` processes, unless another is named."""

    scheduler: str | None = Field(None, description="address of a scheduler that runs, as `tcp://host:8786`")
    scheduler_file: str | None = Field(None, description="file that such a scheduler wrote (`--scheduler-file`)")
    jobqueue: JobQueueOptions | None = Field(None, description="workers as jobs of a batch system: see below")
    interface: str | None = Field(
        None, description="network interface of a scheduler started here, as `ib0`; null: loopback, this machine alone"
    )
    dashboard: str = Field("127.0.0.1:0", description="where a scheduler started here shows its dashboard; port 0: any")
    memory_limit: str = Field(
        "auto", description="of a worker process started here, as `16GB`; beyond it is killed; auto: its equal share"
    )
    timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=MAX_SECONDS,
        description="a scheduler, and its first worker, must answer within it",
    )

    @model_validator(mode="after")
    def _names_one_cluster(self) -> "DaskOptions":
        given = [key for key in ("scheduler", "scheduler_file", "jobqueue") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{given[1]}: given beside {given[0]}, allowed: one of scheduler, scheduler_file, jobqueue"
            )
        return self

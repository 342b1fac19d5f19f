"""Defines all sections of a config, reads a config file and checks its values. Torch-free."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from kinegraph.cache_schemas.arrays import ARRAY_KINDS
from kinegraph.cache_schemas.compression import NONE, by_kind
from kinegraph.cache_schemas.documents import shortened
from kinegraph.pipeline.cluster_options import DaskOptions, SlurmOptions
from kinegraph.pipeline.config_file import did_you_mean, read_config_file, read_yaml, sentences
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.options import MAX_SECONDS, StageOptions, need
from kinegraph.stages.recipe import EntryName, Recipe
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.training.finetune_options import FinetuneOptions
from kinegraph.stages.training.options import TrainOptions

Codec = Literal["none", "lz4", "zstd"]
if TYPE_CHECKING:
    ArrayKind = str
else:
    ArrayKind = Literal[ARRAY_KINDS]
MOST_CLIPS = 32  # of a batch with `batch_size: auto`


class StoreOptions(StageOptions):
    """Options that say how the arrays of a cache are stored on disk, fixed when the cache is created."""

    kind: Literal["zarr", "hdf5"] = Field(
        "zarr",
        description="zarr: version 3, sharded. hdf5: a file per stage and shard, joined by data.h5, local paths only",
    )
    shard_clips: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        "auto", description="rows of a shard. auto: up to 64 rows, and no object over 256 MiB"
    )
    compression: Codec | dict[ArrayKind, Codec] = Field(
        "none",
        description="codec of zarr arrays (Blosc with bitshuffle): one for all arrays, or one for each kind, such as "
        "`{features: zstd}`",
    )


class RunOptions(StageOptions):
    """Options of the extraction: where it runs, the number of workers, and limits. They change no fingerprint."""

    executor: Literal["inline", "local", "dask", "slurm"] = Field(
        "local",
        description="inline: one thread, to debug. local: this machine. dask, slurm: clusters, see docs/cluster.md",
    )
    workers: int = Field(
        1,
        ge=1,
        le=10_000,
        description="number of processes on this machine (local, dask; `train` uses them for several runs), or of "
        "tasks in the job array (slurm)",
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        "auto",
        description="threads of one worker, for decoding and computing. auto: all cores divided among local workers, 1 "
        "with dask and slurm",
    )
    decode_threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="threads of one worker that decode videos ahead of the networks; their number changes no value. "
        "null: as many as `threads`. With `threads: auto` and a GPU, Dask workers then take their share of the "
        "machine's cores. With slurm it is at least `slurm.cpus`. `python -m benchmarks.feeding` says how many feed a "
        "GPU, see docs/gpu.md",
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:<index>. With auto and cuda, workers take the GPUs in turn. "
        "CUDA_VISIBLE_DEVICES=0,2 chooses among the GPUs",
    )
    compile: Literal["auto"] | bool = Field(
        False,
        description="run backbones through torch.compile, frozen on a CPU. Each worker then needs up to minutes at its "
        "start and a C++ compiler. auto: measured at the start of long runs and used where it saves time, see "
        "docs/networks.md",
    )
    cuda_graphs: bool = Field(
        False,
        description="on a GPU, record the kernels of each backbone once and start them by one call. This saves time "
        "with small batches. Networks that cannot be recorded run as without it, see docs/gpu.md",
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = Field(
        8,
        description="number of clips in one pass through a backbone. auto: the fastest of a few sizes, measured at the "
        "start and kept in the cache, see docs/networks.md",
    )
    video_timeout_seconds: float = Field(
        600.0,
        gt=0,
        le=MAX_SECONDS,
        description="time limit for decoding one video, and at `index` for probing one video on a disk",
    )
    lease_seconds: float = Field(
        300.0,
        gt=0,
        le=7 * 86_400,
        description="time without a sign of life after which another run takes over the shard of a worker",
    )
    walltime_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_SECONDS,
        description="time limit of each job of `dask.jobqueue`, of each task of the job array, or of this command, "
        "from its start. After the first shard, no shard begins that cannot end in time. A SLURM job also obeys its "
        "own limit",
    )
    staging: StagingOptions = Field(StagingOptions(), description="local copies of videos at URLs, see below")
    dask: DaskOptions = Field(DaskOptions(), description="cluster of the dask executor, see below")
    slurm: SlurmOptions = Field(SlurmOptions(), description="job array of the slurm executor, see below")

    @property
    def worker_threads(self) -> int:
        """Returns the number of CPU threads of one worker: the option `threads`, if it is a number.

        With `threads: auto`, all cores are divided among the local workers, and a worker on a cluster has 1 thread.
        """
        if self.threads != "auto":
            return self.threads
        return 1 if self.executor in ("dask", "slurm") else max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def decoders(self) -> int:
        """Returns the number of threads with which one worker decodes ahead of the networks, as the config sets it.
        Returns 0 with the executor `inline`, whose thread decodes and computes in turn.
        """
        if self.executor == "inline":
            return 0
        of_task = (self.slurm.cpus or 1) if self.executor == "slurm" else 1
        return self.decode_threads or max(self.worker_threads, of_task)

    @property
    def most_clips_of_a_batch(self) -> int:
        """Returns the number of clips of a batch. With `batch_size: auto`, returns the largest number that may be
        chosen.
        """
        return MOST_CLIPS if self.batch_size == "auto" else self.batch_size

    @property
    def jobs_walltime_seconds(self) -> float | None:
        """Returns the time limit in seconds of the batch jobs that run Dask workers. Returns None if there are no such
        jobs, or if the config sets no limit.

        The command itself may take longer than these jobs.
        """
        return self.walltime_seconds if self.executor == "dask" and self.dask.jobqueue is not None else None

    @property
    def command_walltime_seconds(self) -> float | None:
        """Returns the time limit of the command in seconds. With SLURM, this is the time limit of each task of the job
        array. Returns None if the config sets no limit, or if the limit is for batch jobs with Dask workers.
        """
        return self.walltime_seconds if self.jobs_walltime_seconds is None else None


class TrainSection(TrainOptions):
    """The training options of a config, with variants for `--head a,b,c`. A variant has the options of the section,
    except for the keys that it replaces.
    """

    variants: dict[EntryName, dict[str, Any]] = Field(
        default_factory=dict, description="name -> keys of this section that differ, for `--head a,b,c`"
    )

    @property
    def recipe(self) -> TrainOptions:
        """Returns the training options of this section, without the variants."""
        return TrainOptions(**self.model_dump(exclude={"variants"}))

    def variant(self, name: str) -> TrainOptions:
        """Returns the training options of the variant `name`, which must be a key of `variants`. The options of this
        section apply, but each key of the variant replaces the same key of the section.

        If the variant names another head than this section, `options` of the section is dropped.
        """
        keys, recipe = self.variants[name], self.model_dump(exclude={"variants"})
        if keys.get("head", self.head) != self.head:
            recipe["options"] = {}
        return TrainOptions(**recipe | keys)

    @model_validator(mode="after")
    def _variants_fit(self) -> "TrainSection":
        for name, keys in self.variants.items():
            unknown = keys.keys() - TrainOptions.model_fields.keys()
            near = "".join(did_you_mean(key, TrainOptions.model_fields) for key in sorted(unknown))
            allowed = f"keys of train: {[*TrainOptions.model_fields]}; {near}".rstrip("; ")
            need(not unknown, f"variants.{name}", ", ".join(sorted(unknown)), allowed)
            try:
                self.variant(name)
            except ValidationError as error:
                lines = (f"variants.{name}.{line}" for line in sentences(error, TrainOptions))
                raise ValueError("\n".join(lines)) from error
        return self


class _Place(StageOptions):
    """The base class of `Config` with the single key `cache`. It makes `cache` the first key in messages that list the
    keys of a config.
    """

    cache: str


class Config(Recipe, _Place):
    """The values of one config file. The config cannot be changed. `cache` is the path or URL of the cache. The
    sections say what is extracted, how the cache is stored (`store`), how the extraction runs (`run`), and how heads
    are trained (`train`, `finetune`). docs/config.md lists every key.
    """

    store: StoreOptions = StoreOptions()
    run: RunOptions = RunOptions()
    train: TrainSection = TrainSection()
    finetune: FinetuneOptions = FinetuneOptions()

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        self._check_store()
        for kind in KINDS.values():
            kind.check(self)
        return self

    def _check_store(self) -> None:
        if self.store.kind == "hdf5":
            is_folder = "://" not in self.cache or self.cache.startswith("file://")
            need(is_folder, "cache", self.cache, "a folder, with store.kind hdf5; zarr for a URL")
            given = self.store.model_dump()["compression"]
            plain = set(by_kind(given).values()) == {NONE}
            need(plain, "store.compression", given, "none, with kind hdf5")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML config file, checks its values, and returns the config.

    Each item of `overrides` replaces one value of the file. An item has the form "section.key=value", for example
    "run.workers=4", and the value is YAML. Raises ConfigError if the config cannot be used. The message names the file,
    the key path, the given value and the allowed values.
    """
    path = Path(path)
    document = read_config_file(path)
    for override in overrides:
        apply_override(document, override)
    return _with_own_heads(check_config(document, str(path)), path.parent)


def _with_own_heads(config: Config, folder: Path) -> Config:
    """Returns a copy of `config` with an absolute path in each `train.head` of the form "file.py:Class".

    In a config file these paths are relative to `folder`, the folder of the config file.
    """

    def placed(head: str) -> str:
        return str((folder / head).absolute()) if ".py:" in head else head

    variants = {
        name: keys | {"head": placed(keys["head"])} if "head" in keys else keys
        for name, keys in config.train.variants.items()
    }
    train = config.train.model_copy(update={"head": placed(config.train.head), "variants": variants})
    return config.model_copy(update={"train": train})


def check_config(document: dict[str, Any], where: str) -> Config:
    """Checks `document`, the content of a config file, and returns the config. Error messages begin with `where`, for
    example the path of the file.

    Raises ConfigError if a key is unknown or missing, or if a value is not allowed.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in sentences(error, Config, document))) from error


def apply_override(document: dict[str, Any], override: str) -> None:
    """Writes one value into `document`, the content of a config file that is not checked yet. `override` has the form
    "section.key=value".

    Raises ConfigError if `override` has another form, if the section is a plain value, or if the value is not YAML.
    """
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {shortened(override)}: expected section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        if document.get(section) is None:
            document[section] = {}
        document = document[section]
        if not isinstance(document, dict):
            raise ConfigError(
                f"--set {shortened(override)}: {section} is not a section but {shortened(repr(document))}",
            )
    document[last] = read_yaml(value, f"--set {shortened(override)}")

"""Reads the config file, and returns its values checked and immutable. Torch-free."""

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from kinegraph.cache_schemas.arrays import ARRAY_KINDS
from kinegraph.cache_schemas.compression import NONE, by_kind
from kinegraph.cache_schemas.documents import said, shortened
from kinegraph.cache_schemas.words import quoted
from kinegraph.pipeline.cluster_options import DaskOptions, SlurmOptions
from kinegraph.pipeline.config_file import read_config_file, read_yaml
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
MOST_LINES, MOST_WORDS = 20, 2000  # lines of an error, characters of a line
TAGS = ("kind", "source")  # keys that choose among the models of a section


class StoreOptions(StageOptions):
    """The layout of the arrays of a cache on disk: the store `kind`, the rows of a shard (`shard_clips`) and the
    `compression`. The layout is fixed when the cache is created.
    """

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
    """Options of the extraction: place, workers and limits. No key of this section enters a fingerprint."""

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
        """Returns the number of threads of one worker. It is the option `threads`, if that is a number.

        With `threads: auto`, all cores are divided among the local workers, and a worker on a cluster has 1 thread.
        """
        if self.threads != "auto":
            return self.threads
        return 1 if self.executor in ("dask", "slurm") else max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def decoders(self) -> int:
        """Returns the number of threads of one worker that decode ahead, as far as the config says it. With the
        executor `inline` it is 0.
        """
        if self.executor == "inline":
            return 0
        of_task = (self.slurm.cpus or 1) if self.executor == "slurm" else 1
        return self.decode_threads or max(self.worker_threads, of_task)

    @property
    def most_clips_of_a_batch(self) -> int:
        """Returns the number of clips of a batch, or with `batch_size: auto` the largest number that may be chosen."""
        return MOST_CLIPS if self.batch_size == "auto" else self.batch_size

    @property
    def jobs_walltime_seconds(self) -> float | None:
        """Returns the time limit in seconds of the batch jobs that run Dask workers. Returns None if no such jobs are
        used, or if the config sets no limit.

        The command itself may take longer than these jobs.
        """
        return self.walltime_seconds if self.executor == "dask" and self.dask.jobqueue is not None else None

    @property
    def command_walltime_seconds(self) -> float | None:
        """Returns the time limit of this command in seconds, or with SLURM the time limit of each task of the job
        array. Returns None if the config sets no limit.

        Returns None also if the limit in the config is that of batch jobs with Dask workers.
        """
        return self.walltime_seconds if self.jobs_walltime_seconds is None else None


class TrainSection(TrainOptions):
    """The section `train` of a config: the training recipe, and `variants` of it for `--head a,b,c`.

    `variants` maps the name of a variant to the keys and values in which it differs from the recipe.
    """

    variants: dict[EntryName, dict[str, Any]] = Field(
        default_factory=dict, description="name -> keys of this section that differ, for `--head a,b,c`"
    )

    @property
    def recipe(self) -> TrainOptions:
        return TrainOptions(**self.model_dump(exclude={"variants"}))

    def variant(self, name: str) -> TrainOptions:
        """Returns the options of the section `train` as a TrainOptions. The keys of the variant `name` replace those of
        the section. `name` must be a key of `variants`.

        If the variant names a head that is not `head` of the section, the head options of the section are dropped.
        """
        keys, recipe = self.variants[name], self.model_dump(exclude={"variants"})
        if keys.get("head", self.head) != self.head:
            recipe["options"] = {}
        return TrainOptions(**recipe | keys)

    @model_validator(mode="after")
    def _variants_fit(self) -> "TrainSection":
        for name, keys in self.variants.items():
            unknown = keys.keys() - TrainOptions.model_fields.keys()
            near = "".join(_meant(key, TrainOptions.model_fields) for key in sorted(unknown))
            allowed = f"keys of train: {[*TrainOptions.model_fields]}; {near}".rstrip("; ")
            need(not unknown, f"variants.{name}", ", ".join(sorted(unknown)), allowed)
            try:
                self.variant(name)
            except ValidationError as error:
                raise ValueError("\n".join(f"variants.{name}.{line}" for line in sentences(error))) from error
        return self


class _Place(StageOptions):
    """The base class of `Config` with the single key `cache`. Through this class `cache` is the first key of a config,
    and the first in messages that list the keys of a config.
    """

    cache: str


class Config(Recipe, _Place):
    """All sections of one config file. `store` is about the cache, `run` about the extraction, `train` and `finetune`
    about heads. The sections of `Recipe` say what is extracted. docs/config.md lists every key.
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
    """Reads a YAML config and returns the checked config. Each item of `overrides` replaces one value of the file
    (`run.workers=4`). The value after `=` is YAML.

    Raises ConfigError if the config cannot be used. The message names the file, the key path, the given value and the
    allowed values.
    """
    path = Path(path)
    document = read_config_file(path)
    for override in overrides:
        apply_override(document, override)
    return _with_own_heads(check_config(document, str(path)), path.parent)


def _with_own_heads(config: Config, folder: Path) -> Config:
    """Returns the config with an absolute path in each `train.head` of the form `file.py:Class`.

    In the config file these paths are relative to `folder`, the folder of the config file.
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
    """Checks the content `document` of a config file and returns the config. Error messages begin with `where`, such as
    the path of the file.

    Raises ConfigError if a key is unknown or missing, or if a value is not allowed.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in sentences(error, document))) from error


def apply_override(document: dict[str, Any], override: str) -> None:
    """Writes the value of `override` into `document`, the content of a config file before it is checked. `override` is
    a text of the form `section.key=value`.

    Raises ConfigError if the override has another form, if the section is a plain value, or if the value is not YAML.
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


def sentences(error: ValidationError, document: object = None, section: str | None = None) -> list[str]:
    """Returns the errors that pydantic found in `document`, one line per key: `key.path: what is wrong (given ...)`.

    If `document` is only one section of a config, `section` is its name. After 20 lines, a last line has the number of
    further errors.
    """
    words_of: dict[str, list[str]] = {}
    for entry in error.errors():
        if entry["type"] == "too_short" and entry["input"]:
            continue  # another entry is about the wrong item of this list
        key, words = _sentence(dict(entry), _written_keys(entry["loc"], document, entry["type"]), section)
        words_of.setdefault(key, []).append(words)
    told = [f"{shortened(key)}: {shortened(', or '.join(words), MOST_WORDS)}" for key, words in words_of.items()]
    return [*told[:MOST_LINES], *([f"and {len(told) - MOST_LINES} more"] if len(told) > MOST_LINES else [])]


def _written_keys(location: Sequence[int | str], document: object, kind: str) -> list[str]:
    """Returns the path to a wrong value as the keys in the config file, for example ["dataset", "root"].

    `location` is the path as pydantic reports it. It may contain names of types, which are not in the file and not in
    the result. `document` is the content of the file. `kind` is pydantic's type of the error, such as `missing`.
    """
    keys = []
    for number, part in enumerate(location, 1):
        below = dict(enumerate(document)) if isinstance(document, list) else document
        if isinstance(below, dict) and part in below:
            document = below[part]
        elif document is not None and not (kind == "missing" and number == len(location)):
            continue
        keys.append(str(part))
    return keys


def _sentence(entry: dict[str, Any], keys: Sequence[str], section: str | None) -> tuple[str, str]:
    """Returns a pair of texts about `entry`, an error that pydantic found in a config. The texts are the path of the
    key, such as `run.workers`, and its fault, such as `missing`.

    `keys` are the keys of the path. If only one section was checked, `section` is its name.
    """
    key, context = ".".join(map(quoted, keys)), entry.get("ctx", {})
    match entry["type"]:
        case "extra_forbidden":
            allowed_keys = _keys_at([*([section] if section else []), *(str(part) for part in entry["loc"][:-1])])
            listed = f"; {_meant(keys[-1], allowed_keys)}known here: {', '.join(allowed_keys)}" if allowed_keys else ""
            return key, f"unknown key{listed}"
        case "missing":
            return key, "missing"
        case "union_tag_not_found":
            return f"{key}.{_tag(context)}", "missing"
        case "union_tag_invalid":
            return (
                f"{key}.{_tag(context)}",
                f"given {shortened(repr(context['tag']))}, allowed: {context['expected_tags']}",
            )
        case "value_error":  # kinegraph's own checks: the text begins with the key below the section
            below, _, words = str(context["error"]).partition(": ")
            return ".".join([*map(quoted, keys), below]), words
    return key, f"{said(entry)} (given {shortened(repr(entry['input']))})"


def _meant(given: str, allowed_keys: Iterable[str]) -> str:
    """Returns a question such as `did you mean num_frames? `, or "" if no key in `allowed_keys` is similar to
    `given`.
    """
    near = get_close_matches(given, [*allowed_keys], n=1)
    return f"did you mean {near[0]}? " if near else ""


def _tag(context: dict[str, Any]) -> str:
    """Returns the name of the key by which the config chooses a type for a section: `kind` for data sets (`kind:
    kinetics`), `source` for proposals.

    `context` is the entry `ctx` of an error of pydantic.
    """
    return str(context["discriminator"]).strip("'")


def _keys_at(location: Sequence[str]) -> list[str]:
    """Returns the keys that are allowed at one place of the config, for the error about an unknown key.

    `location` has the keys that lead to this place, for example ["run", "slurm"].
    """
    model: Any = Config
    for part, below in pairwise([*location, ""]):
        fields = getattr(model, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else model
        model = _model_in(annotation, below)
    return list(getattr(model, "model_fields", ()))


def _model_in(annotation: Any, below: str) -> Any:
    """Returns the options class in a type annotation (`StoreOptions | None` -> StoreOptions), or None if there is none.

    Among several classes, the one whose `kind` or `source` is `below` is returned, else the first. For a dict, the
    options class of its values is returned.
    """
    if isinstance(annotation, type) and issubclass(annotation, StageOptions):
        return annotation
    members = getattr(annotation, "__args__", ())
    models = [m for m in members if isinstance(m, type) and issubclass(m, StageOptions)]
    tags = {m: str(m.model_fields[tag].annotation) for m in models for tag in TAGS if tag in m.model_fields}
    tagged = [m for m in models if f"'{below}'" in tags.get(m, "")]
    nested = [_model_in(member, below) for member in members if not isinstance(member, type)]
    return next(iter(tagged or models or [m for m in nested if m is not None]), None)

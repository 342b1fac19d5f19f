"""Writes and reads the folder of a trained head, called a run. The folder has the weights, `model.safetensors`, and the
record of the run, `run.json`.

`run.json` has everything else that is needed to build the head again. If the user wrote the head, the folder also has a
copy of its code, `head.py`.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kinegraph.cache_schemas.documents import RESTORE, Count, parsed, shortened
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.fingerprint import Options, differences
from kinegraph.cache_schemas.names import ObjectName
from kinegraph.cache_schemas.regular import NotRegularError, read_regular, require_regular
from kinegraph.cache_schemas.words import counted, sentence
from kinegraph.stages.clips.options import without_views
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.build import rebuild_head
from kinegraph.stages.heads.head import Head, HeadError, Spec, spec_of_videos
from kinegraph.stages.heads.own import OwnHead, is_own
from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import RECORD_FILE

MODEL_FILE = "model.safetensors"
EXTRACT_FILE = "extract.yaml"  # a config with the weights of a tuned run
CODE_FILE = "head.py"  # the code of the user's own head, where a run has one
SIDE_KEYS = ("size", "resize_short")  # options of a backbone that choose the side of its squares
Features = Mapping[str, Options]  # how the arrays that a head reads were made: stage key -> options


class RunError(UsageError):
    """Raised if a run cannot be written, read, or used for a cache. The message says what was seen and what to do."""


class RunNotFound(RunError, FileNotFoundError):
    """Raised if a folder holds no complete run, because it has no `run.json`."""


class RunExists(RunError, FileExistsError):
    """Raised if a folder already holds a run, and a new run would replace it or would not be comparable with it."""


class RunRecord(BaseModel):
    """The record of a trained head, which is the content of run.json.

    Runs of early versions have None for `features`, `recipe` and `weights_sha256`, and {} for `trained_on`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    # `cache`, `cache_fingerprint`: the path and the fingerprint of the cache
    cache: str
    # `head`, `options`: the name of the head, and its options with defaults filled in
    head: str
    options: dict[str, Any]
    reads: tuple[ObjectName, ...]  # the names of the arrays that the head reads
    # {name of the array: shape of one clip}, for each array that the head reads
    spec: dict[ObjectName, tuple[Count, ...]]
    # `num_classes`, `class_names`: the classes, in the order of the logits
    num_classes: int
    class_names: tuple[str, ...]
    classes_from: str = ""  # the file or rule that defines the order of the classes, or ""
    multi_label: bool  # whether a video may have several labels
    cache_fingerprint: str
    # {key of a stage: options of the stage}, for the stages that made the arrays
    features: dict[str, dict[str, Any]] | None = None
    recipe: dict[str, Any] | None = None  # the sections of the config that make the arrays for new videos
    metrics: dict[str, float]  # the best validation metric, such as {"val_top1": 0.5}. Empty without validation.
    train: TrainOptions  # the options of the training
    # A dictionary that identifies the clips, labels and classes of the run's splits
    trained_on: dict[str, Any] = Field(default_factory=dict)
    # The options of fine-tuning and the digest of the run from which it started. None for a run of `train`.
    finetune: dict[str, Any] | None = None
    weights_sha256: str | None = None  # the sha256 of model.safetensors
    kinegraph_version: str
    torch_version: str

    @model_validator(mode="after")
    def _classes_are_named(self) -> Self:
        if self.num_classes != len(self.class_names):
            raise ValueError(f"num_classes: given {self.num_classes}, but {len(self.class_names)} class_names")
        return self


def describe_run(
    head: Head,
    clips: Clips,
    options: TrainOptions,
    class_names: tuple[str, ...],
    metrics: dict[str, float],
    cache: str,
    features: Features,
    trained_on: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    classes_from: str = "",
) -> RunRecord:
    """Returns the RunRecord of the trained head `head`, which `save_run` writes to run.json. The head was trained on
    `clips`, with the training options `options`.

    - `class_names`: the names of the classes, in the order of the logits.
    - `metrics`: the best validation metric, such as {"val_top1": 0.5}. Empty without validation.
    - `cache`: the path of the cache.
    - `features`: {key of a stage: its options}, for the stages that made the arrays of the head.
    - `trained_on`: digests of the clips, labels and classes of the run's splits.
    - `recipe`: the sections of the config that make the arrays for new videos, or None.
    - `classes_from`: the file or rule that defines the order of the classes, or "".
    """
    return RunRecord(
        cache=cache,
        head=head.name,
        options=head.options,
        reads=head.reads,
        spec={name: clips.spec[name] for name in head.reads},
        num_classes=head.num_classes,
        class_names=class_names,
        classes_from=classes_from,
        multi_label=clips.multi_label,
        cache_fingerprint=clips.cache_fingerprint,
        features={key: dict(options) for key, options in features.items()},
        recipe=recipe,
        metrics=metrics,
        train=options,
        trained_on=trained_on,
        kinegraph_version=version("kinegraph"),
        torch_version=torch.__version__,
    )


def is_trained(folder: Path) -> bool:
    """Returns whether `folder` holds a complete run. A run is complete if its folder has `run.json`."""
    return (folder / RECORD_FILE).exists()


def require_free(folder: Path) -> None:
    """Raises RunExists if `folder` already holds a trained run. Call this function before the training starts, because
    the result could not be written afterwards.
    """
    if is_trained(folder):
        raise RunExists(f"{folder} holds a trained run already: choose another folder, or --overwrite it.")


def save_run(folder: Path, head: Head, record: RunRecord) -> None:
    """Writes the weights of `head` and the record of its training to `folder`. The record gets the sha256 of the
    weights, and is written last. So a folder with a record is a complete run.

    Raises RunExists if the folder already holds a trained run.
    """
    require_free(folder)
    weights = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in head.state_dict().items()})
    record = record.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    write_whole(folder / MODEL_FILE, [weights])
    write_whole(folder / RECORD_FILE, [record.model_dump_json(indent=2).encode()])


def load_run(folder: Path, *, allow_code: bool = False) -> tuple[Head, RunRecord]:
    """Returns (trained head, RunRecord) of the run in `folder`. The head is on the CPU, in evaluation mode.

    If the user wrote the head, the run has a copy of its code. The code is run only with `allow_code`.

    Raises RunNotFound if the folder has no record. Raises RunError if a file cannot be read, if the weights do not fit
    the record, or if code must be run and `allow_code` is false.
    """
    record = load_record(folder)
    return load_head(folder, record, allow_code=allow_code), record


def load_head(folder: Path, record: RunRecord, *, allow_code: bool = False) -> Head:
    """Returns the head that `record` describes, with the weights in `folder`. The head is on the CPU, in evaluation
    mode.

    If the user wrote the head, its code is run only with `allow_code`. Raises RunError if a file cannot be read, if the
    weights do not fit the head or were changed after the training, or if code must be run and `allow_code` is false.
    """
    name = _own_code(folder, record, allow_code=allow_code) if is_own(record.head) else record.head
    try:
        with torch.random.fork_rng([]):  # the first weights are drawn at random, and replaced
            spec = spec_of_videos(record.spec) if record.train.over == "videos" else record.spec
            head = rebuild_head(name, spec, record.num_classes, record.options)
    except HeadError as error:
        raise RunError(f"{folder / RECORD_FILE}: {error}") from error
    path = folder / MODEL_FILE
    try:
        require_regular(path)
        weights = path.read_bytes()
        head.load_state_dict(safetensors.torch.load(weights))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = sentence(shortened(str(error), 300))
        raise RunError(f"{path} is not the {record.head} that {RECORD_FILE} describes: {reason} {RESTORE}") from error
    if record.weights_sha256 not in (None, digest := hashlib.sha256(weights).hexdigest()):
        raise RunError(
            f"{path} has sha256 {digest[:12]}, {RECORD_FILE} says {record.weights_sha256[:12]}. It is the file of "
            f"another run, or it was changed after the training. {RESTORE}"
        )
    return head.eval()


def for_views(head: Head, folder: Path, record: RunRecord, spec: Spec, *, allow_code: bool = False) -> Head:
    """Returns a copy of a trained head that takes arrays of other shapes, with the same weights. For example, maps are
    larger if a backbone ran on larger frames. If the shapes are those of the training, returns `head` itself.

    `head` and `record` are those of the run in `folder`. `spec` maps the name of each array to its new shape for one
    clip. Raises RunError if the head takes maps of only one size. A user's own head needs `allow_code`, because its
    code is run.
    """
    views = {name: spec[name] for name in record.spec}
    if views == record.spec:
        return head
    name = _own_code(folder, record, allow_code=allow_code) if is_own(record.head) else record.head
    try:
        with torch.random.fork_rng([]):
            other = rebuild_head(name, views, record.num_classes, record.options)
        other.load_state_dict(head.state_dict())
    except (HeadError, RuntimeError) as error:
        sides = "; ".join(
            f"{array} is {views[array]}, the run's {shape}"
            for array, shape in record.spec.items()
            if views[array] != shape
        )
        raise RunError(
            f"The head {record.head} of {folder} takes maps of one size alone, those of its training ({sides}). "
            f"Extract views of the same side. ({sentence(shortened(str(error), 300))})"
        ) from error
    return other.eval()


def _own_code(folder: Path, record: RunRecord, *, allow_code: bool) -> OwnHead:
    """Returns the OwnHead, a head that the user wrote, from the copy of its code in the folder of a run. `record` has
    the name of the head and the sha256 of its code.

    Raises RunError if `allow_code` is false, or if the code was changed after the training. Raises HeadError if the
    copy cannot be read.
    """
    path = folder / CODE_FILE
    if not allow_code:
        raise RunError(
            f"{folder} has a head of its own, {record.head.partition('@')[0]}. Its code came with the run in {path}. "
            "Read it. If you trust it, give --allow-code, which runs it."
        )
    own = OwnHead.read(f"{path}:{record.head.partition('@')[0].rpartition(':')[2]}")
    trained = record.head.rpartition("@")[2]
    if own.digest != trained:
        raise RunError(
            f"{path} has sha256 {own.digest[:12]}, the run was trained with {trained[:12]}. The file was changed "
            "since. Put the code of the training back, or train again."
        )
    return own


def require_fit(record: RunRecord, spec: Spec, class_names: tuple[str, ...], *, any_side: bool = False) -> None:
    """Raises RunError unless a cache fits the trained head of `record`. The cache must have all arrays that the head
    reads, in the shapes of the training, and the same classes in the same order.

    `spec` maps the name of each cached array to its shape for one clip. `class_names` are the classes of the cache. If
    `any_side` is true, the heights and widths of maps may differ.
    """
    problems = [
        f"{name} is {spec.get(name, 'missing')}, {shape} is needed"
        for name, shape in record.spec.items()
        if spec.get(name) != shape and not (any_side and _differ_in_side(spec.get(name), shape))
    ]
    if class_names != record.class_names:
        problems.append(
            f"it has {counted(len(class_names), 'class')}, not the run's {record.num_classes}, or another order: "
            "name them in dataset.classes"
        )
    if problems:
        raise RunError(
            f"This cache does not fit the run ({record.head}, trained on cache {record.cache_fingerprint}): "
            f"{'; '.join(problems)}. Extract with the options of the run's cache, or train again."
        )


def _differ_in_side(cached: tuple[int, ...] | None, trained: tuple[int, ...]) -> bool:
    """Returns whether both shapes are shapes of maps (T, C, H, W) with equal T and C. `cached` may be None."""
    return cached is not None and len(cached) == len(trained) == 4 and cached[:2] == trained[:2]


def require_same_kind_of_labels(record: RunRecord, clips: Clips) -> None:
    """Raises RunError if videos had one label in the training of `record` and may have several labels in `clips`, or
    the reverse.
    """
    if clips.multi_label != record.multi_label:
        many, one = "many labels a video", "one label a video"
        trained, cached = (many, one) if record.multi_label else (one, many)
        raise RunError(
            f"The run was trained on {trained}, this cache has {cached}. Say which it is by dataset.multi_label and "
            "run `kinegraph index` again, or train again."
        )


def require_same_features(
    record: RunRecord,
    features: Features,
    fingerprint: str,
    upgraded_from: str | None = None,
    *,
    any_side: bool = False,
) -> None:
    """Raises RunError if the features of a cache were made with other options than the features on which the run of
    `record` was trained. The number of clips per video and their crops may differ.

    - `features`: {key of a stage: its options} of the cache.
    - `fingerprint`: the fingerprint of the cache.
    - `upgraded_from`: the fingerprint that the cache had before an upgrade to a later version, or None. An upgrade
      after the training is allowed.
    - `any_side`: whether the backbones may have run on frames of another size.
    """
    if record.cache_fingerprint in (fingerprint, upgraded_from):
        return
    is_upgraded = upgraded_from not in (None, fingerprint)
    if record.features is None:  # runs of early versions record only the fingerprint
        changed = [f"fingerprint: {record.cache_fingerprint[:12]} -> {fingerprint[:12]}"]
    else:
        trained, cached = (_of_any_view(each, is_upgraded, any_side) for each in (record.features, features))
        changed = differences(trained, cached)
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        advice = "Extract them as the run's cache was, or train again."
        if record.finetune is not None:
            advice = (
                f"The run was fine-tuned. The config {EXTRACT_FILE} beside its {RECORD_FILE} has its weights: "
                "`kinegraph index` and `kinegraph extract` it, then `kinegraph evaluate RUN --cache CACHE`."
            )
        raise RunError(
            f"The features were made with other options than those the run was trained on (the run's -> this "
            f"cache's):\n{lines}\n{advice}"
        )


def _of_any_view(features: Features, is_upgraded: bool, any_side: bool) -> Features:
    """Returns `features`, {key of a stage: options of the stage}, without the options that may differ between a cache
    and a run.

    These are the options of `clips` that choose the clips and crops of a video. With `is_upgraded`, the version of the
    rules for choosing frames is left out too. With `any_side`, the size of the frames that the backbones saw is left
    out too.
    """
    clips = without_views(features.get("clips", {}))
    if is_upgraded:
        clips.pop("version", None)
    left_out = SIDE_KEYS if any_side else ()
    others = {
        key: {name: options[name] for name in options if name not in left_out} for key, options in features.items()
    }
    return others | ({"clips": clips} if "clips" in features else {})


def load_record(folder: Path) -> RunRecord:
    """Reads the file run.json of `folder` and returns it as a RunRecord.

    Raises RunNotFound if the file does not exist. Raises RunError if the file cannot be read or is not the record of a
    run.
    """
    path = folder / RECORD_FILE
    try:
        return parsed(str(path), read_regular(path), RunRecord, f"{RESTORE} Or train again with --overwrite.")
    except FileNotFoundError as error:
        raise RunNotFound(
            f"{path.parent} holds no complete run: {RECORD_FILE} is missing there and in all folders below. "
            "Name a run, or a folder of runs, or train one."
        ) from error
    except NotADirectoryError as error:
        raise RunError(f"{folder} is a file. Name the folder of a run, in which {RECORD_FILE} lies.") from error
    except (NotRegularError, CacheError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {sentence(error)}") from error

"""Copies the weights of a trained run into a new head, for `train.start_from`: a training in several stages, or
transfer to another data set.
"""

import logging
from pathlib import Path

import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_fingerprint, features_options
from kinegraph.cache_schemas.words import few_of
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.build import rebuild_head
from kinegraph.stages.heads.candidates import candidates_of
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.checkpoint import (
    RunNotFound,
    RunRecord,
    load_head,
    load_record,
    require_same_features,
)
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import RECORD_FILE

DIGITS = 12  # of the digest of the weights, in the record of a run that started from them
SHOWN = 3  # names of layers in a message
log = logging.getLogger("kinegraph")


def with_digest(options: TrainOptions) -> TrainOptions:
    """Returns a copy of `options` in which `start_from` also has the digest of the weights: "runs/a" -> "runs/a@1f0c".
    So trainings that start from different weights have different options.

    `start_from` is the folder of the run whose weights the training starts from. If `start_from` is None, returns
    `options` unchanged. Raises RunNotFound or RunError if the folder has no run.
    """
    if options.start_from is None:
        return options
    digest = _record_of(Path(options.start_from)).weights_sha256 or ""
    return options.model_copy(update={"start_from": f"{options.start_from}@{digest[:DIGITS]}"})


def start_from(head: Head, folder: Path, cache: Cache) -> None:
    """Copies the weights of the trained run in `folder` into `head`. If `cache` has other classes than the run, the
    layers that depend on the number of classes keep their initial weights, and their names are logged.

    Raises UsageError if the run has another head or other head options, or if `head` has several candidates. Raises
    RunNotFound or RunError if the run cannot be read, or if its features have other options than those in `cache`.
    """
    if len(candidates_of(head)) > 1:
        raise UsageError(
            f"train.start_from: {head.name} has several candidates, which start from equal fresh weights. Leave the "
            "key out, or give one number in `learning_rates` and in `weight_decays`."
        )
    record = _record_of(folder)
    if record.head != head.name:
        raise UsageError(f"train.start_from: {folder} has the head {record.head}, and this run trains {head.name}.")
    fingerprint = features_fingerprint(cache, head.reads)
    before = features_fingerprint(cache, head.reads, before_upgrade=True)
    require_same_features(record, features_options(cache, head.reads), fingerprint, before)
    weights, own = load_head(folder, record).state_dict(), head.state_dict()
    fresh = [] if record.class_names == tuple(cache.classes) else _of_classes(record)
    kept = {name: tensor for name, tensor in weights.items() if name not in fresh}
    others = [name for name in own.keys() ^ weights.keys() if name not in fresh]
    others += [name for name, tensor in kept.items() if name in own and own[name].shape != tensor.shape]
    if others:
        raise UsageError(
            f"train.start_from: the {record.head} of {folder} has other layers ({few_of(sorted(others), SHOWN)}). "
            "Give it the options that the run has."
        )
    head.load_state_dict(own | kept)
    if fresh:
        log.info("start_from %s: its classes are others, so these layers are fresh: %s", folder, ", ".join(fresh))


def _record_of(folder: Path) -> RunRecord:
    try:
        return load_record(folder)
    except RunNotFound as error:
        raise RunNotFound(
            f"train.start_from: {folder} holds no trained run. Name the folder of one run, in which {RECORD_FILE} lies."
        ) from error


def _of_classes(record: RunRecord) -> list[str]:
    """Returns the names of those tensors of a run's head whose shape depends on the number of classes."""
    with torch.device("meta"):
        heads = [rebuild_head(record.head, record.spec, record.num_classes + more, record.options) for more in (0, 1)]
    first, second = (head.state_dict() for head in heads)
    return [name for name, tensor in first.items() if second[name].shape != tensor.shape]

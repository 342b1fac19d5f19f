"""Loads the start of a fine-tuning: a trained run, the backbones that make its features, and both as one trainable
module.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinegraph.cache_schemas.arrays import CLASS_SUFFIX, HEAD
from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.fingerprint import are_imported
from kinegraph.pipeline.caches.declared import declare, known_digests
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.training.table import wanted_runs
from kinegraph.pipeline.training.trainable import spec_of
from kinegraph.stages.backbones.build import backbone_digest, build_from_options
from kinegraph.stages.backbones.extract import Normalised
from kinegraph.stages.backbones.pixels import pixels_of
from kinegraph.stages.device import move_network
from kinegraph.stages.heads.head import FeatureSource, Head, HeadError
from kinegraph.stages.heads.inputs import crop_array
from kinegraph.stages.heads.online import OnlineEntry, OnlineHead, arrays_of_entry
from kinegraph.stages.training.checkpoint import (
    MODEL_FILE,
    RunError,
    RunRecord,
    load_head,
    load_record,
    require_fit,
    require_same_features,
)
from kinegraph.stages.training.options import FREE, TrainOptions


@dataclass(frozen=True, kw_only=True)
class TuningStart:
    """The trained run from which fine-tuning starts, and the backbones whose features its head reads."""

    folder: Path  # the folder of the run
    record: RunRecord  # the record of its training
    head: Head  # the trained head
    entries: tuple[OnlineEntry, ...]  # the backbones whose features the head reads
    networks: tuple[Normalised, ...]  # the networks of these backbones, in the same order
    digests: Mapping[str, str]  # stage key -> digest of the weights
    keys: tuple[str, ...]  # the keys of the stages whose arrays the head reads
    weights_sha256: str  # the digest of the head's weights


def start_of(config: Config, cache: Cache, *, allow_code: bool) -> TuningStart:
    """Loads the trained run from which the fine-tuning of `config` starts, and the backbones that make its features.
    Returns them as a TuningStart.

    `allow_code` says whether the source code of a user's own head may run. Raises RunError if the run was trained on
    imported features, on whole videos, or on other features or classes than those of `config` and `cache`. Raises
    HeadError if the head reads no array of a backbone.
    """
    folder = Path(config.finetune.start or wanted_runs(config, (), 1)[0].folder)
    record = load_record(folder)
    features = {key: options for key, options in (record.features or {}).items() if key.startswith(FEATURES)}
    if any(map(are_imported, features.values())):
        raise RunError(f"{folder} was trained on imported features. There is no network of theirs to tune.")
    if record.train.over == "videos":
        raise RunError(f"{folder} was trained over whole videos. Only heads that were trained over clips can be tuned.")
    spec = spec_of(cache)
    entries = tuple(entry for name in config.backbones if (entry := _entry(config, name, record.reads, spec)).taps)
    if not entries:
        raise HeadError(
            f"{folder} ({record.head}) reads {', '.join(record.reads)}. No entry of `backbones` makes one of these "
            "arrays, so there is nothing to tune."
        )
    require_fit(record, spec, tuple(cache.classes))
    networks, digests = [], known_digests(config, cache)
    for entry in entries:
        options = config.backbones[entry.name]
        network = build_from_options(options)
        digests[f"{FEATURES}{entry.name}"] = backbone_digest(network, config.entry_of(entry.name), options.weights)
        network.cut([tap.name for tap in entry.taps])
        networks.append(Normalised(network, pixels_of(options)))
    keys = tuple(sorted({cache.array(name).stage for name in record.reads}))
    require_same_features(record, *declare(config, digests, cache).made(keys))
    return TuningStart(
        folder=folder,
        record=record,
        head=load_head(folder, record, allow_code=allow_code),
        entries=entries,
        networks=tuple(networks),
        digests=digests,
        keys=keys,
        weights_sha256=record.weights_sha256 or hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest(),
    )


def _entry(config: Config, name: str, reads: tuple[str, ...], spec: Mapping[str, Any]) -> OnlineEntry:
    """Returns the backbone `name` of `config`, with those of its taps whose arrays the head reads. It has no taps if
    the head reads no array of the backbone.

    `reads` has the names of all arrays that the head reads. The keys of `spec` are the names of the cached arrays.
    """
    size, regions = (
        config.size_of(name),
        config.regions if config.regions and name in config.regions.backbones else None,
    )
    entry = OnlineEntry(
        name=name, taps=(), size=size, crop_array=crop_array(FeatureSource(name, ""), spec), regions=regions
    )
    read, options = {array.rpartition("/")[2] for array in arrays_of_entry(entry, reads)}, config.backbones[name]
    read_taps = [tap for tap in options.taps if read & {tap, f"{tap}_pooled", f"{tap}{CLASS_SUFFIX}"}]
    if HEAD in read and not read_taps:
        read_taps = [options.taps[-1]]  # an entry has a tap; the output `head` keeps the layers above it
    taps = tuple(config.tap_of(name, tap) for tap in read_taps)
    return OnlineEntry(**vars(entry) | {"taps": taps})


def online_head(config: Config, start: TuningStart, device: torch.device) -> OnlineHead:
    """Returns the head and the backbones of `start` as one module on `device`, which computes logits from pixels.

    The layers that the section `finetune` of `config` unfreezes are trainable, and all other layers are frozen.
    `options` of the module has the key "finetune", which identifies the fine-tuning.
    """
    options = config.finetune
    for network in start.networks:
        move_network(network, device)
    online = OnlineHead(start.head, start.entries, start.networks, clips_per_pass=options.clips_per_pass)
    taps = None if options.unfreeze == "all" else options.unfreeze
    online.unfreeze(taps, options.batch_norm, options.learning_rate_factor, options.layer_decay)
    online.options = start.head.options | {"finetune": identity_of(config, start)}
    return online


def identity_of(config: Config, start: TuningStart) -> dict[str, Any]:
    """Returns a dict that identifies a fine-tuning. A fine-tuning that was stopped continues only if its recorded dict
    is equal to this dict.

    The dict has the options that only the section `finetune` has, and the digests of the weights of the head and the
    backbones of `start`.
    """
    online = {*type(config.finetune).model_fields} - {*TrainOptions.model_fields} - FREE
    options = config.finetune.model_dump(mode="json", include=online)
    weights = {entry.name: start.digests[f"{FEATURES}{entry.name}"] for entry in start.entries}
    return options | {"start_sha256": start.weights_sha256, "start_weights": weights}

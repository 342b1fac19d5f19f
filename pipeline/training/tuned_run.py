"""Writes a tuned run: its weights, its record, and a config that extracts with the weights of its backbones."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import yaml

from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.training.results import RunResults, write_results
from kinegraph.pipeline.training.tuning_start import TuningStart, identity_of
from kinegraph.stages.backbones.entry import GEOMETRY, PAPER
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import pixels_of
from kinegraph.stages.heads.online import OnlineEntry
from kinegraph.stages.training.checkpoint import EXTRACT_FILE, describe_run, save_run
from kinegraph.stages.training.options import HEAD
from kinegraph.stages.training.state import remove_state


@dataclass(frozen=True, kw_only=True)
class TunedRun:
    """The result of fine-tuning: the run in `folder`, with a head and backbones that were trained together. `results`
    has its scores.

    `config_file` is a config with which `kinegraph extract` uses the tuned weights.
    """

    folder: Path
    results: RunResults
    config_file: Path


def save_tuned(
    folder: Path,
    config: Config,
    cache: Cache,
    start: TuningStart,
    clips: CachedClips,
    results: RunResults,
    metrics: dict[str, float],
) -> None:
    """Saves the tuned run in `folder`: the `results`, the tuned weights, a config for extracting with them, the head
    and the record of the run.

    `start` has the tuned head and backbones. `clips` are the training clips, and `metrics` are the scores of the best
    epoch. The record is written last, so a folder without a record is an unfinished run. The state of the training is
    removed.
    """
    write_results(folder, results)
    digests, backbones = dict(start.digests), dict(config.backbones)
    for entry, network in zip(start.entries, start.networks, strict=True):
        weights = {name: values.cpu().contiguous() for name, values in network.network.state_dict().items()}
        content = safetensors.torch.save(weights)
        file = folder / f"{entry.name}.safetensors"
        write_whole(file, [content])
        digests[f"{FEATURES}{entry.name}"] = hashlib.sha256(content).hexdigest()
        backbones[entry.name] = _tuned_options(config, entry, str(file.resolve()))
    tuned = config.model_copy(update={"backbones": backbones})
    write_whole(folder / EXTRACT_FILE, [_config_text(tuned, folder).encode()])
    features, fingerprint = declare(tuned, digests, cache).made(start.keys)
    recipe = tuned.document()
    for entry in start.entries:  # a run may be moved with its weights
        recipe["backbones"][entry.name]["weights"] = f"{entry.name}.safetensors"
    record = describe_run(
        start.head, clips, config.finetune.shared_with_train, tuple(cache.classes), metrics, cache=cache.location,
        features=features, trained_on=results.trained_on, recipe=recipe,
        classes_from=cache.classes_from,
    )  # fmt: skip
    added = {"cache_fingerprint": fingerprint, "finetune": {"start": str(start.folder)} | identity_of(config, start)}
    save_run(folder, start.head, record.model_copy(update=added))
    remove_state(folder)


def _tuned_options(config: Config, entry: OnlineEntry, file: str) -> BackboneOptions:
    """Returns the BackboneOptions that extract with the backbone `entry` after fine-tuning. Its weights are in the file
    `file`.

    With published weights, their name also decides how frames are resized, cut and normalised, and some options of the
    network. The name of a file decides nothing. So the returned options state all this one by one.
    """
    options, backbone = config.backbones[entry.name], config.entry_of(entry.name)
    own = {GEOMETRY: PAPER} if GEOMETRY in backbone.options else {}
    stated = asdict(config.framing_of(entry.name)) | asdict(pixels_of(options))
    stated |= {"weights": file, "taps": [tap.name for tap in entry.taps], "options": own | dict(backbone.chosen)}
    return BackboneOptions(**options.model_dump() | stated)


def _config_text(tuned: Config, folder: Path) -> str:
    """Returns the text of a YAML config that extracts with the tuned weights. `tuned` is the config with these weights,
    and `folder` the folder of the fine-tuning.

    The returned config has a new cache, `<cache>-tuned`, and new folders for its runs. So the present cache and runs
    are kept.
    """
    document = tuned.model_dump(mode="json", exclude_unset=True, exclude={"finetune"})
    document["cache"] = f"{tuned.cache.rstrip('/')}-tuned"
    document.setdefault("train", {})["run"] = f"{folder}-trained/{HEAD}"
    document["finetune"] = {"run": f"{folder}-tuned/{HEAD}"}
    return f"# Extracts with the weights that `kinegraph finetune` made in {folder}.\n" + yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True
    )

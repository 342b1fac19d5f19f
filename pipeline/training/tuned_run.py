"""Writes the result of fine-tuning: the weights, the record of the run, and a config that extracts with the new
weights.
"""

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
    """The result of fine-tuning: a run whose head and backbones were trained together."""

    folder: Path  # the folder of the run
    results: RunResults  # its scores and other results
    config_file: Path  # a config with which `kinegraph extract` uses the tuned weights


def save_tuned(
    folder: Path,
    config: Config,
    cache: Cache,
    start: TuningStart,
    clips: CachedClips,
    results: RunResults,
    metrics: dict[str, float],
) -> None:
    """Writes a tuned run to `folder`: the results, the tuned weights of the backbones, a config that extracts with
    them, the head and, last, the record of the run. Then removes the state of the training.

    `start` has the tuned head and backbones. `clips` are the training clips. `results` are the results of the training,
    and `metrics` are the scores of the best epoch.
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
    """Returns the options in `backbones` of a config for the tuned backbone `entry`, whose weights are in `file`.

    The name of published weights also decides how frames are resized, cut and normalised, and sets options of the
    network. The name of a file does not. So the returned options state all of them.
    """
    options, backbone = config.backbones[entry.name], config.entry_of(entry.name)
    own = {GEOMETRY: PAPER} if GEOMETRY in backbone.options else {}
    stated = asdict(config.framing_of(entry.name)) | asdict(pixels_of(options))
    stated |= {"weights": file, "taps": [tap.name for tap in entry.taps], "options": own | dict(backbone.chosen)}
    return BackboneOptions(**options.model_dump() | stated)


def _config_text(tuned: Config, folder: Path) -> str:
    """Returns the text of a YAML config that extracts with the tuned weights. `tuned` is the config with these weights,
    and `folder` is the folder of the tuned run.

    The YAML config has another cache, `<cache>-tuned`, and other folders for runs, so that the present cache and runs
    stay.
    """
    document = tuned.model_dump(mode="json", exclude_unset=True, exclude={"finetune"})
    document["cache"] = f"{tuned.cache.rstrip('/')}-tuned"
    document.setdefault("train", {})["run"] = f"{folder}-trained/{HEAD}"
    document["finetune"] = {"run": f"{folder}-tuned/{HEAD}"}
    return f"# Extracts with the weights that `kinegraph finetune` made in {folder}.\n" + yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True
    )

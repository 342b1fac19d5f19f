"""`kinegraph finetune` trains backbones and a head together. It starts from a trained run, and reads boxes from a cache
and pixels from the videos.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml

from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.files import sweep, write_whole
from kinegraph.cache_schemas.fingerprint import are_imported
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.declared import declare, known_digests
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.training.decoded_clips import DecodedClips, Decoding, decoding, require_same_videos
from kinegraph.pipeline.training.one_run import (
    OnRunEpoch,
    OnRunStep,
    discard,
    results_of,
    run_training,
    tell_of_absent_classes,
    tell_of_gaps,
    unheard,
)
from kinegraph.pipeline.training.recipes import short
from kinegraph.pipeline.training.results import RunResults, write_results
from kinegraph.pipeline.training.table import wanted_runs
from kinegraph.pipeline.training.trainable import spec_of
from kinegraph.pipeline.wanted_run import RunPlace
from kinegraph.stages.backbones.build import backbone_digest, build_backbone
from kinegraph.stages.backbones.entry import GEOMETRY, PAPER
from kinegraph.stages.backbones.extract import FeatureExtractor, Normalised
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import pixels_of
from kinegraph.stages.clips.views import ViewOptions, check_views
from kinegraph.stages.device import DTYPES_STORED, frozen_on, pick_device
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.head import FeatureSource, Head, HeadError
from kinegraph.stages.heads.inputs import seen_by
from kinegraph.stages.heads.online import OnlineEntry, OnlineHead, made_from
from kinegraph.stages.training import together
from kinegraph.stages.training.checkpoint import (
    CODE_FILE,
    EXTRACT_FILE,
    MODEL_FILE,
    RunError,
    RunRecord,
    describe_run,
    load_head,
    load_record,
    require_fit,
    require_free,
    require_same_features,
    save_run,
)
from kinegraph.stages.training.evaluation import EvaluationResult, evaluate
from kinegraph.stages.training.options import HEAD, TrainOptions
from kinegraph.stages.training.state import STATE_FILE, remove_state

SIDED = re.compile(r"(?<![a-z])(left|right)(?!over)")
log = logging.getLogger("kinegraph")


@dataclass(frozen=True, kw_only=True)
class StepZero:
    """Compares two ways to compute the scores of `num_clips` clips, before the first step of a fine-tuning. One way
    begins at the pixels, the other at cached features. The scores are logits, the outputs of the head.

    `as_extracted` is the largest difference of a score if the features are computed from pixels exactly as an
    extraction computes them: with its precision, its rounding, and batch norms merged into other layers. `as_trained`
    is for features from the network in the form in which it is trained. It is the root mean square of the differences,
    divided by the standard deviation of the scores from cached features.
    """

    num_clips: int
    as_extracted: float
    as_trained: float


@dataclass(frozen=True, kw_only=True)
class TunedRun:
    """The result of fine-tuning: the run in `folder`, with a head and backbones that were trained together.
    `config_file` is a config with which `kinegraph extract` uses the tuned weights.
    """

    folder: Path
    results: RunResults
    config_file: Path


@dataclass(frozen=True, kw_only=True)
class _Start:
    """The run that fine-tuning starts from, and the backbones that make its features.

    `entries` are the backbone entries whose features the head reads. `networks` are their networks, in the same order.
    `digests` maps stage keys to digests of the weights. `keys` are the keys of the stages whose arrays the head reads.
    """

    folder: Path
    record: RunRecord
    head: Head
    entries: tuple[OnlineEntry, ...]
    networks: tuple[Normalised, ...]
    digests: Mapping[str, str]
    keys: tuple[str, ...]


def finetune(
    config: Config,
    *,
    overwrite: bool = False,
    allow_code: bool = False,
    on_epoch: OnRunEpoch = unheard,
    on_step: OnRunStep = unheard,
    on_start: Callable[[StepZero], None] = lambda step: None,
) -> TunedRun:
    """Trains the head of a run together with the backbones whose features the head reads, as the section `finetune` of
    the config says.

    Writes and returns the tuned run: an ordinary run, with a file `<entry>.safetensors` for each backbone and a config
    that extracts with these files. Boxes come from the cache of the config, pixels from the videos of the cache. A call
    that was cut off goes on from its last state. With `overwrite`, the run in the folder is removed first. If the head
    is a user's own, its source code runs only with `allow_code`. `on_start` is called before the first step with a
    comparison of the scores from pixels and from cached features.

    Raises RunError or HeadError if the run to start from does not fit the cache or has nothing to tune, RunExists if
    the folder holds a trained run, VideosChanged before the first step if videos are gone or have changed, and
    VideoLost if a video cannot be decoded later.
    """
    options, cache = config.finetune, Cache(config.cache)
    start = _start(config, cache, allow_code=allow_code)
    name = short(start.record.head.partition("@")[0])
    folder, options = Path(options.run.replace(HEAD, name)), options.model_copy(update={"head": start.record.head})
    config = config.model_copy(update={"finetune": options})
    if folder.resolve() == start.folder.resolve():
        raise UsageError(f"finetune.run: given {folder}, which is the run to start from; name another folder")
    if not overwrite:
        require_free(folder)
    _require_mirror_is_right(config, cache)
    device = pick_device(config.run.device)
    torch.set_num_threads(config.run.worker_threads)  # as in an extraction
    with together.acquainted(device), ExitStack() as opened:
        device, is_first = together.own_device(device), together.rank() == 0
        online = _online(config, start, device)
        clips, val_clips = _clips(config, cache, start, online, opened.enter_context(decoding(config)))
        if is_first:
            if overwrite:
                discard(folder)
            _begin(folder, start)
            if not (folder / STATE_FILE).exists():
                on_start(_step_zero(config, start, online, clips if val_clips is None else val_clips, device))
        together.meet()
        place = RunPlace(name=f"{name} tuned", seed=options.seed)
        result = run_training(
            folder, online, clips, val_clips, options, device, place, on_epoch=on_epoch, on_step=on_step
        )
        results = results_of(f"{name}_tuned", options, result, clips, val_clips, device)
        if is_first:
            metrics = {f"val_{result.metric}": result.best_metric} if result.best_metric is not None else {}
            write_results(folder, results)
            _save(folder, config, cache, start, clips, results, metrics)
    return TunedRun(folder=folder, results=results, config_file=folder / EXTRACT_FILE)


def score_from_pixels(run: TunedRun, split: str) -> EvaluationResult:
    """Scores a tuned run on a split of its cache. Features are computed from the videos, in float32."""
    config = load_config(run.config_file)
    cache = Cache(load_record(run.folder).cache)
    options = config.finetune.model_copy(update={"start": str(run.folder)})
    config = config.model_copy(update={"cache": cache.location, "finetune": options})
    start, device = _start(config, cache, allow_code=True), pick_device(config.run.device)
    online = _online(config, start, device).to(device)
    with decoding(config) as decoder:
        clips = _split(config, cache, start, online, decoder, split)
        return evaluate(online, clips, options, device=device)


def _start(config: Config, cache: Cache, *, allow_code: bool) -> _Start:
    """Loads the run to start from, and builds the backbones that make its features.

    Raises RunError if the run was trained on other features or classes than those of the config and its cache, or on
    imported features. Raises HeadError if no backbone of the config makes an array that the head reads.
    """
    folder = Path(config.finetune.start or wanted_runs(config, (), 1)[0].folder)
    record = load_record(folder)
    features = {key: options for key, options in (record.features or {}).items() if key.startswith(FEATURES)}
    if any(map(are_imported, features.values())):
        raise RunError(f"{folder} was trained on imported features. There is no network of theirs to tune.")
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
        network = build_backbone(options.model, options.weights, options.taps, **options.options)
        digests[f"{FEATURES}{entry.name}"] = backbone_digest(network, config.entry_of(entry.name), options.weights)
        network.cut([tap.name for tap in entry.taps])
        networks.append(Normalised(network, pixels_of(options)))
    keys = tuple(sorted({cache.array(name).stage for name in record.reads}))
    require_same_features(record, *declare(config, digests, cache).made(keys))
    return _Start(
        folder=folder,
        record=record,
        head=load_head(folder, record, allow_code=allow_code),
        entries=entries,
        networks=tuple(networks),
        digests=digests,
        keys=keys,
    )


def _entry(config: Config, name: str, reads: tuple[str, ...], spec: Mapping[str, Any]) -> OnlineEntry:
    """Returns the backbone `name` with those of its taps whose arrays the head reads. If the head reads no array of
    this backbone, there are no taps.

    `reads` has the names of all arrays that the head reads.
    """
    size, regions = (
        config.size_of(name),
        config.regions if config.regions and name in config.regions.backbones else None,
    )
    entry = OnlineEntry(name=name, taps=(), size=size, seen=seen_by(FeatureSource(name, ""), spec), regions=regions)
    read = {array.rpartition("/")[2].removesuffix("_pooled") for array in made_from(entry, reads)}
    taps = tuple(config.tap_of(name, tap) for tap in config.backbones[name].taps if tap in read)
    return OnlineEntry(**vars(entry) | {"taps": taps})


def _online(config: Config, start: _Start, device: torch.device) -> OnlineHead:
    """Returns one module with the backbones and the head behind them, on `device`. The layers that the section
    `finetune` of the config unfreezes will be trained, all others stay frozen.

    `options` of the module also has the key `finetune`, which records the run from which the fine-tuning starts.
    """
    options = config.finetune
    for network in start.networks:
        frozen_on(network, device)
    online = OnlineHead(start.head, start.entries, start.networks, clips_per_pass=options.clips_per_pass)
    taps = None if options.unfreeze == "all" else options.unfreeze
    online.unfreeze(taps, options.batch_norm, options.learning_rate_factor, options.layer_decay)
    online.options = start.head.options | {"finetune": _identity(config, start)}
    return online


def _identity(config: Config, start: _Start) -> dict[str, Any]:
    """Returns a dict of what a tuned run depends on besides its clips and the keys of `train`: the keys that only the
    section `finetune` has, and the digests of the run to start from and of its backbones.
    """
    model = hashlib.sha256((start.folder / MODEL_FILE).read_bytes()).hexdigest()
    online = {*type(config.finetune).model_fields} - {*TrainOptions.model_fields} - {"start", "decode_threads"}
    options = config.finetune.model_dump(mode="json", include=online)
    weights = {entry.name: start.digests[f"{FEATURES}{entry.name}"] for entry in start.entries}
    return options | {"start_sha256": model, "start_weights": weights}


def _clips(
    config: Config, cache: Cache, start: _Start, online: OnlineHead, decoder: Decoding
) -> tuple[DecodedClips, DecodedClips | None]:
    """Returns the clips of the training split, and the clips of the validation split or None if there is no such split.

    Raises UsageError if a view, which is a random change of a clip, could show a part of the frame for which the cache
    has no boxes. Raises VideosChanged if a video is gone, or differs from the video that the cache was made from.
    """
    options = config.finetune
    clips = _split(config, cache, start, online, decoder, options.train_split, options.views)
    try:
        check_views(options.views, clips.view_size, clips.crop_names)
    except ValueError as error:
        raise UsageError(f"finetune.{error}") from error
    val_clips = _split(config, cache, start, online, decoder, options.val_split) if options.val_split else None
    if val_clips is not None:
        tell_of_absent_classes(val_clips, str(options.val_split))
    require_same_videos([clips, *([val_clips] if val_clips is not None else [])])
    return clips, val_clips


def _split(
    config: Config,
    cache: Cache,
    start: _Start,
    online: OnlineHead,
    decoder: Decoding,
    split: str,
    views: ViewOptions | None = None,
) -> DecodedClips:
    """Returns the clips of a split with the arrays that `online` reads, under random views if `views` are given."""
    clips = DecodedClips(
        cache,
        [*dict.fromkeys([*start.record.reads, *online.cached_reads])],
        split,
        names=online.cached_reads,
        squares={entry.name: config.square_of(entry.name) for entry in start.entries},
        wanted=config.wanted(),
        decoding=decoder,
        views=views,
        seed=config.finetune.seed,
    )
    if together.rank() == 0:
        tell_of_gaps(clips, split)
    return clips


def _require_mirror_is_right(config: Config, cache: Cache) -> None:
    """Raises UsageError if views are mirrored and the name of a class has the word `left` or `right`, because a
    mirrored video may show another class.

    With `finetune.views.mirror: always` no error is raised.
    """
    sided = [name for name in cache.classes if SIDED.search(name.lower())]
    if config.finetune.views.mirror is True and sided:
        raise UsageError(
            f"finetune.views.mirror: given true, allowed for classes such as {sided[0]!r}: false, because a mirrored "
            "video may show another class. `always` mirrors all the same."
        )


def _begin(folder: Path, start: _Start) -> None:
    """Prepares the folder of the run. Removes temporary files of dead processes, and copies the code of a user's own
    head from the run to start from.
    """
    sweep(folder)
    if (start.folder / CODE_FILE).exists():
        write_whole(folder / CODE_FILE, [(start.folder / CODE_FILE).read_bytes()])


def _step_zero(
    config: Config, start: _Start, online: OnlineHead, clips: DecodedClips, device: torch.device
) -> StepZero:
    """Returns a comparison of scores before the first step of training. The head scores the first clips of a split from
    cached features, and from features that are computed from their pixels.
    """
    extractors = [FeatureExtractor(config.backbones[entry.name], device).maps for entry in start.entries]
    as_extracted = OnlineHead(start.head, start.entries, extractors, stored=dict(_stored(config, start)))
    indices = range(min(len(clips), config.finetune.batch_size))
    batch = {name: values.to(device) for name, values in clips.as_cached().batch(indices).items()}
    cached = {name: values.to(device) for name, values in CachedClips.batch(clips, indices, start.record.reads).items()}
    with torch.inference_mode():
        heads = [head.to(device).eval() for head in (start.head, as_extracted, online)]
        expected, extracted, trained = (
            head(each).double() for head, each in zip(heads, (cached, batch, batch), strict=True)
        )
    return StepZero(
        num_clips=len(indices),
        as_extracted=float((extracted - expected).abs().max()),
        as_trained=float((trained - expected).square().mean().sqrt() / expected.std()),
    )


def _stored(config: Config, start: _Start) -> Iterator[tuple[str, torch.dtype]]:
    """Yields (name of the array, type in which the cache stores it) for each array of features and regions that a tap
    makes.
    """
    for entry in start.entries:
        for tap in entry.taps:
            yield f"{FEATURES}{entry.name}/{tap.name}", DTYPES_STORED[config.backbones[entry.name].storage_dtype]
            if entry.regions is not None:
                yield f"regions/{entry.name}/{tap.name}", DTYPES_STORED[entry.regions.storage_dtype]


def _save(
    folder: Path,
    config: Config,
    cache: Cache,
    start: _Start,
    clips: DecodedClips,
    results: RunResults,
    metrics: dict[str, float],
) -> None:
    """Saves the tuned run in `folder`: the tuned weights, a config that extracts features with these weights, and the
    head with the record of the run. Then the state of the training is removed.

    The record is written last, so a folder without a record is an unfinished run.
    """
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
    options = TrainOptions(**config.finetune.model_dump(include={*TrainOptions.model_fields}))
    record = describe_run(
        start.head, clips, options, tuple(cache.classes), metrics, cache=cache.location, features=features,
        trained_on=results.trained_on, recipe=recipe,
    )  # fmt: skip
    added = {"cache_fingerprint": fingerprint, "finetune": {"start": str(start.folder)} | _identity(config, start)}
    save_run(folder, start.head, record.model_copy(update=added))
    remove_state(folder)


def _tuned_options(config: Config, entry: OnlineEntry, file: str) -> BackboneOptions:
    """Returns the options of the backbone `entry` after fine-tuning, with the weight file `file` as its weights.

    The name of published weights also decides the options of the network and how frames are resized, cut and
    normalised. A weight file decides none of these. So the result states them as options.
    """
    options, backbone, framing = (
        config.backbones[entry.name],
        config.entry_of(entry.name),
        config.framing_of(entry.name),
    )
    own = {GEOMETRY: PAPER} if GEOMETRY in backbone.options else {}
    return BackboneOptions(
        **options.model_dump(exclude={"weights", "taps", "options", *asdict(framing), *asdict(pixels_of(options))}),
        weights=file,
        taps=tuple(tap.name for tap in entry.taps),
        options=own | dict(backbone.chosen),
        **asdict(framing),
        **asdict(pixels_of(options)),
    )


def _config_text(tuned: Config, folder: Path) -> str:
    """Returns the text of a YAML config with the tuned weights. Its cache is `<cache>-tuned`. Its runs, trained and
    tuned again, have folders of their own, so that the present cache and runs stay.
    """
    document = tuned.model_dump(mode="json", exclude_unset=True, exclude={"finetune"})
    document["cache"] = f"{tuned.cache.rstrip('/')}-tuned"
    document.setdefault("train", {})["run"] = f"{folder}-trained/{HEAD}"
    document["finetune"] = {"run": f"{folder}-tuned/{HEAD}"}
    return f"# Extracts with the weights that `kinegraph finetune` made in {folder}.\n" + yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True
    )

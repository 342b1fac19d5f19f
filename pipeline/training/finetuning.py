"""Trains backbones and a head together, for `kinegraph finetune`. The training starts from a trained run. Boxes come
from a cache, and pixels from the videos.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.files import sweep, write_whole
from kinegraph.cache_schemas.reader import CROP, CachedClips
from kinegraph.pipeline.clusters.wanted_run import RunPlace
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.training.decoded_clips import DecodedClips, Decoding, decoding, require_same_videos
from kinegraph.pipeline.training.one_run import (
    OnRunEpoch,
    OnRunStep,
    discard,
    ignore_record,
    lock_folder,
    results_of,
    run_training,
    tell_of_absent_classes,
)
from kinegraph.pipeline.training.recipes import short
from kinegraph.pipeline.training.samples import tell_of_gaps
from kinegraph.pipeline.training.tuned_run import TunedRun, save_tuned
from kinegraph.pipeline.training.tuning_start import TuningStart, online_head, start_of
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.clips.views import ViewOptions, check_views
from kinegraph.stages.datasets.sides import sided_classes
from kinegraph.stages.device import DTYPES_STORED, pick_device
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.online import OnlineHead
from kinegraph.stages.training import together
from kinegraph.stages.training.checkpoint import (
    CODE_FILE,
    EXTRACT_FILE,
    load_record,
    require_free,
)
from kinegraph.stages.training.epoch_clips import with_views_per_epoch
from kinegraph.stages.training.evaluation import EvaluationResult, evaluate
from kinegraph.stages.training.options import HEAD
from kinegraph.stages.training.records import STATE_FILE

log = logging.getLogger("kinegraph")


@dataclass(frozen=True, kw_only=True)
class StepZero:
    """A comparison of `num_clips` clips before the first step of fine-tuning. It says how much the logits from pixels
    differ from the logits from cached features.

    - `as_extracted`: the largest difference, if the backbones compute as in an extraction.
    - `as_trained`: the root mean square of the differences, divided by the standard deviation of the logits, if the
      backbones compute as in the training.
    """

    num_clips: int
    as_extracted: float
    as_trained: float


def finetune(
    config: Config,
    *,
    overwrite: bool = False,
    allow_code: bool = False,
    on_epoch: OnRunEpoch = ignore_record,
    on_step: OnRunStep = ignore_record,
    on_start: Callable[[StepZero], None] = lambda step: None,
) -> TunedRun:
    """Trains the head of a run together with the backbones whose features the head reads. The section `finetune` of
    `config` has the options. Writes the tuned run to the folder `finetune.run` and returns it.

    The folder gets a file `<entry>.safetensors` for each backbone, and a config that extracts with these files. If an
    earlier call was stopped, this call continues.

    - `overwrite`: removes a run in the folder first.
    - `allow_code`: whether the source code of a user's own head may run.
    - `on_epoch`, `on_step`: are called with the run and the record of each epoch or step.
    - `on_start`: is called before the first step, with a comparison of logits from pixels and from cached features.

    Raises RunError or HeadError if the run to start from does not fit the cache or has no backbone to tune. Raises
    RunExists if the folder has a trained run and `overwrite` is false. Raises VideosChanged before the first step if
    videos are missing or have changed, and VideoLost if a video cannot be decoded later.
    """
    options, cache = config.finetune, Cache(config.cache)
    start = start_of(config, cache, allow_code=allow_code)
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
    with together.connected_processes(device), ExitStack() as opened:
        device, is_first = together.own_device(device), together.rank() == 0
        online = online_head(config, start, device)
        clips, val_clips = _clips(config, cache, start, online, opened.enter_context(decoding(config, device)))
        options = with_views_per_epoch(options, clips)
        opened.enter_context(lock_folder(folder))
        if is_first:
            if overwrite:
                discard(folder)
            _begin(folder, start)
            if not (folder / STATE_FILE).exists():
                on_start(_step_zero(config, start, online, clips if val_clips is None else val_clips, device))
        together.barrier()
        place = RunPlace(name=f"{name} tuned", seed=options.seed)
        result = run_training(
            folder, online, clips, val_clips, options, device, place, on_epoch=on_epoch, on_step=on_step
        )
        results = results_of(f"{name}_tuned", options, result, clips, val_clips, device)
        if is_first:
            save_tuned(folder, config, cache, start, clips, results, result.kept_metrics)
    return TunedRun(folder=folder, results=results, config_file=folder / EXTRACT_FILE)


def score_from_pixels(run: TunedRun, split: str) -> EvaluationResult:
    """Scores a tuned run on the split `split` of its cache and returns the scores. Features are computed from the
    videos, in float32.
    """
    config = load_config(run.config_file)
    cache = Cache(load_record(run.folder).cache)
    options = config.finetune.model_copy(update={"start": str(run.folder)})
    config = config.model_copy(update={"cache": cache.location, "finetune": options})
    start, device = start_of(config, cache, allow_code=True), pick_device(config.run.device)
    online = online_head(config, start, device).to(device)
    with decoding(config, device) as decoder:
        clips = _split(config, cache, start, online, decoder, split)
        return evaluate(online, clips, options, device=device)


def _clips(
    config: Config, cache: Cache, start: TuningStart, online: OnlineHead, decoder: Decoding
) -> tuple[DecodedClips, DecodedClips | None]:
    """Returns the clips of the training split, and the clips of the validation split or None. `decoder` decodes their
    pixels, and `online` is the head with its backbones, which says which arrays it needs.

    Training clips get random views, as the option `views` says. Raises UsageError if a view could show a part of the
    frame for which the cache has no boxes. Raises VideosChanged if a video is missing, or differs from the video from
    which the cache was made.
    """
    options = config.finetune
    clips = _split(config, cache, start, online, decoder, options.train_split, options.views)
    try:
        of_frames = [name for name in online.cached_reads if not name.startswith(CROP)]
        check_views(options.views, clips.view_size, clips.crop_names, config.clips.sampling, of_frames)
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
    start: TuningStart,
    online: OnlineHead,
    decoder: Decoding,
    split: str,
    views: ViewOptions | None = None,
) -> DecodedClips:
    """Returns the clips of the split `split`, with decoded pixels and with the cached arrays that the head `online`
    reads.

    `start` is the run from which the fine-tuning starts. If `views` is given, each clip is changed at random.
    """
    clips = DecodedClips(
        cache,
        [*dict.fromkeys([*start.record.reads, *online.cached_reads])],
        split,
        names=online.cached_reads,
        squares={entry.name: config.square_of(entry.name) for entry in start.entries},
        wanted=config.wanted().on_device(str(decoder.device)),
        decoding=decoder,
        views=views,
        seed=config.finetune.seed,
    )
    if together.rank() == 0:
        tell_of_gaps(clips, split)
    return clips


def _require_mirror_is_right(config: Config, cache: Cache) -> None:
    """Raises UsageError if clips are mirrored at random (`finetune.views.mirror: true`) and the name of a class has the
    word "left" or "right". A mirrored video of such a class may show another class.

    With `mirror: always`, no error is raised.
    """
    sided = sided_classes(cache.classes)
    if config.finetune.views.mirror is True and sided:
        raise UsageError(
            f"finetune.views.mirror: given true, allowed for classes such as {sided[0]!r}: false, because a mirrored "
            "video may show another class. `always` mirrors all the same."
        )


def _begin(folder: Path, start: TuningStart) -> None:
    """Prepares `folder` for a tuned run. Removes temporary files of dead processes, and copies the code of a user's own
    head from the run `start`.
    """
    sweep(folder)
    if (start.folder / CODE_FILE).exists():
        write_whole(folder / CODE_FILE, [(start.folder / CODE_FILE).read_bytes()])


def _step_zero(
    config: Config, start: TuningStart, online: OnlineHead, clips: DecodedClips, device: torch.device
) -> StepZero:
    """Computes the logits of the first clips of `clips`, at most one batch, from cached features and from pixels.
    Returns how much the logits differ.

    `start` has the head and the backbones to start from. `online` is the head with the backbones as they will be
    trained.
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


def _stored(config: Config, start: TuningStart) -> Iterator[tuple[str, torch.dtype]]:
    """Yields pairs (name, type in the cache) for the cached maps and region features of the backbones of `start`."""
    for entry in start.entries:
        for tap in entry.taps:
            yield f"{FEATURES}{entry.name}/{tap.name}", DTYPES_STORED[config.backbones[entry.name].storage_dtype]
            if entry.regions is not None:
                yield f"regions/{entry.name}/{tap.name}", DTYPES_STORED[entry.regions.storage_dtype]

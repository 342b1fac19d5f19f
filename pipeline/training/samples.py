"""Opens the samples for a training: the clips of a split, or its whole videos. Logs what is left out."""

import logging

from kinegraph.cache_schemas.annotations import read_annotations, why_no_sequences
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.memory import available_bytes
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.regular import MIB
from kinegraph.cache_schemas.words import counted, few_of
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.videos import CachedVideos, Samples, samples_of

SMALL_BYTES = 256 * MIB  # of a split
NAMED = 10  # videos in a message
log = logging.getLogger("kinegraph")


def opened_samples(
    cache: Cache, head: Head, split: str, options: TrainOptions, *, preload: bool | None = False
) -> Samples:
    """Returns the samples of the split `split`, with the arrays that `head` reads. A sample is a clip, or a whole video
    if `options.over` is "videos". Logs what is left out.

    If `preload` is true, all arrays are read into memory now. If it is None, this depends on their size (SMALL_BYTES).
    Raises ConfigError if `options.over` is "videos" and the cache has no windows of videos.
    """
    require_sequences(cache, options)
    clips = CachedClips(cache, head.reads, split, preload=bool(preload))
    if preload is None and clips.num_bytes <= min(SMALL_BYTES, (available_bytes() or 0) // 8):
        clips.preload()
    samples = samples_of(clips, options.over, options.max_windows)
    if isinstance(samples, CachedVideos):
        _tell_of_videos(samples, split)
    else:
        tell_of_gaps(clips, split)
    return samples


def require_sequences(cache: Cache, options: TrainOptions) -> None:
    """Raises ConfigError if `options` ask for whole videos (`train.over: videos`) and the rows of each video in `cache`
    do not form a sequence of windows.
    """
    if options.over == "videos" and (reason := why_no_sequences(cache)):
        raise ConfigError(f"train.over: given videos, but in {cache.root} {reason}. Else use over: clips.")


def tell_of_gaps(clips: CachedClips, split: str) -> None:
    """Logs how many clips of a split are not extracted yet, and how many videos of the split have only failed clips.

    `clips` has the extracted clips of the split, and `split` is its name.
    """
    if clips.num_unsealed:
        log.warning(
            "%s is incomplete: %s not extracted yet and left out. `kinegraph extract CONFIG` goes on",
            clips.cache.root,
            counted(clips.num_unsealed, f"clip of split {split} is", f"clips of split {split} are"),
        )
    if clips.failed_videos:
        log.warning(
            "%s no ok clip: left out of training, counted in scores",
            counted(len(clips.failed_videos), f"video of split {split} has", f"videos of split {split} have"),
        )


def _tell_of_videos(videos: CachedVideos, split: str) -> None:
    """Logs which videos of a split have no sample, how many windows failed, and how many videos have more windows than
    a sample takes.

    `videos` has the samples of the split, and `split` is its name.
    """
    clips, cache = videos.clips, videos.cache
    if unsealed := sorted(clips.unsealed_videos):
        sentence = counted(len(unsealed), f"video of split {split} is", f"videos of split {split} are")
        words = "not extracted to the end, without sample and score. `kinegraph extract CONFIG` goes on"
        log.warning("%s %s: %s", sentence, words, few_of(unsealed, NAMED))
    if clips.num_failed_of_videos:
        sentence = counted(
            clips.num_failed_of_videos, f"failed window of split {split} is", f"failed windows of split {split} are"
        )
        log.warning("%s masked out. `kinegraph status CACHE --failed` says why", sentence)
    if failed := videos.failed_videos:
        sentence = counted(len(failed), f"video of split {split} has", f"videos of split {split} have")
        log.warning("%s no ok window: left out of training, counted in scores: %s", sentence, few_of(failed, NAMED))
    without = [
        video
        for video, facts in read_annotations(cache).items()
        if facts.subset == split and facts.duration is not None and not facts.num_windows
    ]
    if without:
        sentence = counted(len(without), f"video of split {split} is", f"videos of split {split} are")
        log.warning("%s shorter than a window, without sample and score: %s", sentence, few_of(without, NAMED))
    if videos.num_shortened:
        sentence = counted(videos.num_shortened, f"video of split {split} has", f"videos of split {split} have")
        log.warning(
            "%s more than %s windows. %s of them are taken evenly", sentence, videos.max_windows, videos.max_windows
        )

"""Divides videos into windows, for `kinegraph index`, and makes the entries of annotations.json. Windows are equal
spans of time that cover a whole video. Imports no torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from kinegraph.cache_schemas.annotations import AnnotatedVideo, Annotation, read_annotations
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, Interval, interval_id
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.windows import MAX_WINDOWS, Windows
from kinegraph.stages.datasets.listing import Listing, listing_of_whole_videos
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe

Probes = Mapping[str, Probe | DecodeError]
UNKNOWN = AnnotatedVideo(subset="", duration=None, fps=None, frame=None, num_windows=0, annotations=())


def of_whole_videos(
    listing: Listing, probes: Probes, options: ClipOptions, *, may_be_empty: bool
) -> tuple[Listing, dict[str, Probe | DecodeError], list[str]]:
    """Prepares a data set for clips that are windows, which cover a whole video. Returns (data set with one entry for
    each whole video, a copy of `probes`, ids of the videos that are shorter than a window).

    `listing` is the data set. `probes` maps the path of each video to its facts, or to the error of opening it.
    `options` says how videos are cut into windows. In the copy of `probes`, a video of more than MAX_WINDOWS windows
    has an error, because its header is probably damaged.

    Raises DatasetError if intervals of one video are in several splits. Raises ConfigError if all videos are shorter
    than a window and `may_be_empty` is false.
    """
    whole = listing_of_whole_videos(listing)
    checked = {path: _checked(probe, options) for path, probe in probes.items()}
    windows = {
        video.video_id: windows_of(probe, options)
        for video in whole.videos
        if isinstance(probe := checked[video.path], Probe)
    }
    short = [video for video, of_video in windows.items() if not of_video.count]
    if short and len(short) == len(windows) and not may_be_empty:
        raise _no_window(windows)
    return whole, checked, short


def _checked(probe: Probe | DecodeError, options: ClipOptions) -> Probe | DecodeError:
    if isinstance(probe, DecodeError) or (count := windows_of(probe, options).count) <= MAX_WINDOWS:
        return probe
    words = f"{probe.duration:,.0f} s make {count:,} windows, allowed: {MAX_WINDOWS:,}; is its header damaged?"
    return DecodeError("unreadable", words)


def windows_of(probe: Probe, options: ClipOptions) -> Windows:
    """Returns how a video is cut into windows by `options`: their number, their length and the frame rate. `probe` has
    the facts about the video, such as its duration.
    """
    return Windows.of(options, probe.duration, probe.frames)


def _no_window(windows: Mapping[str, Windows]) -> ConfigError:
    """Returns the error for a data set whose videos are all shorter than a window. `windows` maps the id of each video
    to the result of `windows_of`.
    """
    longest = max(windows, key=lambda video: windows[video].num_frames)
    has = f"a window has {counted(windows[longest].size, 'frame')}, and the longest of {counted(len(windows), 'video')}"
    return ConfigError(
        f"clips.num_frames: {has} has {windows[longest].num_frames} at {float(windows[longest].rate):g} a second "
        f"({longest}). Take fewer frames, or `tail: pad`, which repeats the last frame."
    )


def kept_rows(old: Iterable[ClipRow], listing: Listing, probes: Probes, short: Iterable[str]) -> Iterator[ClipRow]:
    """Yields the rows of videos that `index` cannot cut into windows now, so that these rows stay in the cache. `old`
    are all rows in the cache. A yielded row has the path, split and labels that its video has in `listing`.

    A row stays if its video cannot be opened now, so that `probes` has an error. A row also stays if its video is
    shorter than a window (in `short`) and no earlier `index` could open it.
    """
    videos = {video.video_id: video for video in listing.videos}
    shorter = {*short}
    for row in old:
        video = videos.get(row.video_id)
        if video is None or not (
            isinstance(probes[video.path], DecodeError) or (video.video_id in shorter and not row.is_probed)
        ):
            continue
        yield replace(row, path=video.path, split=video.split, labels=video.labels, list_index=video.list_index)


def annotated(listing: Listing, probes: Probes, options: ClipOptions, cache: Cache) -> dict[str, AnnotatedVideo]:
    """Returns the content of annotations.json: video id -> AnnotatedVideo, which has the length and the labelled parts
    of the video.

    `probes` maps the path of each video of `listing` to its facts, or to the error of opening it. `options` says how
    videos are cut into windows. If a video can no longer be opened, its length is copied from the annotations.json that
    `cache` has now.
    """
    before = _annotated_before(cache)
    database = {}
    for video in listing.videos:
        probe = probes[video.path]
        facts = _facts(probe, options) if isinstance(probe, Probe) else before.get(video.video_id, UNKNOWN)
        annotations = tuple(
            Annotation(segment=segment, label=listing.classes[label], label_id=label)
            for segment, labels in video.segments
            for label in labels
        )
        database[video.video_id] = facts.model_copy(update={"subset": video.split, "annotations": annotations})
    return database


def _facts(probe: Probe, options: ClipOptions) -> AnnotatedVideo:
    """Returns the entry of annotations.json for a video with the facts `probe`, still without its split and labelled
    parts.
    """
    windows = windows_of(probe, options)
    return AnnotatedVideo(
        subset="", duration=probe.duration, fps=float(windows.rate), frame=windows.num_frames,
        num_windows=windows.count, annotations=(),
    )  # fmt: skip


def _annotated_before(cache: Cache) -> dict[str, AnnotatedVideo]:
    """Returns the content of annotations.json of `cache`: video id -> AnnotatedVideo. Returns an empty dict if the
    document is missing or damaged, because `index` writes it again.
    """
    try:
        return read_annotations(cache)
    except CacheError:
        return {}


def segments_of(listing: Listing) -> Iterator[tuple[str, Interval, str]]:
    """Yields (id, interval, path of the video) for each labelled part of each video of `listing`. The interval is the
    (start, end) of the part in seconds.
    """
    for video in listing.videos:
        for segment, _ in video.segments:
            yield interval_id(video.video_id, segment), segment, video.path

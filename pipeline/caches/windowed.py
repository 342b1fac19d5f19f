"""The part of `kinegraph index` for windows: how many each video has, and the annotations beside them. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from kinegraph.cache_schemas.annotations import AnnotatedVideo, Annotation
from kinegraph.cache_schemas.clips_table import ClipRow, Interval, interval_id
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.windows import MAX_WINDOWS, Windows
from kinegraph.stages.datasets.listing import Listing, listing_of_whole_videos
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import Probe

Probes = Mapping[str, Probe | DecodeError]


def of_whole_videos(
    listing: Listing, probes: Probes, options: ClipOptions
) -> tuple[Listing, dict[str, Probe | DecodeError], list[str]]:
    """Returns (the listing with one entry for each whole video, path -> probe, ids of the videos without a window).

    A video of more than MAX_WINDOWS windows has a DecodeError in place of its probe. Such a number comes from a damaged
    header, or from a hop that is too short for the video. Raises DatasetError if intervals of a video are in several
    splits, and ConfigError if every video is shorter than a window.
    """
    whole = listing_of_whole_videos(listing)
    checked = {path: _checked(probe, options) for path, probe in probes.items()}
    return whole, checked, _without_window(whole, checked, options)


def _checked(probe: Probe | DecodeError, options: ClipOptions) -> Probe | DecodeError:
    if isinstance(probe, DecodeError) or (count := windows_of(probe, options).count) <= MAX_WINDOWS:
        return probe
    words = f"{probe.duration:,.0f} s make {count:,} windows, allowed: {MAX_WINDOWS:,}; is its header damaged?"
    return DecodeError("unreadable", words)


def windows_of(probe: Probe, options: ClipOptions) -> Windows:
    """Returns the windows of the video with the facts `probe`."""
    return Windows.of(options, probe.duration, probe.frames)


def _without_window(listing: Listing, probes: Probes, options: ClipOptions) -> list[str]:
    """Returns the ids of the videos that are shorter than a window. They get no rows.

    Raises ConfigError if this holds for every video that can be opened.
    """
    probed = {video.video_id: probe for video in listing.videos if isinstance(probe := probes[video.path], Probe)}
    windows = {video: windows_of(probe, options) for video, probe in probed.items()}
    short = [video for video, of_video in windows.items() if not of_video.count]
    if short and len(short) == len(probed):
        longest = max(short, key=lambda video: windows[video].num_frames)
        has = (
            f"a window has {counted(windows[longest].size, 'frame')}, and the longest of {counted(len(short), 'video')}"
        )
        raise ConfigError(
            f"clips.num_frames: {has} has {windows[longest].num_frames} at {float(windows[longest].rate):g} a second "
            f"({longest}). Take fewer frames, or `tail: pad`, which repeats the last frame."
        )
    return short


def kept_rows(old: Iterable[ClipRow], listing: Listing, probes: Probes, short: Iterable[str]) -> Iterator[ClipRow]:
    """Yields the rows of the cache that stay although `index` makes no such rows now, with the present labels.

    These are the rows of videos that cannot be opened any more. `short` are the ids of videos without a window. If such
    a video could not be opened before, its row without times stays too.
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


def annotated(listing: Listing, probes: Probes, options: ClipOptions) -> dict[str, AnnotatedVideo]:
    """Returns the id of each video -> its facts and labelled parts, for annotations.json."""
    database = {}
    for video in listing.videos:
        probe = probes[video.path]
        windows = windows_of(probe, options) if isinstance(probe, Probe) else None
        database[video.video_id] = AnnotatedVideo(
            subset=video.split,
            duration=probe.duration if isinstance(probe, Probe) else None,
            fps=None if windows is None else float(windows.rate),
            frame=None if windows is None else windows.num_frames,
            num_windows=0 if windows is None else windows.count,
            annotations=tuple(
                Annotation(segment=segment, label=listing.classes[label], label_id=label)
                for segment, labels in video.segments
                for label in labels
            ),
        )
    return database


def segments_of(listing: Listing) -> Iterator[tuple[str, Interval, str]]:
    """Yields (id, interval, path of the video) for each labelled part of each video."""
    for video in listing.videos:
        for segment, _ in video.segments:
            yield interval_id(video.video_id, segment), segment, video.path

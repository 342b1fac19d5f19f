"""Finds the videos from which a clip can be made, for `kinegraph index`. Only for clips that are windows (equal spans
of time) or that consist of annotated frames. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches import windowed
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.sampling import annotated_within
from kinegraph.stages.datasets.listing import Listing, Video
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe
from kinegraph.stages.decode.timeline import PresentedFrames

Probes = Mapping[str, Probe | DecodeError]
MOST_OUTSIDE = 0.5  # share of a video's annotated frames that may lie in none of its intervals


@dataclass(frozen=True, kw_only=True)
class WithClips:
    """The videos and intervals of a data set, and which of them have no clip."""

    # The videos and intervals without those in `without_clip`. If clips are windows: all whole videos.
    listing: Listing
    listed: Listing  # all videos and intervals. If clips are windows: all whole videos.
    # Path of each video -> its facts, such as the duration, or the error if the video cannot be used
    probes: dict[str, Probe | DecodeError]
    # The ids of the videos and intervals from which no clip can be made. They get no new rows. A video that cannot be
    # opened now is not among them.
    without_clip: list[str] = field(default_factory=list)
    # Sentences about files that seem to be other encodings than the owners' files
    warnings: list[str] = field(default_factory=list)


def with_clips(listing: Listing, probes: Probes, options: ClipOptions, *, may_be_empty: bool) -> WithClips:
    """Finds the videos and intervals of the data set `listing` from which a clip can be made. Returns a WithClips.

    `probes` maps the path of each video to its facts, such as the duration, or to the error if the video cannot be
    opened. Raises ConfigError if every video is shorter than a window and `may_be_empty` is false, or if `options` ask
    for annotated frames and the data set has none.
    """
    if options.has_windows:
        whole, checked, short = windowed.of_whole_videos(listing, probes, options, may_be_empty=may_be_empty)
        return WithClips(listing=whole, listed=whole, probes=checked, without_clip=short)
    if options.is_annotated:
        return with_frames(listing, probes, options)
    return WithClips(listing=listing, listed=listing, probes={**probes})


def with_frames(listing: Listing, probes: Probes, options: ClipOptions) -> WithClips:
    """Finds the videos and intervals of the data set `listing` that have an annotated frame. Returns a WithClips.
    `probes` maps the path of each video to its facts, or to the error if the video cannot be opened.

    An annotation may name frame 300 of a file that has only 250 frames. If `options.beyond_end` is "leave_out", such
    annotations are left out. Otherwise the file gets an error. Raises ConfigError if the data set has no annotated
    frames.
    """
    if not any(video.annotated_frames for video in listing.videos):
        raise ConfigError("clips.sampling: given 'annotated', allowed: only with dataset.kind action_genome")
    leaves_out = options.beyond_end == "leave_out"
    checked = {**probes}
    kept, without, left_out = list[Video](), list[str](), dict[str, int]()
    for video in listing.videos:
        frames = _frames(probes[video.path])
        if frames is None:
            kept.append(video)
            continue
        there = tuple(number for number in video.annotated_frames if number < frames.number)
        if num_beyond := len(video.annotated_frames) - len(there):
            left_out[video.path] = num_beyond
            if not leaves_out:
                checked[video.path] = _other_encoding(video, frames)
        if there and not annotated_within(there, frames, video.interval):
            without.append(video.video_id)
        elif there or not leaves_out:
            kept.append(replace(video, annotated_frames=there))
        else:
            without.append(video.video_id)
    warnings = []
    if leaves_out and left_out:
        warnings.append(
            f"{counted(sum(left_out.values()), 'annotated frame')} beyond the end of {counted(len(left_out), 'file')} "
            f"left out (clips.beyond_end), first {next(iter(left_out))}. These files are other encodings."
        )
    return WithClips(
        listing=replace(listing, videos=tuple(kept)), listed=listing, probes=checked, without_clip=without,
        warnings=[*warnings, *_about_rates(listing, checked)],
    )  # fmt: skip


def _frames(probe: Probe | DecodeError) -> PresentedFrames | None:
    return None if isinstance(probe, DecodeError) else probe.frames


def _other_encoding(video: Video, frames: PresentedFrames) -> DecodeError:
    return DecodeError(
        "unreadable",
        f"frame {video.annotated_frames[-1] + 1} is annotated, and the file has {counted(frames.number, 'frame')} at "
        f"{frames.rate:g} a second. It is another encoding of the video: get the owners' file, or set "
        "clips.beyond_end: leave_out",
    )


def _about_rates(listing: Listing, probes: Probes) -> list[str]:
    """Returns a list with one warning if some video has most of its annotated frames outside of all its intervals, else
    an empty list.

    Action Genome took its annotated frames from the intervals of actions. If they lie outside, the file probably has
    another frame rate than the owners' file.
    """
    of_path: dict[str, list[Video]] = {}
    for video in listing.videos:
        if video.interval is not None:
            of_path.setdefault(video.path, []).append(video)
    strange = []
    for path, videos in of_path.items():
        if (frames := _frames(probes[path])) is None:
            continue
        numbers = videos[0].annotated_frames
        inside = {number for video in videos for number in annotated_within(numbers, frames, video.interval)}
        if len(numbers) - len(inside) > MOST_OUTSIDE * len(numbers):
            strange.append(path)
    if not strange:
        return []
    return [
        f"{counted(len(strange), 'video has', 'videos have')} most of the annotated frames outside of all intervals, "
        f"first {strange[0]}. Has the file another frame rate than the owners'?"
    ]

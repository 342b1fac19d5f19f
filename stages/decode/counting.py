"""Finds the number and the times of the frames that a player shows of a video, for clips that choose frames by number.
Torch-free.

If each packet of the stream is one picture, packets are counted, without decoding. All other streams are decoded from
start to end: avi, asf and raw streams, codecs with packets that hold no picture (MPEG-4, VP8), and some interlaced
streams.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from kinegraph.stages.decode.durations import TRUNCATED_SECONDS
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import OpenVideo, Probe, Seekable, open_video, probe
from kinegraph.stages.decode.timeline import FLOAT_NOISE_SECONDS, PresentedFrames, formats, frame_rate

ONE_PICTURE_A_PACKET = frozenset({"av1", "h264", "hevc", "mjpeg", "vp9"})
WHOLE_PICTURES = frozenset({"mov", "matroska"})  # containers that keep both fields of a picture in one packet

OFF_BY_FRAMES = 0.75  # an edit list may cut this much off a frame; beyond it, the table is of other frames


def probe_counted(path: str | Seekable) -> Probe:
    """Returns a Probe of the video at `path`, a path or an open file. Its field `frames` has the number and the times
    of the frames, which `probe` leaves out.

    Raises DecodeError where the video cannot be opened, has no frame that can be decoded, or states no frame rate.
    """
    told = probe(path)
    with open_video(path) as video:
        rate = frame_rate(video.container, video.stream)
        if rate is None:
            words = "it tells no frame rate, which clips.fps: native needs; set clips.fps to a number for it"
            raise DecodeError("unreadable", words)
        frames = _by_index(video, told, rate) or _by_packets(video, rate)
    if frames is None:
        with open_video(path) as video:
            frames = _placed(video, rate, [timed.seconds for timed in video.frames()])
    return replace(told, frames=frames)


def _by_index(video: OpenVideo, told: Probe, rate: float) -> PresentedFrames | None:
    """Returns the PresentedFrames, the number and the rate of the frames, of an mp4 or mov file with a constant frame
    rate. Only the index of the file is read.

    `told` has the facts about the file that are known already, such as its duration. `rate` is in frames per second.
    Returns None for files of other formats, for files with a varying rate, and for codecs whose packets may not be
    whole pictures. Returns None also if the number of frames in the index does not fit the duration in `told`.
    """
    stamps = _indexed(video)
    if not has_whole_pictures(video) or not stamps or abs(len(stamps) - told.duration * rate) >= OFF_BY_FRAMES:
        return None
    frames = _placed(video, rate, stamps)
    return frames if frames.times is None else None


def _indexed(video: OpenVideo) -> list[float]:
    """Returns the sorted time stamps of the frames of `video` that the index in its file marks as shown. They are in
    seconds on the container's clock.

    Returns an empty list if the container is not mp4 or mov.
    """
    if "mov" not in formats(video.container):
        return []
    base = float(video.stream.time_base or 0)
    return sorted(entry.timestamp * base for entry in video.stream.index_entries if not entry.is_discard)


def _by_packets(video: OpenVideo, rate: float) -> PresentedFrames | None:
    """Returns the PresentedFrames of a video: the number and the times of its frames, found from the presentation times
    of all packets. `rate` is in frames per second.

    Returns None if a packet has no presentation time, and for codecs whose packets may hold more or less than one
    picture.
    """
    if video.timeline.is_raw or video.timeline.has_decode_times or not _has_one_picture_a_packet(video):
        return None
    first = next(video.frames()).frame.pts
    stamps = [*video.packets.early_pts, *(packet.pts for packet in video.later_packets())]
    if len(stamps) < video.packets.number or None in stamps or first not in stamps:
        return None
    base = float(video.stream.time_base or 0)
    frames = _placed(video, rate, sorted(pts * base for pts in stamps if pts is not None and pts >= first))
    return frames if frames.times is None or has_whole_pictures(video) else None


def _has_one_picture_a_packet(video: OpenVideo) -> bool:
    return video.stream.codec_context.codec.canonical_name in ONE_PICTURE_A_PACKET


def has_whole_pictures(video: OpenVideo) -> bool:
    """Returns whether each packet of the video stream is one whole picture, by the container and the codec."""
    return bool(formats(video.container) & WHOLE_PICTURES) and _has_one_picture_a_packet(video)


def _placed(video: OpenVideo, rate: float, stamps: Sequence[float]) -> PresentedFrames:
    """Returns the PresentedFrames of a video: the number of its frames and their times. `stamps` are the time stamps of
    the decoded frames in seconds, in ascending order. `rate` is the frame rate in frames per second.

    If the file of `video` ends earlier than its header says, the number includes the missing frames.
    """
    times = array("d", (stamp - stamps[0] for stamp in stamps))
    slack = video.slack_seconds
    is_constant = all(abs(t - n / rate) <= slack + FLOAT_NOISE_SECONDS for n, t in enumerate(times))
    num_frames = len(times) + round(_missing_seconds(video) * rate)
    return PresentedFrames(number=num_frames, rate=rate, slack_seconds=slack, times=None if is_constant else times)


def _missing_seconds(video: OpenVideo) -> float:
    """Returns how many seconds are missing at the end of the file of `video`, compared with the duration that its
    container promises.

    Returns 0 for a complete file, and where the container promises no duration. Clips of the missing part fail when
    they are decoded.
    """
    if not video.is_at_end or (promised := video.promised_duration) is None:
        return 0.0
    if video.timeline.has_decode_times:  # the first frame has the stamp of the packet that released it
        there = video.packets.shown_seconds(video.timeline, None)
    else:
        there = video.packets.latest_end_seconds - video.first_stamp_seconds
    missing = promised - there
    return missing if missing > TRUNCATED_SECONDS else 0.0

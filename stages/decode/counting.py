"""Finds the number and the times of the frames that a player shows, for clips that choose frames by number. Torch-free.

If each packet of the stream is one picture, packets are counted without decoding. All other streams are decoded from
start to end: avi, asf and raw streams, codecs with packets that hold no picture (MPEG-4, VP8), and some interlaced
streams.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from kinegraph.stages.decode.durations import TRUNCATED_SECONDS
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe, probe
from kinegraph.stages.decode.stream import OpenVideo, Seekable, open_video
from kinegraph.stages.decode.timeline import FLOAT_NOISE_SECONDS, PresentedFrames, formats, frame_rate

ONE_PICTURE_A_PACKET = frozenset({"av1", "h264", "hevc", "mjpeg", "vp9"})
WHOLE_PICTURES = frozenset({"mov", "matroska"})  # containers that keep both fields of a picture in one packet

OFF_BY_FRAMES = 0.75  # an edit list may cut this much off a frame; beyond it, the table is of other frames


def probe_counted(path: str | Seekable) -> Probe:
    """Returns the Probe of the video at `path`, a path or an open file, with the number and the times of its frames in
    the field `frames`.

    Raises DecodeError if the video cannot be opened, has no frame that can be decoded, or states no frame rate.
    """
    probed = probe(path)
    with open_video(path) as video:
        rate = frame_rate(video.container, video.stream)
        if rate is None:
            words = "it tells no frame rate, which clips.fps: native needs; set clips.fps to a number for it"
            raise DecodeError("unreadable", words)
        frames = _by_index(video, probed, rate) or _by_packets(video, rate)
    if frames is None:
        with open_video(path) as video:
            frames = _presented_frames(video, rate, [timed.seconds for timed in video.frames()])
    return replace(probed, frames=frames)


def _by_index(video: OpenVideo, probed: Probe, rate: float) -> PresentedFrames | None:
    """Returns the PresentedFrames of an mp4 or mov file with a constant frame rate, from the index of the file alone.

    `probed` is the Probe of the file. `rate` is in frames per second. Returns None for other formats, for a varying
    rate, and for codecs whose packets may not be whole pictures. Returns None also if the number of frames in the index
    does not fit the duration of `probed`.
    """
    stamps = _index_stamps(video)
    if not has_whole_pictures(video) or not stamps or abs(len(stamps) - probed.duration * rate) >= OFF_BY_FRAMES:
        return None
    frames = _presented_frames(video, rate, stamps)
    return frames if frames.times is None else None


def _index_stamps(video: OpenVideo) -> list[float]:
    """Returns the sorted time stamps of the frames that the index of the file marks as shown, in seconds of the
    container's clock. Returns an empty list if the container is not mp4 or mov.
    """
    if "mov" not in formats(video.container):
        return []
    base = float(video.stream.time_base or 0)
    return sorted(entry.timestamp * base for entry in video.stream.index_entries if not entry.is_discard)


def _by_packets(video: OpenVideo, rate: float) -> PresentedFrames | None:
    """Returns the PresentedFrames of a video, from the presentation times of all packets. `rate` is in frames per
    second.

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
    frames = _presented_frames(video, rate, sorted(pts * base for pts in stamps if pts is not None and pts >= first))
    return frames if frames.times is None or has_whole_pictures(video) else None


def _has_one_picture_a_packet(video: OpenVideo) -> bool:
    return video.stream.codec_context.codec.canonical_name in ONE_PICTURE_A_PACKET


def has_whole_pictures(video: OpenVideo) -> bool:
    """Returns whether each packet of the video stream is one whole picture. The format of the file and the codec decide
    this.
    """
    return bool(formats(video.container) & WHOLE_PICTURES) and _has_one_picture_a_packet(video)


def _presented_frames(video: OpenVideo, rate: float, stamps: Sequence[float]) -> PresentedFrames:
    """Returns the PresentedFrames of a video. `stamps` are the time stamps of the decoded frames in seconds, in
    ascending order. `rate` is in frames per second.

    If the file of `video` ends earlier than its header says, the number includes the missing frames.
    """
    times = array("d", (stamp - stamps[0] for stamp in stamps))
    slack = video.slack_seconds
    is_constant = all(abs(t - n / rate) <= slack + FLOAT_NOISE_SECONDS for n, t in enumerate(times))
    num_frames = len(times) + round(_missing_seconds(video) * rate)
    return PresentedFrames(number=num_frames, rate=rate, slack_seconds=slack, times=None if is_constant else times)


def _missing_seconds(video: OpenVideo) -> float:
    """Returns how many seconds are missing at the end of the file of `video`, compared with the duration that its
    container states. Clips of the missing part fail when they are decoded.

    Returns 0 if the file is complete, and if the container states no duration.
    """
    if not video.is_at_end or (stated := video.stated_duration) is None:
        return 0.0
    if video.timeline.has_decode_times:  # the first frame has the stamp of the packet that released it
        there = video.packets.shown_seconds(video.timeline, None)
    else:
        there = video.packets.latest_end_seconds - video.first_stamp_seconds
    missing = stated - there
    return missing if missing > TRUNCATED_SECONDS else 0.0

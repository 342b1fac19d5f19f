"""Opens a file of this machine with FFmpeg, by its name on disk.

FFmpeg never opens another file that it names. Torch-free.
"""

import functools
import os
import re
from collections.abc import Sequence

import av
import av.error
from av.container import InputContainer
from av.format import ContainerFormat

from kinegraph.cache_schemas.regular import NotRegularError, require_regular
from kinegraph.stages.decode.errors import DecodeError

# Demuxers that open other files or addresses that a file names: playlists, session descriptions, numbered images.
FOLLOWING = frozenset("concat concatf dash hls imf image2 lavfi rtp rtsp sap sdp vobsub webm_dash_manifest".split())
REFUSED = "Format not on whitelist"
PLAYLIST = "Not detecting m3u8/hls"  # FFmpeg's words where a playlist's name does not end in .m3u8
ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


def printable(path: str) -> str:
    r"""Returns the path as tables and messages hold it, in UTF-8. Other bytes are written as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def on_disk(path: str) -> str:
    """Returns the path on disk for which `printable` returned `path`.

    Returns `path` itself where that file exists, or no file fits.
    """
    if "\\x" not in path or os.path.lexists(path):
        return path
    other = os.fsdecode(ESCAPED.sub(lambda escape: bytes([int(escape[1], 16)]), os.fsencode(path)))
    return other if os.path.lexists(other) else path


def require_file(path: str) -> None:
    """Raises DecodeError where no file can be at a path (`missing`), or no readable regular file (`unreadable`).

    A FIFO, a device and a folder are not readable files. For other errors, the message has the system's words.
    """
    try:
        require_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError("missing", f"no file {path}") from None
    except ValueError:
        raise DecodeError("unreadable", f"{path!r} is no name of a file: a NUL is in it") from None
    except NotRegularError as error:
        raise DecodeError("unreadable", str(error)) from error
    except OSError as error:
        raise DecodeError("unreadable", f"{path}: {error.strerror}") from error


def open_container(file: object, logs: Sequence[tuple[int, str, str]]) -> InputContainer:
    """Opens a file with FFmpeg. FFmpeg's messages are added to `logs`.

    Raises DecodeError (`unreadable`) for a playlist and every other file that names other files. Raises the errors of
    `av.open`.
    """
    try:
        return av.open(file, "r", metadata_errors="replace", options={"format_whitelist": _own_formats()})
    except (av.error.FFmpegError, ValueError):
        for _, name, message in logs:
            if message.startswith((REFUSED, PLAYLIST)):
                what = name if message.startswith(REFUSED) else "hls"
                words = f"the file names other files (format {what}), which are not opened: list those instead"
                raise DecodeError("unreadable", words) from None
        raise


@functools.cache
def _own_formats() -> str:
    """Returns FFmpeg's names of all demuxers that read the given file alone, in the form that FFmpeg's option takes."""
    return ",".join(name for name in sorted(av.formats_available) if name not in FOLLOWING and _is_input(name))


def _is_input(name: str) -> bool:
    try:
        return ContainerFormat(name, "r").is_input
    except ValueError:
        return False

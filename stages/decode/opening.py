"""Opens a local file with FFmpeg. Torch-free.

A file may refer to further files, as a playlist does. FFmpeg is not allowed to open these further files.
"""

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

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
# Metadata that is no UTF-8: PyAV 19 keeps the bytes as surrogates and has no option. Older releases raise without it.
METADATA: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


def printable(path: str) -> str:
    r"""Returns `path` in the form for tables and messages, which is valid UTF-8. A byte of a file name that is no UTF-8
    becomes an escape, such as `\xe9`.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def on_disk(path: str) -> str:
    r"""Returns the name on disk of the file `path`. Names that are no valid text are shown with escapes, such as
    `\xe9`. This function turns the escapes into bytes again.

    If a file with this name does not exist, or a file has exactly the name `path`, returns `path` unchanged.
    """
    if "\\x" not in path or os.path.lexists(path):
        return path
    other = os.fsdecode(ESCAPED.sub(lambda escape: bytes([int(escape[1], 16)]), os.fsencode(path)))
    return other if os.path.lexists(other) else path


def require_file(path: str) -> None:
    """Raises DecodeError unless there is a regular file at `path`.

    The reason is `missing` if there is no file. The reason is `unreadable` for a FIFO, a device, a folder, a name with
    a NUL, or a file that the system refuses to open.
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
    """Opens `file`, a path or an open file, with FFmpeg and returns the container. `logs` is the list in which the
    caller collects the messages of FFmpeg, as (level, name, message).

    Raises DecodeError (`unreadable`) for a file that refers to further files, such as a playlist. Raises the errors of
    `av.open` for any other file that FFmpeg cannot open.
    """
    try:
        container: InputContainer = av.open(file, "r", options={"format_whitelist": _own_formats()}, **METADATA)
    except (av.error.FFmpegError, ValueError):
        for _, name, message in logs:
            if message.startswith((REFUSED, PLAYLIST)):
                what = name if message.startswith(REFUSED) else "hls"
                words = f"the file names other files (format {what}), which are not opened: list those instead"
                raise DecodeError("unreadable", words) from None
        raise
    return container


@functools.cache
def _own_formats() -> str:
    """Returns the names of FFmpeg's readers of file formats (demuxers), joined by commas. Formats whose files refer to
    further files, such as playlists, are left out.
    """
    return ",".join(name for name in sorted(av.formats_available) if name not in FOLLOWING and _is_input(name))


def _is_input(name: str) -> bool:
    try:
        return ContainerFormat(name, "r").is_input
    except ValueError:
        return False

"""Lists the videos to score, cuts videos into windows, and names the files of their pictures. Torch-free."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folders import contents_of_folder, is_video
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.errors import UsageError
from kinegraph.stages.remote.staging import Staging
from kinegraph.stages.remote.urls import is_url, locate_video


def listed_videos(videos: Sequence[str | Path]) -> list[str]:
    """Returns the paths and URLs of all videos to score. A folder in `videos` is replaced by the sorted videos below
    it. Each video is listed once, even if it is given as "a.mp4" and as "./a.mp4".

    Raises DatasetError for a folder without a video, and UsageError for a name that is not UTF-8.
    """
    listed: dict[str, str] = {}
    for video in _files(videos):
        if any("\ud800" <= letter <= "\udfff" for letter in video):
            raise UsageError(f"{video!r}: this name is not UTF-8, and no table can hold it. Rename the file.")
        listed.setdefault(id_of(video), video)
    return [*listed.values()]


def _files(videos: Sequence[str | Path]) -> Iterator[str]:
    for video in map(str, videos):
        if is_url(video) or not Path(video).is_dir():
            yield video
            continue
        found = contents_of_folder(video)
        if not found.videos:
            raise DatasetError(f"{video}: no video in this folder or below.")
        yield from (str(Path(path)) for _, path in found.videos)


def id_of(video: str) -> str:
    """Returns the video id that the path or URL `video` has in the temporary cache of a prediction."""
    return locate_video(".", video)[0]


def windows(video: str, seconds: float | None, staging: Staging) -> Iterator[Interval | tuple[str, str]]:
    """Cuts a video into windows. Yields each window as [start, end) in seconds, in order. `staging` copies a video at a
    URL to this machine.

    Each window is `seconds` long, except the last window, which ends with the video and has 0.5 to 1.5 times this
    length. Yields only ("", ""), the whole video, if `seconds` is None, if the video is shorter than 1.5 times
    `seconds`, or if it cannot be read.
    """
    try:
        duration = staging.probe(video).duration if seconds is not None else 0.0
    except DecodeError:  # extraction says why
        duration = 0.0
    count = math.floor(duration / seconds + 0.5) if seconds is not None else 0
    if seconds is None or count <= 1:
        yield "", ""
        return
    yield from ((number * seconds, (number + 1) * seconds) for number in range(count - 1))
    yield (count - 1) * seconds, duration


def picture_files(
    option: str, out: Path, videos: Sequence[str], endings: Sequence[str], *, overwrite: bool
) -> dict[str, Path]:
    """Returns the file of each video's picture, {path or URL of the video: file}. A picture is an overlay or a curve.

    `out` is the value of the command's option `option`. If it ends with one of `endings`, it is a file, and there must
    be one video. Otherwise it is a folder, in which each picture has the name of its video and the first of `endings`.
    Raises UsageError if `out` is neither, if a picture would replace a video, or if a file exists and `overwrite` is
    false.
    """
    if out.suffix.lower() in endings and not out.is_dir():
        if len(videos) > 1:
            raise UsageError(
                f"{option} {out}: this is one file, and there are {counted(len(videos), 'video')}. Name a folder, in "
                "which each video gets a file."
            )
        files = [out]
    elif out.suffix and not out.is_dir() and len(videos) == 1:
        raise UsageError(f"{option} {out}: allowed: a file that ends with {' or '.join(endings)}, or a folder")
    else:
        files = [out / name for name in _names(videos, endings[0])]
    _require_free(option, files, videos, overwrite=overwrite)
    return dict(zip(videos, files, strict=True))


def require_no_video(option: str, file: Path | None, videos: Sequence[str]) -> None:
    """Raises UsageError if a table that is written to `file` might replace a video. This is so if `file` is one of
    `videos`, or if its name has the ending of a video file, such as `.mp4`. Accepts None as `file`.

    `videos` are files, folders and URLs. The message begins with `option`, the option of the command line.
    """
    if file is None:
        return
    originals = {_identity(Path(video)) for video in videos if not is_url(video)} - {None}
    if is_video(file.name) or _identity(file) in originals:
        raise UsageError(f"{option} {file}: this is a video, and it would be replaced. Name another file, as out.csv.")


def _names(videos: Sequence[str], ending: str) -> list[str]:
    """Returns a file name for the picture of each video: its path below the folder that holds all videos, with the
    ending `ending`. For example, "a/b.mp4", ".png" -> "a/b.png".

    If two videos differ only in their endings, the names keep the old endings: "a/b.mp4.png".
    """
    paths = [PurePosixPath(*video.split("://")) if is_url(video) else _absolute(video) for video in videos]
    shared = os.path.commonpath([path.parent.as_posix().lstrip("/") for path in paths])
    below = [PurePosixPath(path.as_posix().lstrip("/")).relative_to(shared) for path in paths]
    times = Counter(path.with_suffix("") for path in below)
    return [f"{path.with_suffix('') if times[path.with_suffix('')] == 1 else path}{ending}" for path in below]


def _absolute(video: str) -> PurePosixPath:
    return PurePosixPath(Path(os.path.abspath(video)).as_posix())  # noqa: PTH100  # resolve() would follow links


def _require_free(option: str, files: Sequence[Path], videos: Sequence[str], *, overwrite: bool) -> None:
    """Raises UsageError if one of `files`, which will be written, is one of `videos`, or if it exists and `overwrite`
    is False. The message begins with `option`, the option of the command line.
    """
    originals = {_identity(Path(video)) for video in videos if not is_url(video)} - {None}
    existing = [file for file in files if os.path.lexists(file)]
    for file in existing:
        if _identity(file) in originals:
            raise UsageError(f"{option}: {file} is one of the videos. Name another file or folder.")
    if existing and not overwrite:
        exist = f"and {len(existing) - 1:,} more exist" if len(existing) > 1 else "exists"
        raise UsageError(f"{option}: {existing[0]} {exist}. Give --overwrite, or another name.")


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns the device number and the inode number of a file, which identify the file. Returns None if there is no
    file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino

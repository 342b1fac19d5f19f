"""Finds the videos and the other files below a folder or URL. The folders of a video name its split and class.
Torch-free.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kinegraph.cache_schemas.words import counted, sentence
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import NumberedImages, numbered_images, numbered_name
from kinegraph.stages.decode.opening import printable
from kinegraph.stages.remote.urls import is_url

VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .asf .avc .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2ts .m2v .m4v .mjpeg "
    ".mjpg .mk3d .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)
SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
NO_ENDING, MAX_ENDING = "(no ending)", 16  # characters
MAX_SAID = 10
SET_RATE = "For folders of images set dataset.frame_rate: how many images a second they are."
log = logging.getLogger("kinegraph")


@dataclass(kw_only=True)
class FolderContents:
    """The videos and other files in a folder and in all folders below it. Relative paths begin below the top folder."""

    videos: list[tuple[str, str]] = field(default_factory=list)  # (relative path, full path) of each video
    # {ending: number of files with this ending that are no videos}, such as {".txt": 3}
    left_out: Counter[str] = field(default_factory=Counter)
    # (relative path, full path, NumberedImages) of each folder of numbered images
    folders: list[tuple[str, str, NumberedImages]] = field(default_factory=list)
    # A sentence about each file or folder that could not be read
    skipped: list[str] = field(default_factory=list)

    def add(self, below: str, path: str) -> None:
        """Adds one file. `below` is its path relative to the top folder, and `path` is its full path.

        A file with the ending of a video, such as `.mp4`, is added to `videos`. Any other file is counted in
        `left_out`.
        """
        if is_video(below) and not _is_macos_twin(below):
            self.videos.append((printable(below), printable(path)))
        else:
            self.left_out[_ending(below)] += 1

    def add_images(self, below: str, path: str, names: list[str]) -> None:
        """Adds a folder of numbered images to `folders`. Call this method only for a folder without a video file.

        `below`: the path of the folder relative to the top folder.
        `path`: the full path of the folder.
        `names`: the names of the images in the folder.

        Nothing is added for the top folder, for a single image, or if no image is numbered. In every case `left_out`
        counts the images.
        """
        images = numbered_images(names) if below and len(names) > 1 else None
        if images is not None:
            self.folders.append((printable(below), printable(path), images))
        self.left_out.update(map(_ending, names))

    def count_folders_as_videos(self) -> None:
        """Adds each folder of numbered images to `videos`, as one video. After the call, `left_out` does not count
        these images.
        """
        for below, path, images in self.folders:
            self.videos.append((below, path))
            self.left_out[images.ending.lower()] -= images.num_files
        self.left_out = +self.left_out
        self.videos.sort()

    def log_skipped(self) -> None:
        """Logs a warning for each file and folder that could not be read, for at most MAX_SAID of them. If there are
        more, logs their number.
        """
        for words in self.skipped[:MAX_SAID]:
            log.warning("%s. It is not listed.", words)
        if len(self.skipped) > MAX_SAID:
            log.warning("... and %d more are not listed.", len(self.skipped) - MAX_SAID)


def _is_macos_twin(below: str) -> bool:
    """Returns whether a file has a name that begins with `._`. macOS writes such files for metadata beside other files.
    So `._push.mp4` is no video.
    """
    return below.rpartition("/")[2].startswith("._")


def is_video(name: str) -> bool:
    """Returns whether the file name `name` has the ending of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122 -- a million Path objects take seconds


def _ending(name: str) -> str:
    ending = printable(os.path.splitext(name)[1].lower())  # noqa: PTH122
    return ending if 1 < len(ending) <= MAX_ENDING else NO_ENDING


def contents_of_folder(root: str) -> FolderContents:
    """Returns the FolderContents of the folder `root` and all folders below it. Links are followed, except a link to a
    folder that contains the link itself.

    A link that is not followed and a folder without permission are logged, and the search goes on.
    """
    contents = FolderContents()
    waiting: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (identity := (status.st_dev, status.st_ino)) in above:
                contents.skipped.append(f"{folder} is a link to a folder that it lies in")
                continue
            with os.scandir(folder) as entries:
                inside, images, num_videos = above | {identity}, list[str](), len(contents.videos)
                for entry in entries:
                    below = f"{prefix}{entry.name}"
                    if entry.is_dir():
                        waiting.append((entry.path, f"{below}/", inside))
                    elif entry.is_file() and numbered_name(entry.name):
                        images.append(entry.name)
                    elif entry.is_file():
                        contents.add(below, entry.path)
                    elif is_video(entry.name):
                        contents.skipped.append(f"{entry.path} is no regular file, or a link that leads nowhere")
            if len(contents.videos) > num_videos:  # images beside a video may be its thumbnails
                contents.left_out.update(map(_ending, images))
            else:
                contents.add_images(prefix.rstrip("/"), folder, images)
        except OSError as error:
            contents.skipped.append(f"{folder} cannot be read: {error.strerror}")
    contents.videos.sort()
    contents.log_skipped()
    return contents


def contents_of_url(listed: Iterable[tuple[str, str]]) -> FolderContents:
    """Returns the FolderContents of a URL. `listed` has (path below the URL, full URL) of each file. Videos are sorted
    by path.
    """
    contents = FolderContents()
    for below, url in listed:
        contents.add(below, url)
    contents.videos.sort()
    return contents


def require_folder(root: str) -> None:
    """Raises DatasetError if `root`, a path without `file://`, is neither a folder nor a URL."""
    if not is_url(root) and not Path(root).is_dir():
        raise DatasetError(f"dataset.root: no folder {root} (looked from {Path.cwd()}).")


def find_videos(root: str, frame_rate: float | None, tries: int) -> FolderContents:
    """Returns the FolderContents of `root`, which is a folder, or the URL of a server that lists its files.

    With `frame_rate`, folders of numbered images are videos, too. A URL is requested at most `tries` times. Raises
    DatasetError if the server lists no files, and if there are only folders of images and `frame_rate` is None.
    """
    try:
        if is_url(root):
            from kinegraph.stages.remote.remote import Remote  # imported here, because folders do not need it

            below = contents_of_url(Remote(tries).list_files(root))
        else:
            below = contents_of_folder(root)
    except DecodeError as error:
        words = f"dataset.root: {sentence(error.detail)} A server that lists no files needs a csv."
        raise DatasetError(words) from error
    if frame_rate is not None:
        below.count_folders_as_videos()
    elif below.folders:
        words = f"{counted(len(below.folders), 'folder')} of numbered images below {root}, as {below.folders[0][1]}"
        if not below.videos:
            raise DatasetError(f"dataset.root: {words}, and no video. {SET_RATE}")
        log.warning("left out, as dataset.frame_rate is not set: %s", words)
    return below


def split_and_label(videos: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (split, labels) for each video, from the names of the folders in its path: `train/push/1.mp4` -> ("train",
    ("push",)). `videos` are paths below the root of the data set.

    Without a folder that is named after a split, the split is "". Without any other folder, the labels are empty.
    Raises DatasetError if some top folders are named after splits and others are not.
    """
    folders = [PurePosixPath(video).parts[:-1] for video in videos]
    first = dict.fromkeys(parts[0] for parts in folders if parts)
    splits = [name for name in first if name.lower() in SPLIT_OF]
    others = [name for name in first if name.lower() not in SPLIT_OF]
    if splits and others:
        raise DatasetError(
            f"dataset.root has folders of splits ({', '.join(splits)}) beside others ({', '.join(others[:3])}"
            f"{', ...' if others[3:] else ''}), so it is not clear whether {splits[0]!r} is a split or a class. "
            "Move the others into folders of splits, or list the videos in a csv: dataset.annotations."
        )
    for parts in folders:
        yield (SPLIT_OF[parts[0].lower()], parts[1:2]) if splits and parts else ("", parts[:1])

"""Opens the annotations of Action Genome in a folder. A process reads the files only once. Imports no torch.

The published pickle files take about 100 s to read. So the first process writes a copy of their numbers to the same
folder. Later processes read the copy in a second, if the pickle files have not changed.
"""

import io
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.words import counted, sentence
from kinegraph.stages.action_genome.frames import COLUMNS, GenomeFrames
from kinegraph.stages.action_genome.pickled import OBJECTS, PERSONS, read_pickles
from kinegraph.stages.decode.source import source_identity
from kinegraph.stages.number_files import ArrayFileError, read_npz
from kinegraph.stages.remote.urls import FILE

COPY = "kinegraph_action_genome.npz"
COPY_VERSION = 1  # raised when the columns change
WORTH_A_COPY_BYTES = 1 << 22  # smaller pickles are read in a second
FRAME_LIST = "frame_list.txt"

log = logging.getLogger("kinegraph")
_opened: dict[str, tuple[str, GenomeFrames]] = {}  # folder -> (identity of the pickles, frames): the last one
_opening = threading.Lock()


def open_release(folder: str) -> GenomeFrames:
    """Returns all annotated frames of the release of Action Genome in `folder`. Raises ReleaseError if the pickle files
    cannot be read.
    """
    place = Path(folder.removeprefix(FILE))
    with _opening:
        identity = _identity(place)
        if _opened.get(str(place), ("", None))[0] != identity:
            _opened.clear()
            _opened[str(place)] = identity, _copied(place, identity) or _read(place, identity)
        return _opened[str(place)][1]


def _identity(folder: Path) -> str:
    """Returns the sizes and digests of the two pickle files in `folder` as one string."""
    sources = [source_identity(str(folder / name)) for name in (OBJECTS, PERSONS)]
    return " ".join([str(COPY_VERSION), *(f"{source.size} {source.digest}" for source in sources if source)])


def _copied(folder: Path, identity: str) -> GenomeFrames | None:
    """Reads the copy of the annotations in `folder` and returns its frames. Returns None if there is no copy, if the
    copy cannot be read, or if it was made from other pickle files. `identity` has the sizes and digests of the pickle
    files.
    """
    try:
        arrays, _ = read_npz(folder / COPY, ("identity", *COLUMNS))
        if _text(arrays.pop("identity")) != identity:
            return None
        names = np.array(_text(arrays.pop("videos")).split("\n"))
        return GenomeFrames(videos=names, **arrays)
    except FileNotFoundError:
        return None
    except (ArrayFileError, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        log.warning("%s is not used: %s The pickles beside it are read.", folder / COPY, sentence(error))
        return None


def _read(folder: Path, identity: str) -> GenomeFrames:
    """Reads the pickle files in `folder` and returns their frames. If the files are large, also writes a copy of the
    frames to `folder`, which is faster to read.
    """
    frames = read_pickles(folder)
    if (folder / OBJECTS).stat().st_size + (folder / PERSONS).stat().st_size < WORTH_A_COPY_BYTES:
        return frames
    arrays = {name: getattr(frames, name) for name in COLUMNS} | {"identity": _bytes(identity)}
    arrays["videos"] = _bytes("\n".join(frames.videos.tolist()))
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        write_whole(folder / COPY, [content.getbuffer()])
        log.info("wrote %s, from which the pickles are read in a second from now on", folder / COPY)
    except (OSError, CacheError) as error:
        log.warning(
            "%s cannot be written, so each process reads the pickles, which takes about 100 s: %s",
            folder / COPY, sentence(error),
        )  # fmt: skip
    return frames


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _text(array: np.ndarray) -> str:
    return array.astype(np.uint8).tobytes().decode()


def complaints_of_list(frames: GenomeFrames, text: str) -> Iterator[str]:
    """Yields a sentence for the user if frame_list.txt does not list exactly the annotated frames `frames`. Yields
    nothing if the list is right. `text` is the content of frame_list.txt.
    """
    listed = [*filter(None, map(str.strip, text.splitlines()))]
    of_video = np.repeat(frames.videos, np.diff(frames.frame_starts)).tolist()
    keys = {f"{video}.mp4/{number:06d}.png" for video, number in zip(of_video, frames.numbers.tolist(), strict=True)}
    if {*listed} != keys:
        yield (
            f"{FRAME_LIST} lists {counted(len(listed), 'frame')}, and the pickles have {counted(len(keys), 'frame')}: "
            f"{counted(len(keys - {*listed}), 'frame is', 'frames are')} only in the pickles, "
            f"{len({*listed} - keys):,} only in the list. The pickles count."
        )

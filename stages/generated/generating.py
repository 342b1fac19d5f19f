"""Writes the video files of generated data sets, in one or several processes. A second call writes only the videos that
an interrupted call has left out.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.documents import JsonObject, parsed
from kinegraph.cache_schemas.files import TEMPORARY_PREFIX, sweep, write_whole
from kinegraph.cache_schemas.regular import CONFIG_BYTES, read_regular
from kinegraph.stages.errors import UsageError
from kinegraph.stages.processes import in_processes

VIDEOS_AT_ONCE = 16  # videos in one task of a process


@dataclass(frozen=True, kw_only=True)
class GeneratedVideo:
    """A video that is to be generated."""

    path: str  # the path of the file, relative to the folder `videos` of the data set
    label: str  # the class name
    split: str  # the name of its split
    index: int  # the number of the video in its split, from 0


Render = Callable[[GeneratedVideo], bytes]


def encode(frames: npt.NDArray[np.uint8], fps: int) -> bytes:
    """Returns the bytes of an mp4 file with the RGB frames `frames`, uint8 [T, H, W, 3] (T frames, H rows, W columns),
    at `fps` frames per second.
    """
    # MPEG-4 part 2 is twice as fast as x264's fastest preset. Pictures this small lose little at the default bit rate.
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps, options={"flags": "+bitexact+qscale"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def generate_videos(
    root: Path,
    name: str,
    parameters: Mapping[str, object],
    *,
    videos: Callable[[], Sequence[GeneratedVideo]],
    render: Render,
    workers: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Writes the videos of a generated data set and the csv annotations.csv below the folder `root`.

    - `name`: the name of the data set. The file `root`/<name>.json is written last. If it exists with equal parameters,
      nothing is done.
    - `parameters`: all values on which the pixels of the videos depend.
    - `videos`: a function that returns the list of the videos.
    - `render`: a function that returns the bytes of the file of a video. Worker processes call it.
    - `workers`: the number of worker processes. With more than one, the calling script needs `if __name__ ==
      "__main__"`.
    - `progress`: called with the number of videos finished since its last call.

    Raises UsageError if `root` holds a data set with other parameters. Raises CacheError if the file with the
    parameters is damaged.
    """
    finished, started = root / f"{name}.json", root / f"{name}.partial.json"
    if _is_finished(finished, started, parameters):
        return
    root.mkdir(parents=True, exist_ok=True)
    write_whole(started, [json.dumps(parameters).encode()])
    sweep(root)
    listed = videos()
    for folder in {Path(video.path).parent for video in listed}:
        (root / "videos" / folder).mkdir(parents=True, exist_ok=True)
    for finished_now in _run(_Writer(root / "videos", render), listed, workers):
        if progress is not None:
            progress(finished_now)
    rows = [f"videos/{video.path},{video.label},{video.split}" for video in listed]
    (root / "annotations.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    started.replace(finished)


def _is_finished(finished: Path, started: Path, parameters: Mapping[str, object]) -> bool:
    advice = "Choose another folder (dataset.root), or delete this one."
    for path in (finished, started):
        if not path.exists():
            continue
        written = parsed(str(path), read_regular(path, CONFIG_BYTES), JsonObject, advice).root
        if written != parameters:
            raise UsageError(f"{path}: was generated with {written}, now asked for {dict(parameters)}. {advice}")
    return finished.exists()


@dataclass(frozen=True)
class _Writer:
    folder: Path
    render: Render

    def __call__(self, video: GeneratedVideo) -> None:
        target = self.folder / video.path
        if target.exists():
            return
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}")
        temporary.write_bytes(self.render(video))
        temporary.replace(target)


def _run(write: Callable[[GeneratedVideo], None], videos: Sequence[GeneratedVideo], workers: int) -> Iterator[int]:
    """Calls `write` with each of `videos`, in `workers` processes. Yields, after each step, the number of videos that
    the step has finished.

    With one worker a step is one video. With several workers a step is at most VIDEOS_AT_ONCE videos.
    """
    if workers <= 1:
        for video in stopping.checked(videos):
            write(video)
            yield 1
        return
    chunks = [videos[start : start + VIDEOS_AT_ONCE] for start in range(0, len(videos), VIDEOS_AT_ONCE)]
    yield from in_processes(partial(_write_all, write), chunks, workers)


def _write_all(write: Callable[[GeneratedVideo], None], number: int, videos: Sequence[GeneratedVideo]) -> int:
    """Writes `videos` one after the other with `write`. Returns the number of videos. `number` is not used."""
    for video in videos:
        write(video)
    return len(videos)

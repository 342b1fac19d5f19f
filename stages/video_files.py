"""Finds the files beside videos, from a pattern and the id of a video. Each video has one such file. Torch-free."""

from pathlib import PurePosixPath

PLACES = ("{video_id}", "{stem}")


def path_for(pattern: str, video_id: str) -> str:
    """Returns `pattern` with {video_id} and {stem} filled in. The stem is the id of the video without its ending."""
    path = pattern.replace("{video_id}", video_id)
    return path.replace("{stem}", PurePosixPath(video_id).with_suffix("").as_posix())


def check_pattern(key: str, pattern: str, endings: tuple[str, ...]) -> None:
    """Raises ValueError unless `pattern` contains {video_id} or {stem} and ends with one of `endings`.

    `key` is the option of the config that has the pattern.
    """
    if not any(place in pattern for place in PLACES) or not pattern.endswith(endings):
        raise ValueError(
            f"{key}: given {pattern!r}, allowed: a path with {' or '.join(PLACES)}, {' or '.join(endings)}"
        )

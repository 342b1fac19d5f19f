"""Finds the file that belongs to a video, for example a file of boxes. Torch-free.

The path of the file follows from a pattern of the config and the id of the video, for example `boxes/{video_id}.json`.
"""

from pathlib import PurePosixPath

PLACES = ("{video_id}", "{stem}")


def path_for(pattern: str, video_id: str) -> str:
    """Returns the path of the file that belongs to a video: `pattern` with {video_id} and {stem} filled in.

    {stem} is the id of the video without its ending: `boxes/{stem}.json`, `a/b.mp4` -> `boxes/a/b.json`.
    """
    path = pattern.replace("{video_id}", video_id)
    return path.replace("{stem}", PurePosixPath(video_id).with_suffix("").as_posix())


def check_pattern(key: str, pattern: str, endings: tuple[str, ...]) -> None:
    """Raises ValueError if `pattern` contains neither {video_id} nor {stem}, or does not end with one of `endings`.

    `key` is the option of the config that has the pattern. The message starts with `key`.
    """
    if not any(place in pattern for place in PLACES) or not pattern.endswith(endings):
        raise ValueError(
            f"{key}: given {pattern!r}, allowed: a path with {' or '.join(PLACES)}, {' or '.join(endings)}"
        )

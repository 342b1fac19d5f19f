"""Finds files beside the videos, one for each video, from a pattern and a video's id. Torch-free."""

from pathlib import PurePosixPath

PLACES = ("{video_id}", "{stem}")


def path_for(pattern: str, video_id: str) -> str:
    """Returns `pattern` with {video_id} filled in, and {stem}, which is the id without its ending."""
    path = pattern.replace("{video_id}", video_id)
    return path.replace("{stem}", PurePosixPath(video_id).with_suffix("").as_posix())


def check_pattern(key: str, pattern: str, endings: tuple[str, ...]) -> None:
    """Raises ValueError unless `pattern`, given for the option `key`, has a place for the video and a known ending."""
    if not any(place in pattern for place in PLACES) or not pattern.endswith(endings):
        raise ValueError(
            f"{key}: given {pattern!r}, allowed: a path with {' or '.join(PLACES)}, {' or '.join(endings)}"
        )

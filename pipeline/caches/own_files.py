"""Checks that no two videos read the same file of boxes or scene graphs. Imports no torch."""

from collections.abc import Callable, Iterable

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.kinds import KINDS, kind_of
from kinegraph.stages.recipe import Recipe


def files_of(recipe: Recipe) -> dict[str, Callable[[str], str]]:
    """Returns stage key -> function, for the stages of the config `recipe` that read a file of boxes or scene graphs
    for each video. The function maps the id of a video to the path of its file (`a.mp4` -> `boxes/a.mp4.json`).
    """
    file_of_key = {key: kind.file_of(recipe, key) for kind in KINDS.values() for key in kind.keys(recipe)}
    return {key: file_of for key, file_of in file_of_key.items() if file_of is not None}


def check_own_files(recipe: Recipe, videos: Iterable[str]) -> None:
    """Raises ConfigError if, with the config `recipe`, two videos would read the same file of boxes or scene graphs.
    `videos` are the ids of the videos.
    """
    names = list(dict.fromkeys(videos))
    for key, file_of in files_of(recipe).items():
        if kind_of(key).shares_file(recipe, key):
            continue
        owner: dict[str, str] = {}
        for name in names:
            path = file_of(name)
            if (other := owner.setdefault(path, name)) != name:
                raise ConfigError(
                    f"{kind_of(key).section(key)}.files: {other} and {name} would both be given {path}. "
                    "Name the files by {video_id}, which has the video's ending, or rename a video."
                )


def check_own_files_of(recipe: Recipe, cache: Cache) -> None:
    """Raises ConfigError if, with the config `recipe`, two videos of the cache would read the same file of boxes or
    scene graphs.
    """
    if files_of(recipe):
        name_of = ClipsTable.read_video_names(cache.storage)
        videos = ClipsTable.read_columns(cache.storage, ["video_id"]).column("video_id").unique().to_pylist()
        check_own_files(recipe, (name_of.get(video, video) for video in videos))

"""Every video has files of its own for each stage that reads files, as boxes and scene graphs are. Torch-free."""

from collections.abc import Callable, Iterable

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.recipe import Recipe


def files_of(recipe: Recipe) -> dict[str, Callable[[str], str]]:
    """By stage key, of those that read a file beside each video: from the video's name to its file."""
    found = {key: kind.file_of(recipe, key) for kind in KINDS.values() for key in kind.keys(recipe)}
    return {key: file_of for key, file_of in found.items() if file_of is not None}


def check_own_files(recipe: Recipe, videos: Iterable[str]) -> None:
    """Raise ConfigError where two of the videos, given by id, would be given one file of boxes or scene graphs."""
    names = list(dict.fromkeys(videos))
    for key, file_of in files_of(recipe).items():
        owner: dict[str, str] = {}
        for name in names:
            path = file_of(name)
            if (other := owner.setdefault(path, name)) != name:
                raise ConfigError(
                    f"{key}.files: {other} and {name} would both be given {path}. Name the files by {{video_id}}, "
                    "which has the video's ending, or rename a video."
                )


def check_own_files_of(recipe: Recipe, cache: Cache) -> None:
    """`check_own_files` of all videos of a cache, which is read only where there are such files."""
    if files_of(recipe):
        name_of = ClipsTable.read_video_names(cache.storage)
        videos = ClipsTable.read_columns(cache.storage, ["video_id"]).column("video_id").unique().to_pylist()
        check_own_files(recipe, (name_of.get(video, video) for video in videos))

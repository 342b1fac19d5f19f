"""Every video has files of boxes and scene graphs of its own. Torch-free."""

from collections.abc import Iterable

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.proposals.options import FileOptions
from kinegraph.stages.scene_graphs.options import GraphFileOptions


def check_own_files(config: Config, videos: Iterable[str]) -> None:
    """Raise ConfigError where two of the videos, given by id, would be given one file of boxes or scene graphs."""
    names = list(dict.fromkeys(videos))
    for key, options in (("proposals", config.proposals), ("graphs", config.graphs)):
        if not isinstance(options, FileOptions | GraphFileOptions):
            continue
        owner: dict[str, str] = {}
        for name in names:
            path = options.file_of(name)
            if (other := owner.setdefault(path, name)) != name:
                raise ConfigError(
                    f"{key}.files: {other} and {name} would both be given {path}. Name the files by {{video_id}}, "
                    "which has the video's ending, or rename a video."
                )


def check_own_files_of(config: Config, cache: Cache) -> None:
    """`check_own_files` of all videos of a cache, which is read only where there are such files."""
    if isinstance(config.proposals, FileOptions) or isinstance(config.graphs, GraphFileOptions):
        name_of = ClipsTable.read_video_names(cache.storage)
        videos = ClipsTable.read_columns(cache.storage, ["video_id"]).column("video_id").unique().to_pylist()
        check_own_files(config, (name_of.get(video, video) for video in videos))

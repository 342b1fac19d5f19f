"""Lists the kinds of stage by name. A kind comes after all kinds that it reads. Imports no torch."""

from kinegraph.cache_schemas.errors import CacheTooNew
from kinegraph.stages.backbones.stage import Backbones
from kinegraph.stages.clips.stage import Clips
from kinegraph.stages.proposals.stage import Proposals
from kinegraph.stages.regions.stage import Regions
from kinegraph.stages.scene_graphs.stage import SceneGraphs
from kinegraph.stages.stage import StageKind
from kinegraph.stages.tracks.stage import Tracks

KINDS: dict[str, StageKind] = {
    "clips": Clips(),
    "features": Backbones(),
    "proposals": Proposals(),
    "regions": Regions(),
    "graphs": SceneGraphs(),
    "tracks": Tracks(),
}


def kind_of(key: str) -> StageKind:
    """Returns the StageKind of the stage key `key`. The kind is named by the part of the key before the first `/`
    (`features` in `features/i3d`).

    Raises CacheTooNew for an unknown kind, because a later version of kinegraph must have written the key.
    """
    if (kind := KINDS.get(key.partition("/")[0])) is None:
        raise CacheTooNew(
            f"This kinegraph has no kind of stage for the key {key!r}; it has {', '.join(KINDS)}. Update it."
        )
    return kind

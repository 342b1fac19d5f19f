"""Lists the kinds of stage in KINDS: name -> StageKind. A kind comes after all kinds that it reads. Imports no
torch.
"""

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
    """Returns the StageKind, the object that describes one kind of stage, of the stage with the key `key`. The part of
    the key before the first `/` names the kind: `features/i3d` -> the kind `features`.

    Raises CacheTooNew for an unknown kind, because a later version of kinegraph must have written the key.
    """
    if (kind := KINDS.get(key.partition("/")[0])) is None:
        raise CacheTooNew(
            f"This kinegraph has no kind of stage for the key {key!r}; it has {', '.join(KINDS)}. Update it."
        )
    return kind

"""Declares the stage `clips`, which stores the times at which the frames of each row are shown. All other stages read
it.

The stage has no runner, because the decoder returns the times together with the pixels.
"""

from collections.abc import Mapping

from kinegraph.cache_schemas.arrays import CLIPS, clip_arrays
from kinegraph.cache_schemas.fingerprint import Options
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.clips.options import HOPS, ClipOptions
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.decode.wanted import LATEST_RULES, Wanted
from kinegraph.stages.options import need
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import StageKind


class Clips(StageKind):
    kind = CLIPS

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return (CLIPS,)

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        return Stage(key=key, options=clips_options(recipe.clips), arrays=clip_arrays(recipe.clips.num_frames))

    def check(self, recipe: Recipe) -> None:
        if recipe.clips.is_annotated and recipe.dataset is not None:
            given, allowed = recipe.clips.sampling, "only with dataset.kind action_genome, whose frames are annotated"
            need(isinstance(recipe.dataset, ActionGenomeOptions), "clips.sampling", given, allowed)

    def wanted(self, recipe: Recipe, key: str) -> Wanted:
        return recipe.wanted()


def clips_options(options: ClipOptions) -> Options:
    """Returns the dictionary of the clip options that the fingerprint of a cache covers.

    The dictionary has the options that change rows or frame times, and the version of the rules by which frames are
    chosen.
    """
    recorded = options.model_dump(mode="json")
    if options.is_annotated or (options.sampling == "uniform" and not options.by_number):
        del recorded["fps"]
    if options.decoder == "pyav":
        del recorded["decoder"]
    if not options.is_annotated:
        del recorded["beyond_end"]
    if options.frame_step == 1:
        del recorded["frame_step"]
    for key in HOPS if options.has_windows else (*HOPS, "tail"):
        if not options.has_windows or recorded[key] is None:
            del recorded[key]
    return recorded | {"version": LATEST_RULES}

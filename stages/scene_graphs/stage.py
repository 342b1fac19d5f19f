"""Defines the stage `graphs`, which writes the scene graphs of each clip to the cache. A scene graph says which
relations the objects of a frame have to the person. Imports no torch.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kinegraph.cache_schemas.arrays import CLIPS, graph_arrays
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.datasets.options import InteractionsOptions
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.generated.interactions import GENERATOR_VERSION
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.scene_graphs.options import (
    ActionGenomeGraphOptions,
    GraphFileOptions,
    GraphOptions,
    InteractionGraphOptions,
)
from kinegraph.stages.stage import Facts, Rows, StageKind

if TYPE_CHECKING:
    import torch

    from kinegraph.stages.scene_graphs.run import GraphRunner

VERSION = 1  # raised when the output changes
PARTS = ("times", "count", "objects", "linked", "relations")


class SceneGraphs(StageKind):
    kind = "graphs"

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return () if recipe.graphs is None else (self.kind,)

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        options = _options(recipe)
        recorded = options.recorded() | {"version": VERSION, "reads": {CLIPS: declared[CLIPS].fingerprint}}
        if isinstance(recipe.dataset, InteractionsOptions) and options.source == "interactions":
            recorded |= {"seed": recipe.dataset.seed, "generator": GENERATOR_VERSION}
        arrays = graph_arrays(options.shape(recipe.clips.num_frames), options.frame_step)
        return Stage(key=key, options=recorded, arrays=arrays)

    def check(self, recipe: Recipe) -> None:
        if isinstance(recipe.graphs, InteractionGraphOptions):
            recipe.check_every("graphs.every", recipe.graphs.every)
            if not isinstance(recipe.dataset, InteractionsOptions):
                raise ValueError("graphs.source: given 'interactions', allowed: only with dataset.kind interactions")
        if isinstance(recipe.graphs, ActionGenomeGraphOptions):
            recipe.check_annotated("graphs.source")

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        options, dataset = _options(recipe), recipe.dataset
        if isinstance(options, ActionGenomeGraphOptions) and isinstance(dataset, ActionGenomeOptions):
            return lambda _: dataset.objects_file
        return options.file_of if isinstance(options, GraphFileOptions) else None

    def shares_file(self, recipe: Recipe, key: str) -> bool:
        return isinstance(recipe.graphs, ActionGenomeGraphOptions)

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> "GraphRunner":
        from kinegraph.stages.scene_graphs.run import GraphRunner

        return GraphRunner(_options(recipe), recipe.dataset, self.file_of(recipe, key))

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Checks the scene graphs of one shard. Yields (array name, kind of problem) for each array with an impossible
        value, such as a relation of an object that has no edge to the person.

        `ok` is {array name: rows of the n clips that did not fail}: `times` and `count` [n, T], `objects` and `linked`
        [n, T, M], and `relations` [n, T, M, R], for at most T graphs of at most M objects, and R relations.
        """
        times, count, objects, linked, relations = (ok[f"graphs/{name}"] for name in PARTS)
        places = np.arange(objects.shape[-1])
        if ((count < -1) | (count > len(places))).any():
            yield "graphs/count", "count"
            return
        if (np.isfinite(times) != (count >= 0)).any():
            yield "graphs/times", "times"
        within = places < count[..., None]
        if ((objects >= 0) != within).any():
            yield "graphs/objects", "objects"
        if (linked > within).any():
            yield "graphs/linked", "linked"
        if (relations > linked[..., None]).any():
            yield "graphs/relations", "relations"

    def depends_on(self, stage: Stage) -> tuple[Facts, ...]:
        return ("times", "span", "numbers") if stage.options.get("source") == "action_genome" else ("times", "span")


def _options(recipe: Recipe) -> GraphOptions:
    assert recipe.graphs is not None
    return recipe.graphs

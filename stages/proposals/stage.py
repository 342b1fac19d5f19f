"""Defines the stage `proposals`, which finds boxes that may hold an object of any class. The boxes of a frame are in
order of score, best first. Imports no torch.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import CLIPS, proposal_arrays
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from kinegraph.stages.options import under
from kinegraph.stages.proposals.catalogue import entry
from kinegraph.stages.proposals.options import (
    ActionGenomeBoxOptions,
    FileOptions,
    ProposalOptions,
    TransformersOptions,
)
from kinegraph.stages.proposals.transformers_detectors import read_detector
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import Facts, Rows, StageKind
from kinegraph.stages.weights.sources import check_weights
from kinegraph.stages.weights.transformers_files import changed_folder

if TYPE_CHECKING:
    import torch

    from kinegraph.stages.proposals.run import ProposalRunner

VERSION = 1  # increase it when the output changes by more than rounding
BOXES, SCORES, COUNT = "proposals/boxes", "proposals/scores", "proposals/count"
LABELS = "proposals/labels"  # only of sources that state classes


class Proposals(StageKind):
    kind = "proposals"

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return () if recipe.proposals is None else (self.kind,)

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        options = _options(recipe)
        recorded = options.recorded() | {"version": VERSION, "reads": {CLIPS: declared[CLIPS].fingerprint}}
        if options.weights_name:
            recorded["weights_sha256"] = digest
        arrays = proposal_arrays(
            recipe.clips.num_frames // options.every,
            options.top,
            options.every,
            scores_are=options.scores_are,
            has_labels=options.classes is not None,
        )
        return Stage(key=key, options=recorded, arrays=arrays, weights=options.weights_name)

    def check(self, recipe: Recipe) -> None:
        if recipe.proposals is None:
            return
        recipe.check_every("proposals.every", recipe.proposals.every)
        if isinstance(recipe.proposals, ActionGenomeBoxOptions):
            recipe.check_annotated("proposals.source")
        if isinstance(recipe.proposals, TransformersOptions):
            with under("proposals.model"):
                read_detector(recipe.proposals.model)
        if recipe.proposals.network is not None:
            with under("proposals.weights"):
                check_weights(recipe.proposals.weights_name, entry(recipe.proposals.network).weights)

    def wanted(self, recipe: Recipe, key: str) -> Wanted | None:
        options = _options(recipe)
        if not (options.takes_pixels or options.takes_numbers):
            return None
        whole = None
        if options.takes_pixels:
            whole = WholeFrame(network_size=options.input_size, every=options.every, resize=options.resizes_by)
        return recipe.wanted(whole=whole, numbered=options.takes_numbers)

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        options, dataset = _options(recipe), recipe.dataset
        if isinstance(options, ActionGenomeBoxOptions) and isinstance(dataset, ActionGenomeOptions):
            return lambda _: dataset.persons_file
        return options.file_of if isinstance(options, FileOptions) else None

    def shares_file(self, recipe: Recipe, key: str) -> bool:
        return isinstance(recipe.proposals, ActionGenomeBoxOptions)

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        return changed_folder(cached.options, asked.options)

    def network(self, recipe: Recipe, key: str) -> str:
        options = _options(recipe)
        return options.source if options.weights_name else ""

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> "ProposalRunner":
        from kinegraph.stages.proposals.run import ProposalRunner

        return ProposalRunner(_options(recipe), device, recipe.dataset, self.file_of(recipe, key))

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Checks the proposals of one shard. Yields (array name, kind of problem) for each array with an impossible
        value, such as a count above N.

        `ok` is {array name: rows of the n clips that did not fail}: boxes [n, T, N, 4], scores [n, T, N], count [n, T],
        and perhaps labels [n, T, N], for T frames with at most N boxes.
        """
        boxes, scores, count = ok[BOXES], ok[SCORES], ok[COUNT]
        places = np.arange(scores.shape[-1])
        if ((count < 0) | (count > len(places))).any():
            yield COUNT, "count"
            return
        within = places < count[..., None]
        falls = scores[..., 1:] <= scores[..., :-1]
        if not (falls | ~within[..., 1:]).all() or (scores[~within] != 0).any():
            yield SCORES, "scores"
        if (boxes[~within] != 0).any():
            yield BOXES, "boxes"
        if LABELS in ok and ((ok[LABELS] >= 0) != within).any():
            yield LABELS, "labels"

    def may_be_zero(self, stage: Stage) -> tuple[str, ...]:
        """Returns ("proposals/scores",) if all scores of a clip may be 0: for cells of a grid, and for imported boxes
        without scores. Returns an empty tuple for other boxes. `stage` describes the proposals in a cache.
        """
        has_none = "scores" in stage.options or stage.options.get("source") == "grid"
        return (SCORES,) if has_none else ()

    def depends_on(self, stage: Stage) -> tuple[Facts, ...]:
        if stage.options.get("source") == "action_genome":
            return ("numbers",)
        if stage.options.get("source") != "file":
            return ()
        return ("times", "numbers") if stage.options.get("frames") == "index" else ("times",)


def _options(recipe: Recipe) -> ProposalOptions:
    assert recipe.proposals is not None
    return recipe.proposals


def proposals_per_frame(cache: Cache) -> float | None:
    """Returns the mean number of boxes per frame in `cache`, rounded to two decimals. Failed clips and shards that
    cannot be read do not count.

    Returns None if the cache has no proposals.
    """
    if not cache.has_stage(Proposals.kind):
        return None
    counts = [np.empty(0)]
    for shard in stopping.checked(cache.ledger.shards(Proposals.kind)):
        try:
            view = cache.store.open_shard(cache.array(COUNT), shard)
            rows = np.stack([view.row(row_index) for row_index in range(len(cache.shard_rows(shard)))])
        except (ValueError, FileNotFoundError):
            continue
        counts.append(rows[rows >= 0])
    all_counts = np.concatenate(counts)
    return round(float(all_counts.mean()), 2) if len(all_counts) else None

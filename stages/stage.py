"""Defines the contract of a kind of stage: what it reads, what it needs of a clip, what it makes and what it checks.

This module imports no torch, because plans are made from it. A kind is a folder in `stages/` with a subclass of
`StageKind` in `stage.py`. A kind that computes something also has a `Runner` in `run.py`.
tests/stages/stage_contract.py tests the contract.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np

from kinegraph.cache_schemas.cache import Stage
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason
from kinegraph.stages.decode.wanted import Square, Wanted
from kinegraph.stages.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kinegraph.stages.decode.clips import DecodedClip

Rows = Mapping[str, np.ndarray]  # full name of an array -> its rows of one shard
Facts = Literal["numbers", "times", "span"]  # facts of a clip: places of its frames, their times, its start and end


class StageBatch(Protocol):
    """The input of a runner: consecutive rows of one shard.

    A slot is the place of a row in the batch, from 0. `rows` has one row for each slot. `slots` has the slots that the
    runner has to compute: all slots except those whose clip has failed and those whose row is done already. `is_last`
    says whether the batch is the last of its shard.
    """

    @property
    def rows(self) -> Sequence[ClipRow]: ...

    @property
    def slots(self) -> list[int]: ...

    @property
    def is_last(self) -> bool: ...

    def pixels(self, square: Square) -> np.ndarray:
        """Returns the pixels of all slots, uint8 [batch_size, T, size, size, 3], for T frames of a clip and
        `square.size` px.

        The pixels of a slot whose clip has failed are zero.
        """

    def clip(self, slot: int) -> "DecodedClip":
        """Returns the decoded clip of a slot in `slots`. Its frame times are set also where no pixels were decoded."""

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        """Returns the row of a slot in `array`, which belongs to a stage that is read by this stage.

        If the row was passed on by `hand_on` in this work unit, returns that row. Otherwise returns the row that was
        computed in this work unit, or the row that was sealed before.
        """

    def stores(self, array: str) -> bool:
        """Returns whether `write` stores this array. An array that is not stored need not be computed."""

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        """Stores `values` [len(slots), ...] as rows of an array of this stage. Rows that are done already stay
        unchanged.
        """

    def hand_on(self, array: str, values: "Tensor") -> None:
        """Passes `values` [batch_size, ...] of an array to the stages that read this key, until all of these stages
        have run.

        The array may also be stored by `write`.
        """

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        """Marks the clip of a slot as failed, in this stage and in all stages that read it. The first reason of a clip
        stays.
        """

    def note_file(self, slot: int, path: str | None) -> None:
        """Records that the file at `path` was read for the video of a slot. A `path` of None records nothing."""


class Runner(Protocol):
    """Computes one stage key. A worker makes a runner once, with its network, and uses it in one thread."""

    @property
    def digest(self) -> str:
        """Returns the sha256 of the weights, which the fingerprint covers, or "" where the runner has no weights."""

    def run(self, batch: StageBatch) -> None:
        """Writes every array of the key for each slot in `batch.slots`, or marks the slot as failed.

        A clip that fails raises no exception.
        """


class StageKind(Protocol):
    """One kind of stage. `kind` is the first part of its stage keys and array names, and its name for the option
    `--stage`.

    The methods that are not abstract are right for a stage that reads no video, passes no arrays on and has no runner.
    """

    kind: ClassVar[str]

    @abstractmethod
    def keys(self, recipe: Recipe) -> Collection[str]:
        """Returns the stage keys that a recipe asks for, in order: `<kind>`, or `<kind>/<name>` for each entry of the
        section.

        Returns an empty collection where the recipe has no section for this kind.
        """

    @abstractmethod
    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        """Returns the stage for a key: the options that the fingerprint covers, and the specs of the arrays.

        `declared` has all stages of the kinds before this kind in `KINDS`, by key. The option `reads` of the result
        names the keys whose rows the stage reads. `digest` is the digest of the runner.
        """

    def section(self, key: str) -> str:
        """Returns the name of the config section that describes a key. Messages contain it."""
        return self.kind

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError where the section of this kind does not fit the other sections of the recipe.

        The message is `key.path: given ..., allowed: ...`.
        """
        return

    def wanted(self, recipe: Recipe, key: str) -> Wanted | None:
        """Returns the frames that the stage needs of each clip, or None where no frame has to be decoded for it."""
        return None

    def handed_on(self, recipe: Recipe, key: str) -> tuple[str, ...]:
        """Returns the names of the arrays that this key passes to its readers by `StageBatch.hand_on`.

        The readers use them where the arrays are not stored and sealed. A key with such arrays runs for its readers
        even if it was not asked for. The rows of such a key are not written.
        """
        return ()

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        """Returns a function that maps the id of a video to the path of a file beside the video. This stage reads that
        file.

        Returns None where the stage reads no file beside videos.
        """
        return None

    def network(self, recipe: Recipe, key: str) -> str:
        """Returns the name of the network that `open` loads, or "" where `open` loads no network."""
        return ""

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> Runner | None:
        """Loads the runner of the key and returns it. Returns None for a key without a runner. Imports torch.

        Raises WeightsError where the weights cannot be loaded, UsageError where `device` cannot run the network.
        """
        return None

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Yields (array name, kind of problem) for each impossible value in sealed rows. `verify` calls this method.

        `ok` has the rows of the clips that did not fail, by array name.
        """
        return iter(())

    def may_be_zero(self, stage: Stage) -> Collection[str]:
        """Returns the names of the float arrays of a cached stage in which a row of zeros is normal."""
        return ()

    def depends_on(self, stage: Stage) -> Collection[Facts]:
        """Returns the facts of a clip on which the values of a cached stage depend, besides the pixels.

        An upgrade of a cache calls this method.
        """
        return ()

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        """Returns a sentence that names the config keys to change so that the config fits a cache.

        `cached` is the stage in the cache, `asked` the stage of the config. Returns "" where there is no key to change.
        """
        return ""

"""The contract of a kind of stage: what it reads, wants, makes and checks.

Imports no torch, because plans are made from it. A kind is a room of `stages/` with a subclass of `StageKind` in
`stage.py`. A kind that computes something also has a `Runner` in `run.py`. tests/stages/stage_contract.py is the
contract as tests.
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
    """The input of a runner: consecutive rows of one shard, and the slots that the runner has to compute.

    `rows` has the rows of all slots. `slots` has the slots with a usable clip whose row is not done yet. No other slot
    is computed. `is_last` says whether the batch is the last of its shard.
    """

    @property
    def rows(self) -> Sequence[ClipRow]: ...

    @property
    def slots(self) -> list[int]: ...

    @property
    def is_last(self) -> bool: ...

    def pixels(self, square: Square) -> np.ndarray:
        """Returns [batch_size, T, S, S, 3] uint8. A slot without a usable clip is zero."""

    def clip(self, slot: int) -> "DecodedClip":
        """Returns the clip of a usable slot. The clip's frame times are set also where no pixels were decoded."""

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        """Returns a row of an array that this stage reads.

        The row is the one handed on in this unit, else the one computed in this unit, else the one sealed before.
        """

    def stores(self, array: str) -> bool:
        """Returns whether `write` keeps this array. An array that is not kept need not be computed."""

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        """Keeps values [len(slots), ...] of an array of this stage. Rows that are done already stay unchanged."""

    def hand_on(self, array: str, values: "Tensor") -> None:
        """Lends values [batch_size, ...] of an array to the readers of this key until all of them have run.

        The array may be stored or not.
        """

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        """Marks the clip as failed in this stage and in all stages that read it. The first reason of a clip stays."""

    def note_file(self, slot: int, path: str | None) -> None:
        """Notes that a file is read for the clip's video. A `path` of None notes nothing."""


class Runner(Protocol):
    """Computes one stage key. A worker builds a runner once, with its network, and uses it in one thread."""

    @property
    def digest(self) -> str:
        """Returns the sha256 of the weights for fingerprints, or "" where there are no weights."""

    def run(self, batch: StageBatch) -> None:
        """Writes every array of the key for each of `batch.slots`, or marks the slot as failed.

        A clip that fails raises no exception.
        """


class StageKind(Protocol):
    """One kind of stage. `kind` is the first part of its keys and arrays, of its ledger folder, and of `--stage`.

    Methods that are not abstract have the answers of a stage that reads no video, hands nothing on and runs nothing.
    """

    kind: ClassVar[str]

    @abstractmethod
    def keys(self, recipe: Recipe) -> Collection[str]:
        """Returns `<kind>`, or `<kind>/<name>` of each entry, in order.

        The collection is empty where the recipe lacks the section.
        """

    @abstractmethod
    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        """Returns the stage: the options that fingerprints cover, and the arrays.

        `declared` has all stages of earlier kinds. The option `reads` names the keys that the stage's rows are made
        from. `digest` is the digest of the runner.
        """

    def section(self, key: str) -> str:
        """Returns the section of a config that describes a key, for messages."""
        return self.kind

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError where the section does not fit the others: `key.path: given ..., allowed: ...`."""
        return

    def wanted(self, recipe: Recipe, key: str) -> Wanted | None:
        """Returns what the stage takes of each clip, or None where no frame has to be decoded for it."""
        return None

    def handed_on(self, recipe: Recipe, key: str) -> tuple[str, ...]:
        """Returns the arrays that readers of this key get from `hand_on` where the arrays are not stored and sealed.

        A key that hands arrays on runs for its readers even if it was not asked for. The rows of such a key are not
        written.
        """
        return ()

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        """Returns a function from the name of a video to the file beside it that this stage reads, or None."""
        return None

    def network(self, recipe: Recipe, key: str) -> str:
        """Returns the name of the network that `open` loads, or "" where it loads none."""
        return ""

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> Runner | None:
        """Loads the runner of the key.

        Returns None for a key without a runner. Imports torch. Raises WeightsError, UsageError.
        """
        return None

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Yields (array, kind of problem) for impossible values in sealed rows of clips that did not fail.

        `verify` calls this method.
        """
        return iter(())

    def may_be_zero(self, stage: Stage) -> Collection[str]:
        """Returns the float arrays of a cached stage in which a row of zeros is normal."""
        return ()

    def depends_on(self, stage: Stage) -> Collection[Facts]:
        """Returns the facts of a clip, besides its pixels, on which the values of a cached stage depend.

        An upgrade calls this method.
        """
        return ()

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        """Returns a sentence that names the config keys to change so that the config fits a cache.

        Returns "" where there is no key to change.
        """
        return ""

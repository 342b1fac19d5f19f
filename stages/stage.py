"""The contract of a kind of stage: what it reads, wants, makes and checks. Imports no torch: plans are made from this.

A kind is a room of `stages/` with a subclass of `StageKind` in `stage.py`, and with a `Runner` in `run.py` if it
computes anything. tests/stages/stage_contract.py is the contract as tests.
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

Rows = Mapping[str, np.ndarray]  # array by full name -> rows of one shard
Facts = Literal["numbers", "times", "span"]  # of a clip: places of its frames, their times, its start and end


class StageBatch(Protocol):
    """What a runner sees: consecutive rows of one shard, and those of them that it has to do.

    `rows`: of all slots. `slots`: where a clip is usable and its row is not done yet. Nothing else is to be computed.
    `is_last`: of its shard.
    """

    @property
    def rows(self) -> Sequence[ClipRow]: ...

    @property
    def slots(self) -> list[int]: ...

    @property
    def is_last(self) -> bool: ...

    def pixels(self, square: Square) -> np.ndarray:
        """[batch_size, T, S, S, 3] uint8, zero where a slot has no usable clip."""

    def clip(self, slot: int) -> "DecodedClip":
        """The clip of a usable slot; its frame times are there also where nothing was decoded now."""

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        """A row of an array that this stage reads: handed on in this unit, else computed in it, else sealed before."""

    def stores(self, array: str) -> bool:
        """Whether `write` keeps this array; if not, it need not be computed."""

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        """Keep values [len(slots), ...] of an array of this stage, but for rows that are done already."""

    def hand_on(self, array: str, values: "Tensor") -> None:
        """Lend values [batch_size, ...] of an array, stored or not, to readers of this key until all have run."""

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        """The clip has failed in this stage and in all that read it; where it failed before, the first reason stays."""

    def note_file(self, slot: int, path: str | None) -> None:
        """A file is read for the clip's video, if `path` is one."""


class Runner(Protocol):
    """Computes one stage key. Built once a worker, with its network; lives in one thread."""

    @property
    def digest(self) -> str:
        """sha256 of its weights, for fingerprints; empty where there are none."""

    def run(self, batch: StageBatch) -> None:
        """Write every array of the key, or fail, for each of `batch.slots`. Clips that fail are no exceptions."""


class StageKind(Protocol):
    """One kind of stage. `kind` is the first part of its keys and arrays, of its folder in the ledger, and `--stage`.

    What is not abstract has the answer of a stage that reads no video, hands nothing on and runs nothing.
    """

    kind: ClassVar[str]

    @abstractmethod
    def keys(self, recipe: Recipe) -> Collection[str]:
        """`<kind>`, or `<kind>/<name>` of each entry, in order; none where the recipe does not ask for it."""

    @abstractmethod
    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        """The options that fingerprints cover, and the arrays. `declared`: all stages of kinds before this one.

        The option `reads` names the keys whose rows it is made from, `digest` is that of its runner.
        """

    def section(self, key: str) -> str:
        """Where a config says what a key is, for messages."""
        return self.kind

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError where the section does not fit the others: `key.path: given ..., allowed: ...`."""
        return

    def wanted(self, recipe: Recipe, key: str) -> Wanted | None:
        """What it takes of each clip; None if nothing has to be decoded for it."""
        return None

    def handed_on(self, recipe: Recipe, key: str) -> tuple[str, ...]:
        """Arrays that its readers get from `hand_on`, where these are not stored and sealed.

        A key that hands on runs for its readers even if nobody asked for it; its rows are not written then.
        """
        return ()

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        """From the name of a video to the file beside it that this stage reads."""
        return None

    def network(self, recipe: Recipe, key: str) -> str:
        """Name of the network that `open` loads; empty where it loads none."""
        return ""

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> Runner | None:
        """Load what computes the key; None where nothing does. Imports torch. Raises WeightsError, UsageError."""
        return None

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """(array, kind of problem) of what cannot be in sealed rows of clips that did not fail. `verify` asks."""
        return iter(())

    def may_be_zero(self, stage: Stage) -> Collection[str]:
        """Float arrays of a cached stage in which a row of zeros is nothing to note."""
        return ()

    def depends_on(self, stage: Stage) -> Collection[Facts]:
        """On what of a clip, besides its pixels, the values of a cached stage depend. An upgrade asks."""
        return ()

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        """A sentence with the keys of the config that make it fit a cache; empty where there is none to name."""
        return ""

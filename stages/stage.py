"""Defines the contract of a kind of stage: what it reads, what it needs of a clip, what it makes and what it checks.

This module imports no torch, because plans are made from it. A kind is a folder in `stages/` with a subclass of
`StageKind` in `stage.py`. A kind that computes something also has a `Runner` in `run.py`.
tests/stages/stage_contract.py tests the contract.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.decode.wanted import Square, Wanted
from kinegraph.stages.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kinegraph.stages.decode.clips import DecodedClip

Rows = Mapping[str, np.ndarray]  # full name of an array -> its rows of one shard
Facts = Literal["numbers", "times", "span"]  # facts of a clip: places of its frames, their times, its start and end


class StageBatch(Protocol):
    """The input of a runner: consecutive rows of one shard. A row is one clip under one crop.

    A slot is the position of a row in the batch, from 0. `rows` has the description of each row, in the order of the
    slots. `slots` lists the slots that the runner has to compute. It leaves out failed clips. It also leaves out a row
    that is stored already for this stage and for all stages that wait for its arrays. `is_last` is True for the last
    batch of a shard. `shard_rows` has all rows of the shard. It is the same list object for all batches of a work unit.
    `offset` is the position of the first row of the batch in `shard_rows`. Every batch of the shard but the last has
    `batch_size` rows.
    """

    @property
    def rows(self) -> Sequence[ClipRow]: ...

    @property
    def shard_rows(self) -> Sequence[ClipRow]: ...

    @property
    def offset(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def slots(self) -> list[int]: ...

    @property
    def is_last(self) -> bool: ...

    def pixels(self, square: Square) -> np.ndarray:
        """Returns the pixels of the whole batch as uint8 [batch_size, T, size, size, 3]. T is the number of frames that
        the network takes of a clip.

        `square` describes the input of the network. It has the side `size` in px, says how frames are cut and resized,
        and which frames of a clip are taken. The pixels of failed clips are zeros. A batch with fewer than `batch_size`
        clips is filled up with zeros.
        """

    def clip(self, slot: int) -> "DecodedClip":
        """Returns the decoded clip at the place `slot` of the batch, counted from 0. `slot` must be one of the batch's
        `slots`, which are to be computed.

        If no stage needs pixels, the result has the times of the frames but no pixels.
        """

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        """Returns one row of the array `array`: that of clip number `slot` of the batch, from 0. The array must belong
        to a stage that this stage reads.

        If that stage has passed the row on with `hand_on`, the passed row is returned. Otherwise the row comes from
        this work unit, or else from the cache.
        """

    def stores(self, array: str) -> bool:
        """Returns whether `write` will store the array `array`. The runner need not compute an array that is not
        stored.
        """

    def upload(self, values: "np.ndarray | Tensor") -> "Tensor":
        """Returns `values` as a tensor on the device of the runner. A tensor is returned unchanged.

        A GPU copies the array while it computes. Only work that begins after the call waits for the copy.
        """

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        """Stores `values` [len(slots), ...] as the rows at `slots` of the array `array` of this stage.

        A row that an earlier run has sealed in the cache is not replaced. A tensor must not be changed in place after
        the call, because a GPU copies the tensor to the host while the runner goes on.
        """

    def write_batch(self, array: str, values: "Tensor") -> None:
        """Stores the rows at `slots` of `values` [batch_size, ...] in the array named `array`. Values of the other
        slots are ignored.

        A runner that has values for the whole batch calls this method, because to take rows out of a tensor makes a GPU
        wait.
        """

    def hand_on(self, array: str, values: "Tensor") -> None:
        """Passes `values` [batch_size, ...] of an array of this stage to the stages that read this stage.

        The values stay in memory until all of these stages have run. `write` may store the array as well.
        """

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        """Marks the clip in the slot `slot` of the batch as failed, in this stage and in all stages that read this
        stage. `reason` is a word such as "timeout", and `detail` is the full message. If the clip had failed before,
        its first reason stays.
        """

    def fail_where(self, is_bad: "Tensor", reason: Reason, detail: Callable[[int], str]) -> None:
        """Marks a clip as failed if `is_bad` [batch_size] bool is true for its slot. The clip then also fails in all
        stages that read this stage.

        `reason` is a word such as "non_finite". `detail` is called with the slot of a failed clip and returns the
        message for the ledger. On a GPU the call does not wait for the values of `is_bad`. Stages that read this stage
        may then still run for a failed clip. Their results for the clip are dropped.
        """

    def note_file(self, slot: int, path: str | None) -> None:
        """Records for the ledger that the stage read the file `path` for the clip in the slot `slot` of the batch. Does
        nothing if `path` is None.
        """


class Runner(Protocol):
    """Computes the rows of one stage. A worker makes one runner for each stage, with its network, and uses it in one
    thread.
    """

    @property
    def digest(self) -> str:
        """Returns the sha256 of the weights, which the fingerprint covers, or "" where the runner has no weights."""

    def run(self, batch: StageBatch) -> None:
        """Computes the rows of `batch.slots`. Writes every array of the stage for a slot, or marks the slot as failed.

        A clip that cannot be computed is marked with `batch.fail`. No exception is raised for it.
        """


@runtime_checkable
class GraphableRunner(Protocol):
    """A `Runner` whose network can run through CUDA graphs."""

    def use_graphs(self) -> None:
        """Runs the network through CUDA graphs from now on. The device of the runner must be a GPU."""


@runtime_checkable
class TunableRunner(Protocol):
    """A `Runner` whose speed depends on the size of its batches, and whose network torch.compile can make faster."""

    def try_out(self, num_clips: int) -> None:
        """Runs the network on a batch of `num_clips` black clips, waits for the results and drops them."""

    def use_compiler(self, is_on: bool) -> None:
        """Runs the network through torch.compile from now on, or without it. The next batch starts the compilation,
        which takes up to minutes. Raises UsageError if the machine has no compiler.
        """


class StageKind(Protocol):
    """One kind of stage. `kind` is its name, for example "features". The stage keys and array names of the kind begin
    with it, and the option `--stage` takes it.

    Every kind defines the abstract methods. The other methods have defaults for a stage that reads no video, passes no
    arrays to other stages in memory, and has no runner.
    """

    kind: ClassVar[str]

    @abstractmethod
    def keys(self, recipe: Recipe) -> Collection[str]:
        """Returns the keys of the stages of this kind that a recipe asks for, in the order of the recipe.

        A kind with one stage has the key `<kind>`, for example `proposals`. A kind with several stages has a key
        `<kind>/<name>` for each entry of its section, for example `features/i3d`. Returns no keys if the recipe has no
        section for this kind.
        """

    @abstractmethod
    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        """Returns the Stage with the key `key`: its arrays, and the options that its fingerprint covers.

        `declared` maps the keys of all stages that this stage may read to these stages. `digest` is the sha256 of the
        weights, "" for a stage without weights. The option `reads` of the result maps the key of each stage that is
        read to its fingerprint.
        """

    def section(self, key: str) -> str:
        """Returns the name of the config section of the stage `key`, for messages
        (`features/i3d` -> `backbones.i3d`).
        """
        return self.kind

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError if the config section of this kind of stage does not fit the other sections of `recipe`.

        The message has the form `<option>: given ..., allowed: ...`.
        """
        return

    def wanted(self, recipe: Recipe, key: str) -> Wanted | None:
        """Returns a Wanted: which frames and pixels of each clip the stage `key` needs. Returns None if it needs no
        decoded frames.
        """
        return None

    def handed_on(self, recipe: Recipe, key: str) -> tuple[str, ...]:
        """Returns the names of the arrays that the stage `key` passes in memory to the stages that read it, with
        `StageBatch.hand_on`.

        The cache may lack these arrays, or never store them. In both cases the stage runs again before the stages that
        read it. Its own rows are not written again.
        """
        return ()

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        """Returns a function from the id of a video to the path of the file that the stage `key` reads for this video.

        For example, a stage may read a file of boxes for each video. Returns None if the stage reads no such files.
        """
        return None

    def shares_file(self, recipe: Recipe, key: str) -> bool:
        """Returns whether `file_of` maps all videos to one common file. If it returns False, each video must have a
        file of its own.
        """
        return False

    def network(self, recipe: Recipe, key: str) -> str:
        """Returns the name of the network that `open` loads for the stage `key`, or "" where it loads no network."""
        return ""

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> Runner | None:
        """Loads the runner of the stage `key` and returns it. Returns None for a stage without a runner. Imports torch.

        Raises WeightsError if the weights cannot be loaded. Raises UsageError if `device` cannot run the network. If
        `compiled` is True, the network runs through torch.compile.
        """
        return None

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Yields (array name, kind of problem) for each array in which a sealed row has an impossible value.

        `verify` calls this method with the rows of one shard. `ok` maps array names to the rows of the clips that did
        not fail.
        """
        return iter(())

    def may_be_zero(self, stage: Stage) -> Collection[str]:
        """Returns the names of the float arrays in which a row of zeros is normal. `stage` is a stage of this kind in a
        cache.

        `verify` warns of a row of zeros in any other float array.
        """
        return ()

    def depends_on(self, stage: Stage) -> Collection[Facts]:
        """Returns the facts about a clip, besides its pixels, on which the values of `stage` depend. For example,
        tracks do not depend on the times of frames. If an upgrade of a cache changes such a fact, it computes the stage
        again. `stage` is a stage of this kind in a cache.

        The facts are "numbers" (the places of the frames in the video), "times" (of the frames) and "span" (start and
        end of the clip).
        """
        return ()

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        """Returns advice for a message: a sentence that says how to change the config so that it fits the cache.
        Returns "" if there is no advice.

        `cached` is the description of the stage in the cache, and `asked` is the description that follows from the
        config.
        """
        return ""

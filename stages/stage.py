"""Defines what every kind of stage must have: the contract between the stages and the extraction loop.

A kind of stage is a folder in `stages/` with a subclass of `StageKind` in `stage.py`. A kind that computes something
also has a `Runner` in `run.py`. tests/stages/stage_contract.py tests the contract. This module imports no torch,
because plans are made with it.
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
    """The input of a runner: consecutive rows of one shard. A row is one clip under one crop. A slot is the position of
    a row in the batch, from 0.

    - `rows`: the description of each row, in the order of the slots.
    - `slots`: the slots that the runner has to compute. Clips that failed are left out, and rows that are stored and
      that no later stage needs.
    - `shard_rows`: all rows of the shard. All batches of a shard have the same list object.
    - `offset`: the position of the first row of the batch in `shard_rows`.
    - `batch_size`: the number of rows of every batch of the shard. Only the last batch may have fewer.
    - `is_last`: whether this batch is the last one of the shard.
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
        """Returns the pixels of all clips of the batch, uint8 RGB [batch_size, T, size, size, 3].

        `square` describes the input of the network: its side `size` in px, how frames are cut and resized, and which T
        frames of a clip are taken. The pixels of failed clips and of missing rows are zeros.
        """

    def clip(self, slot: int) -> "DecodedClip":
        """Returns the decoded clip in the slot `slot`, the position in the batch from 0. `slot` must be one of `slots`,
        which lists the clips to compute.

        If no stage needs pixels, the DecodedClip has the times of its frames and no pixels.
        """

    def read(self, array: str, slot: int) -> "np.ndarray | Tensor":
        """Returns one row of an array that an earlier stage has made. `array` is its full name, such as
        `proposals/boxes`. `slot` is the position of the row in the batch, from 0. This stage must declare that it reads
        the earlier stage.

        The values come from memory if the earlier stage called `hand_on`, else from what this run has computed for the
        shard, or from the cache.
        """

    def stores(self, array: str) -> bool:
        """Returns whether `write` stores the array `array` of this stage. If the result is False, the runner need not
        compute the array.
        """

    def upload(self, values: "np.ndarray | Tensor") -> "Tensor":
        """Returns `values` as a tensor on the device of the runner. If `values` is a tensor, it is returned unchanged.

        A GPU copies the array while it computes. Only work that begins after the call waits for the copy.
        """

    def write(self, array: str, slots: Sequence[int], values: "np.ndarray | Tensor") -> None:
        """Stores `values` [len(slots), ...] in the array `array` of this stage, as the rows of the given slots.

        A row that an earlier run has sealed in the cache is not replaced. A tensor must not be changed in place after
        the call, because a GPU copies the tensor to the host while the runner goes on.
        """

    def write_batch(self, array: str, values: "Tensor") -> None:
        """Stores rows of `values` [batch_size, ...] in the array `array` of this stage. Row i of `values` belongs to
        slot i. Only the rows of the slots in `self.slots` are stored. All other rows are ignored.

        A runner that has values for the whole batch calls this method in place of `write`, because taking rows out of a
        tensor makes a GPU wait.
        """

    def hand_on(self, array: str, values: "Tensor") -> None:
        """Keeps `values` [batch_size, ...] in memory for the stages that read this stage. Those stages get the values
        from `read` under the name `array`.

        The values stay in memory until all of these stages have run. The runner may also store the array with `write`.
        """

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        """Marks the clip in the slot `slot` as failed, in this stage and in all stages that read this stage. `reason`
        is a word such as "timeout", and `detail` is the full message.

        If the clip had failed before, its first reason stays.
        """

    def fail_where(self, is_bad: "Tensor", reason: Reason, detail: Callable[[int], str]) -> None:
        """Marks clips as failed, in this stage and in all stages that read this stage. A clip fails if its value in
        `is_bad`, bool [batch_size], is true.

        `reason` is a word such as "non_finite". `detail` is called with the slot of a failed clip and returns the
        message for the ledger. On a GPU the call does not wait for `is_bad`. Later stages may still compute failed
        clips, and their results are dropped.
        """

    def note_file(self, slot: int, path: str | None) -> None:
        """Notes for the ledger that this stage has read the file `path` for the clip in the slot `slot`. Does nothing
        if `path` is None.
        """


class Runner(Protocol):
    """Computes the rows of one stage, batch by batch. A worker makes one runner for each stage and calls it from one
    thread.
    """

    @property
    def digest(self) -> str:
        """Returns the sha256 of the weights, or "" if the runner has no weights. The fingerprint of the stage covers
        the digest.
        """

    def run(self, batch: StageBatch) -> None:
        """Computes the rows of `batch.slots`. For each slot, writes every array of the stage or marks the clip as
        failed.

        A clip that cannot be computed is marked with `batch.fail`. No exception is raised for it.
        """


@runtime_checkable
class GraphableRunner(Protocol):
    """A `Runner` whose network can run through CUDA graphs. A CUDA graph starts all kernels of the network by one
    call.
    """

    def use_graphs(self) -> None:
        """Runs the network through CUDA graphs from now on. The device of the runner must be a GPU."""


@runtime_checkable
class TunableRunner(Protocol):
    """A `Runner` that can be made faster: by another batch size, or by torch.compile."""

    def try_out(self, num_clips: int) -> None:
        """Runs the network on a batch of `num_clips` black clips and waits for the results, so that the caller can
        measure time and memory. The results are dropped.
        """

    def use_compiler(self, is_on: bool) -> None:
        """Switches torch.compile on for the network if `is_on` is true, otherwise off. The next batch then starts the
        compilation, which takes up to minutes. Raises UsageError if the machine has no compiler.
        """


class StageKind(Protocol):
    """One kind of stage. `kind` is its name, for example "features". Stage keys and array names of the kind begin with
    the name, and the option `--stage` takes it.

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
        """Returns the Stage with the key `key`, as the config `recipe` describes it: its arrays, and the options that
        its fingerprint covers.

        `declared` is {key: Stage} of all stages that this stage may read. `digest` is the sha256 of the weights, or ""
        for a stage without weights. The option `reads` of the result is {key: fingerprint} of the stages that this
        stage reads.
        """

    def section(self, key: str) -> str:
        """Returns the name of the config section that describes the stage `key`, for messages: `features/i3d` ->
        `backbones.i3d`.
        """
        return self.kind

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError if the config section of this kind of stage does not fit the other sections of `recipe`.

        The message has the form `<option>: given ..., allowed: ...`.
        """
        return

    def wanted(self, recipe: Recipe, key: str) -> Wanted | None:
        """Returns a Wanted, which says which frames and pixels of each clip the stage `key` of the config `recipe`
        needs. Returns None if the stage needs no decoded frames.
        """
        return None

    def handed_on(self, recipe: Recipe, key: str) -> tuple[str, ...]:
        """Returns the names of the arrays that the stage `key` of the config `recipe` passes in memory to the stages
        that read it, with `StageBatch.hand_on`.

        The cache may lack these arrays. Then the stage runs again before the stages that read it, and rows that it has
        stored are not written again.
        """
        return ()

    def file_of(self, recipe: Recipe, key: str) -> Callable[[str], str] | None:
        """Returns a function that maps the id of a video to the path of the file that the stage `key` of the config
        `recipe` reads for the video, such as a file of boxes. Returns None if the stage reads no such files.
        """
        return None

    def shares_file(self, recipe: Recipe, key: str) -> bool:
        """Returns whether all videos have one common file for the stage `key` of the config `recipe`, so that `file_of`
        maps every video to the same path. Returns False if each video must have a file of its own.
        """
        return False

    def network(self, recipe: Recipe, key: str) -> str:
        """Returns the name of the network that `open` loads for the stage `key` of the config `recipe`, or "" if `open`
        loads no network.
        """
        return ""

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> Runner | None:
        """Loads the runner of the stage `key` of the config `recipe` and returns it. Returns None for a stage without a
        runner. Imports torch.

        `device` is where the network runs. If `compiled` is True, the network runs through torch.compile. Raises
        WeightsError if the weights cannot be loaded. Raises UsageError if `device` cannot run the network.
        """
        return None

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Yields (array name, kind of problem) for each array in which a sealed row has an impossible value. The kind
        of problem is a word, such as "ids".

        `verify` calls this method with the rows of one shard. `ok` is {array name: rows of the clips that did not
        fail}.
        """
        return iter(())

    def may_be_zero(self, stage: Stage) -> Collection[str]:
        """Returns the names of the float arrays in which a row of zeros is normal. `stage` is a stage of this kind in a
        cache.

        `verify` warns of a row of zeros in any other float array.
        """
        return ()

    def depends_on(self, stage: Stage) -> Collection[Facts]:
        """Returns the facts about a clip, besides its pixels, on which the values of `stage` depend. If an upgrade of
        the cache changes one of these facts, the upgrade computes the stage again.

        The facts are "numbers" (the places of the frames in the video), "times" (of the frames) and "span" (start and
        end of the clip). For example, tracks do not depend on "times".
        """
        return ()

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        """Returns a sentence for a message: which keys of the config to change so that the config fits the cache.
        Returns "" if there is no such advice.

        `cached` describes the stage in the cache. `asked` describes the stage that the config asks for.
        """
        return ""

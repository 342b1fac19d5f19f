"""Measures the loaded networks to choose a batch size for `run.batch_size: auto`, and the networks to compile for
`run.compile: auto`.

A choice changes how values are rounded. So the choice is made once for a cache, a kind of device and a number of
threads, and is stored in the cache. Every worker and every later run uses the stored choice.
"""

import json
import re
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

import torch

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.memory import available_bytes
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.config import MOST_CLIPS, Config, RunOptions
from kinegraph.pipeline.extraction.events import Measured, Preparing, Report
from kinegraph.stages.errors import UsageError
from kinegraph.stages.stage import Runner, TunableRunner

AUTO = "auto"
FOLDER = "tuning"  # of a cache
FEW_CLIPS = 8  # the batch size of caches that are too small for a measurement
MEASURED_RUNS = 2  # after one that warms up
TRIAL_SHARE = 1 / 20  # of the clips of a worker, that a measurement may cost
GAIN = 0.02  # by which a larger batch, or compiled code, must be faster
LEAST_SECONDS = 600  # of work without compilation; below, compilation is not tried

Tunable = Mapping[str, TunableRunner]  # stage key -> runner
Tell = Callable[[str], None]  # is called with sentences for the user


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen batch size and the chosen networks to compile, for one worker.

    `batch_size` is the number of clips of a batch. `compiled` has the keys of the stages whose networks run through
    torch.compile.
    """

    batch_size: int
    compiled: frozenset[str] = frozenset()


def choose(config: Config, cache: Cache, runners: Mapping[str, Runner], device: torch.device, report: Report) -> Choice:
    """Returns the batch size and the stages to compile, as a Choice. An option of `config` that is not `auto` is
    returned as it is.

    For `run.batch_size: auto` and `run.compile: auto`, returns the choice that `cache` stores for this kind of device
    and number of threads. If there is none, measures the networks and stores the choice. For `run.compile: auto`, also
    turns torch.compile on or off for each network.

    `runners` maps stage keys to runners on `device`. `report` is called with an event before each measurement, and with
    the results. Raises UsageError if the stored choice needs a compiler that this machine lacks.
    """
    run, tunable = config.run, {key: runner for key, runner in runners.items() if isinstance(runner, TunableRunner)}
    given: dict[str, Any] = {} if tunable else {"batch_size": FEW_CLIPS, "compiled": []}
    if run.batch_size != AUTO:
        given["batch_size"] = run.batch_size
    if run.compile != AUTO:
        given["compiled"] = [*tunable] if run.compile else []
    if given.keys() < {"batch_size", "compiled"}:
        name = _name(device, run.worker_threads)
        kept = _kept(cache, name)
        if missing := {"batch_size", "compiled"} - (kept | given).keys():
            work = WorkerShare(cache.num_rows / _workers(run), cache.shard_clips)
            sentences: list[str] = []
            measured = _measured(tunable, work, kept | given, report, sentences.append)
            if _keep(cache, name, {option: measured[option] for option in missing}):
                for sentence in sentences:
                    report(Measured(result=sentence))
            kept = _kept(cache, name)
        given = kept | given
        report(Preparing(doing=_sentence(given, name)))
    if run.compile == AUTO:
        for key, runner in tunable.items():
            runner.use_compiler(key in given["compiled"])
    return Choice(batch_size=given["batch_size"], compiled=frozenset(given["compiled"]) & {*tunable})


def _sentence(choice: Mapping[str, Any], name: str) -> str:
    compiled = ", ".join(choice["compiled"]) or "nothing"
    return f"batches of {counted(choice['batch_size'], 'clip')}, {compiled} compiled, as {name} of the cache keeps"


@dataclass(frozen=True)
class WorkerShare:
    """The work of one worker: `clips` clips of a cache, in shards of `shard_clips` clips."""

    clips: float
    shard_clips: int

    def batches(self, batch_size: int) -> float:
        """Returns the number of batches of `batch_size` clips that the worker runs. The last batch of a shard may be
        smaller and counts fully.
        """
        return self.clips / self.shard_clips * ceil(self.shard_clips / batch_size)


def _workers(run: RunOptions) -> int:
    return 1 if run.executor == "inline" else run.workers


def _name(device: torch.device, threads: int) -> str:
    """Returns the name of the object in the cache that stores the choice for this kind of device and number of threads.

    For example, the CPU with 2 threads has the name "tuning/cpu-2.json".
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{FOLDER}/{re.sub(r'[^a-z0-9]+', '-', kind.lower())}-{threads}.json"


def _kept(cache: Cache, name: str) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(cache.storage.get(name))
    except FileNotFoundError:
        return {}
    return kept


def _keep(cache: Cache, name: str, measured: dict[str, Any]) -> bool:
    """Stores the choice `measured` in `cache` as the object `name`. Returns False, and stores nothing, if another
    worker has stored a choice first.
    """
    if cache.storage.create(name, _encoded(measured)):
        return True
    if measured.keys() <= (kept := _kept(cache, name)).keys():
        return False
    cache.storage.put(name, [_encoded(measured | kept)])
    return True


def _encoded(choice: dict[str, Any]) -> bytes:
    return json.dumps(choice, sort_keys=True).encode()


def _measured(
    tunable: Tunable, work: WorkerShare, given: Mapping[str, Any], report: Report, tell: Tell
) -> dict[str, Any]:
    """Returns a copy of `given` with the keys "batch_size" and "compiled". A key that `given` lacks is measured.

    `report` is called with an event before a measurement, and `tell` with sentences about its result.
    """
    choice = dict(given)
    if "batch_size" not in choice:
        report(Preparing(doing="measuring batch sizes"))
        choice["batch_size"] = fastest_batch(tunable, work, tell)
    if "compiled" not in choice:
        choice["compiled"] = worth_compiling(tunable, choice["batch_size"], work, report, tell)
    return choice


def fastest_batch(tunable: Tunable, work: WorkerShare, tell: Tell) -> int:
    """Returns the batch size, in clips, at which the networks `tunable` are fastest. Calls `tell` with the reason.

    Tries the sizes 1, 2, 4, ... up to 32. Stops when a size is no faster than the size before, when memory may become
    short, or when the measurement would take more than 5 % of the clips of `work`. If fewer than two sizes were
    measured, returns 8, or fewer for a small shard.
    """
    seconds: dict[int, float] = {}  # of all clips of a shard, by batch size
    tried, size, why = 0, 1, ""
    while size <= min(MOST_CLIPS, work.shard_clips):
        tried += size * (1 + MEASURED_RUNS)
        if tried > TRIAL_SHARE * work.clips:
            why = "A larger size would take too long to measure"
            break
        before = _peak_bytes()
        try:
            of_batch = sum(_seconds(runner, size) for runner in tunable.values())
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error) or size == 1:
                raise
            why = f"{size} do not fit into memory"
            torch.cuda.empty_cache()
            break
        seconds[size] = of_batch * ceil(work.shard_clips / size) / work.shard_clips
        if size > 1 and seconds[size] > (1 - GAIN) * seconds[size // 2]:
            break
        if 2 * (_peak_bytes() - before) > (available_bytes() or float("inf")):
            why = f"{2 * size} might not fit into memory"
            break
        size *= 2
    if len(seconds) < 2:
        best = min(FEW_CLIPS, work.shard_clips)
        tell(f"run.batch_size: auto takes {best}. {why or 'Shards have one clip'}")
        return best
    best = min(seconds, key=lambda size: seconds[size])
    of_sizes = ", ".join(f"{size}: {1000 * each:.0f} ms" for size, each in seconds.items())
    tell(f"run.batch_size: auto takes {best}. Time of a clip by batch size: {of_sizes}{'. ' * bool(why)}{why}")
    return best


def worth_compiling(tunable: Tunable, batch_size: int, work: WorkerShare, report: Report, tell: Tell) -> list[str]:
    """Returns the keys of those networks in `tunable` for which torch.compile saves time: in all batches of `work`
    together, a compiled network saves more time than the compilation takes.

    `batch_size` is the number of clips of a batch. Returns [] without a measurement if all batches take less than 10
    minutes. Calls `tell` with the reasons, and `report` with an event before each compilation.
    """
    batches = work.batches(batch_size)
    if (seconds := batches * sum(_seconds(runner, batch_size) for runner in tunable.values())) < LEAST_SECONDS:
        tell(
            f"run.compile: auto compiles nothing. One worker has {seconds:.0f} s of work, and compilation is tried "
            f"from {LEAST_SECONDS} s on"
        )
        return []
    return [
        key
        for key, runner in stopping.checked(tunable.items())
        if _pays(key, runner, batch_size, batches, report, tell)
    ]


def _pays(
    key: str,
    runner: TunableRunner,
    batch_size: int,
    batches: float,
    report: Report,
    tell: Tell,
) -> bool:
    """Compiles the network of the stage `key` and returns whether this saves time in `batches` batches of `batch_size`
    clips. Calls `tell` with the measured times, and `report` with an event.
    """
    report(Preparing(doing=f"compiling {key}"))
    begun = perf_counter()
    try:
        runner.use_compiler(True)
        runner.try_out(batch_size)
    except (UsageError, RuntimeError) as error:
        stopping.check()  # Ctrl-C in a terminal ends the compiler too
        reason = str(error).partition("\n")[0]
        tell(f"run.compile: auto leaves {key} without compilation, which fails here: {reason}")
        return False
    taken = perf_counter() - begun
    compiled, plain = _seconds_in_turn(runner, batch_size)
    pays = (plain - compiled) * batches > taken and compiled < (1 - GAIN) * plain
    tell(
        f"run.compile: auto {'compiles' if pays else 'does not compile'} {key}. A batch takes {1000 * compiled:.0f} ms "
        f"with compilation and {1000 * plain:.0f} ms without, compilation {taken:.0f} s, and one worker has "
        f"{counted(round(batches), 'batch', 'batches')}"
    )
    return pays


def _seconds_in_turn(runner: TunableRunner, batch_size: int) -> tuple[float, float]:
    """Returns the seconds that `runner` takes for a batch of `batch_size` clips, with compilation and without. Each is
    the shortest of a few runs. The runs take turns, so that a busy machine slows both alike.
    """
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for is_on in stopping.checked([True, False] * MEASURED_RUNS):
        runner.use_compiler(is_on)
        begun = perf_counter()
        runner.try_out(batch_size)
        seconds[is_on].append(perf_counter() - begun)
    return min(seconds[True]), min(seconds[False])


def _seconds(runner: TunableRunner, batch_size: int) -> float:
    """Returns the seconds that `runner` takes for a batch of `batch_size` clips. The result is the shorter of two runs,
    after a first run that does not count.
    """
    runner.try_out(batch_size)
    seconds = []
    for _ in range(MEASURED_RUNS):
        stopping.check()
        begun = perf_counter()
        runner.try_out(batch_size)
        seconds.append(perf_counter() - begun)
    return min(seconds)


def _peak_bytes() -> int:
    # outside Linux the unit may differ, but there `available_bytes` returns None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)

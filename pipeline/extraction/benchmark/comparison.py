"""Measures the speed of an extraction for `kinegraph bench`: the whole extraction, its decoding alone, its networks
alone, and a plain loop without a cache. Needs torch.

The benchmark extracts a few clips of the user's videos several times, into temporary caches. The user's cache is only
read.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import torch

from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import FEATURES, Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.clusters.walltime import UnitSchedule
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.benchmark.forwards import Forward, record_calls, run_again
from kinegraph.pipeline.extraction.benchmark.plain_loop import FrameSource, PillowFrames, PlainLoop
from kinegraph.pipeline.extraction.benchmark.torchcodec_frames import TorchcodecFrames
from kinegraph.pipeline.extraction.events import Event
from kinegraph.pipeline.extraction.feed import Feed
from kinegraph.pipeline.extraction.scratch import scratch
from kinegraph.pipeline.extraction.worker import Worker
from kinegraph.pipeline.machine import hardware
from kinegraph.pipeline.machine.alternation import Way, alternate
from kinegraph.pipeline.machine.devices import name_of_device
from kinegraph.pipeline.machine.memory import without_kept_memory
from kinegraph.stages.errors import UsageError
from kinegraph.stages.proposals.stage import Proposals
from kinegraph.stages.regions.stage import Regions
from kinegraph.stages.remote.urls import is_url

WHOLE, NETWORKS, DECODING, PLAIN = "whole extraction", "networks alone", "decoding alone", "plain loop"
PLAIN_TORCHCODEC, DECODING_TORCHCODEC = "plain loop, torchcodec", "decoding, torchcodec"
IN_PLAIN_LOOP = {CLIPS, FEATURES.rstrip("/"), Proposals.kind, Regions.kind}  # kinds of stages


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """The result of `kinegraph bench`: how long several methods take for the same clips. A method is, for example,
    "whole extraction" or "plain loop".
    """

    # `clips`, `videos`, `frames`: the numbers of measured clips, of their videos and of their frames
    clips: int
    videos: int
    frames: int
    failed: int  # the number of clips that were not measured, because they cannot be extracted
    stages: tuple[str, ...]  # the keys of the extracted stages
    # `device`, `threads`, `batch_size`: the device of the networks, the number of CPU threads and the clips of a batch
    device: str
    threads: int
    batch_size: int
    seconds: dict[str, list[float]]  # method -> a list of seconds, one item for each round
    left_out: dict[str, str]  # method that could not be measured -> the reason
    run: dict[str, Any]  # the machine, the versions of packages and the date

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as a dict for `--json`. The dict itself has the items of `run` (machine, versions and
        date), not a key `run`.
        """
        measured = asdict(self)
        del measured["run"]
        return {"schema": 1} | self.run | measured


class Extraction:
    """An extraction of the clips `rows` that can run several times. The networks are loaded once.

    `run` extracts all clips into a temporary cache in `folder`. Call `prepare` before each further `run`. `prepare`
    deletes `folder` and makes an empty cache there, so `folder` must hold nothing else.
    """

    def __init__(self, config: Config, cache: Cache, folder: Path, rows: Sequence[ClipRow]) -> None:
        self.config, self.cache, self.folder, self.rows = config, cache, folder, rows
        self.made = self._new_cache()
        self.units = make_plan(config, self.made).units
        keys = {key for unit in self.units for key in unit.keys}
        self.worker = Worker(config, self.made, keys, _say_nothing, UnitSchedule(None))
        self.loaded = self.worker.loaded

    def without(self, clip_ids: set[str]) -> None:
        """Removes the clips with the ids `clip_ids` from this extraction. Then makes an empty cache for the remaining
        clips.
        """
        self.rows = [row for row in self.rows if row.clip_id not in clip_ids]
        self.prepare()
        self.units = make_plan(self.config, self.made).units

    def _new_cache(self) -> Cache:
        shutil.rmtree(self.folder, ignore_errors=True)
        return scratch(self.config, self.cache, self.folder, self.rows)

    def prepare(self) -> None:
        """Replaces the cache of the last run by an empty cache."""
        self.made = self._new_cache()
        loaded = self.loaded.moved_to(self.made)
        self.worker = Worker(self.config, self.made, (), _say_nothing, UnitSchedule(None), loaded)

    def run(self) -> None:
        """Extracts all clips into the empty cache."""
        self.worker.run(self.units, decode_threads=self.config.run.decoders)

    def failures(self) -> dict[str, str]:
        """Returns a dict {id of a clip: error message} of the clips that failed in the last run."""
        keys = {key for unit in self.units for key in unit.keys}
        records = [record for key in sorted(keys) for record in self.made.ledger.records(key)]
        return {failure.clip_id: failure.detail for record in records for failure in record.failures}

    def decode(self) -> None:
        """Decodes all clips without running networks, and drops the pixels. Uses as many threads as an extraction."""
        run = self.config.run
        feed = Feed(
            lambda unit: self.made.rows(unit.shard),
            self.loaded.wanted,
            batch_size=self.loaded.provenance.batch_size,
            timeout_seconds=run.video_timeout_seconds,
            threads=run.decoders,
            staging=run.staging,
        )
        with closing(feed.batches(self.units)) as batches:
            for _ in batches:
                pass

    @property
    def decodes(self) -> bool:
        """Returns whether the extraction decodes videos. An extraction that decodes none only reads stages from the
        cache.
        """
        return any(self.loaded.wanted(unit) is not None for unit in self.units)


def compare(
    config: Config,
    cache: Cache,
    *,
    clips: int,
    rounds: int,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> SpeedComparison:
    """Measures how long several methods take for the same clips of `cache`, and returns a SpeedComparison. The methods
    are the whole extraction of `config`, its decoding alone, its networks alone, and plain loops, which compute one
    video at a time.

    `clips` is the number of clips. Each method runs once in each of `rounds` rounds. `on_progress` is called with (name
    of the method, number of finished runs, number of all runs). Raises UsageError if the config cannot be measured on
    this cache and machine. Raises WeightsError if weights cannot be read.
    """
    _require_own_stages(config, cache)
    with tempfile.TemporaryDirectory(prefix="kinegraph-") as name:
        folder = Path(name)
        rows = spread_rows(scratch(config, cache, folder / "rows"), clips, config.clips.rows_per_video)
        extraction = Extraction(config, cache, folder / "cache", rows)
        forwards = _recorded(extraction)
        loops, left_out = _plain_loops(extraction)
        ways = [Way(name=WHOLE, run=extraction.run, prepare=extraction.prepare)]
        if forwards:
            ways.append(Way(name=NETWORKS, run=partial(run_again, forwards, extraction.loaded.device)))
        else:
            left_out[NETWORKS] = "the config has no network"
        if extraction.decodes:
            ways.append(Way(name=DECODING, run=extraction.decode))
        else:
            left_out[DECODING] = "the config needs no pixels"
        run = hardware.described_run(name_of_device(extraction.loaded.device))
        seconds = alternate(
            [*ways, *_ways_of_loops(loops, extraction.rows, folder / "npy")], rounds, on_progress=on_progress
        )
        return SpeedComparison(
            clips=len(extraction.rows),
            videos=len({row.path for row in extraction.rows}),
            frames=len(extraction.rows) * config.clips.num_frames,
            failed=len(rows) - len(extraction.rows),
            stages=tuple(extraction.loaded.declared.stages),
            device=str(extraction.loaded.device),
            threads=config.run.worker_threads,
            batch_size=extraction.loaded.provenance.batch_size,
            seconds=seconds,
            left_out=left_out,
            run=run | {"load_after": hardware.load()},
        )


def spread_rows(cache: Cache, count: int, rows_per_video: int) -> list[ClipRow]:
    """Returns at most `count` rows of the cache, from shards that are spread evenly over the cache.

    `rows_per_video` is the number of rows that the config makes for each video. The rows of one video are taken
    together, because they are decoded together.
    """
    together = min(rows_per_video, cache.shard_clips)
    num_shards = min(cache.num_shards, -(-count // together))
    each = max(together, -(-count // num_shards)) if num_shards else 0
    rows: list[ClipRow] = []
    for place in range(num_shards):
        rows += cache.rows(place * cache.num_shards // num_shards)[:each]
    return rows[:count]


def _say_nothing(event: Event) -> None:
    pass


def _require_own_stages(config: Config, cache: Cache) -> None:
    if imported := sorted(declare(config, {}, cache).imported):
        raise UsageError(
            f"bench: the config reads the imported {', '.join(imported)}, which temporary caches do not have. Leave "
            "out the sections that read them, for example --set regions=null"
        )


def _recorded(extraction: Extraction) -> list[Forward]:
    """Runs the extraction and returns one Forward for each call of a network.

    If clips fail, removes these clips from the extraction and runs it once more. Raises UsageError if all clips fail.
    """
    while True:
        with record_calls(extraction.loaded.device) as forwards:
            extraction.run()
        failures = extraction.failures()
        if not failures:
            return forwards
        if len(failures) == len(extraction.rows):
            clip_id, detail = next(iter(failures.items()))
            raise UsageError(
                f"bench: all {counted(len(failures), 'clip')} failed, so nothing can be measured. The first is "
                f"{clip_id}: {detail}"
            )
        extraction.without({*failures})


def _plain_loops(extraction: Extraction) -> tuple[dict[str, PlainLoop], dict[str, str]]:
    """Returns two dicts. The first maps the name of each plain loop that works on this machine to its PlainLoop. The
    second maps the name of each other plain loop to the reason why it does not work.

    Each loop is tried out: it decodes all videos of `extraction` and extracts the first video.
    """
    loops: dict[str, PlainLoop] = {}
    loop: PlainLoop | None = None
    left_out: dict[str, str] = {}
    threads, device = extraction.config.run.worker_threads, extraction.loaded.device
    decoders: dict[str, Callable[[], FrameSource]] = {
        PLAIN: PillowFrames,
        PLAIN_TORCHCODEC: lambda: TorchcodecFrames(threads),
    }
    for name, decoder in decoders.items():
        if reason := _why_no_loop(extraction):
            left_out[name] = reason
            continue
        try:
            frames = decoder()
            loop = loop.decoding_with(frames) if loop else PlainLoop(extraction.config, device, frames)
            _decode(loop, extraction.rows)
            with tempfile.TemporaryDirectory(prefix="kinegraph-") as folder:
                loop.run(_first_video(extraction.rows), Path(folder))
        except ModuleNotFoundError as error:
            left_out[name] = f"{(error.name or '').partition('.')[0]} is not installed"
        except (RuntimeError, OSError, ValueError, av.FFmpegError) as error:
            left_out[name] = f"it fails here: {str(error).strip().splitlines()[0]}"
        else:
            loops[name] = loop
    return loops, left_out


def _why_no_loop(extraction: Extraction) -> str:
    """Returns the reason why a plain loop cannot do the work of `extraction`, for example that videos lie at URLs.
    Returns "" if a plain loop can do the work.
    """
    proposals = extraction.config.proposals
    kinds = {key.partition("/")[0] for key in extraction.loaded.declared.stages}
    if others := sorted(kinds - IN_PLAIN_LOOP):
        return f"it computes no {' and no '.join(others)}"
    if proposals is not None and proposals.network is None:
        return f"it has no proposals of the source {proposals.source}"
    if any(is_url(row.path) for row in extraction.rows):
        return "it reads no videos at URLs"
    if any(row.frame_rate is not None for row in extraction.rows):
        return "it reads videos, and no folders of images"
    return "" if extraction.decodes else "the config needs no pixels"


def _ways_of_loops(loops: dict[str, PlainLoop], rows: Sequence[ClipRow], folder: Path) -> list[Way]:
    def empty() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    as_in_a_script = without_kept_memory()
    ways = [
        Way(name=name, run=as_in_a_script(partial(loop.run, rows, folder)), prepare=empty)
        for name, loop in loops.items()
    ]
    if loop := loops.get(PLAIN_TORCHCODEC):
        ways.append(Way(name=DECODING_TORCHCODEC, run=partial(_decode, loop, rows)))
    return ways


@torch.inference_mode()
def _decode(loop: PlainLoop, rows: Sequence[ClipRow]) -> None:
    """Decodes the clips `rows`, resizes their frames for all networks of `loop`, and drops the pixels."""
    for path, of_video in groupby(rows, key=lambda row: row.path):
        video = list(of_video)
        for row, frames in zip(video, loop.frames.of_clips(path, video), strict=True):
            loop.wholes(row, frames)
            for name in loop.backbones:
                loop.squares(name, row, frames)


def _first_video(rows: Sequence[ClipRow]) -> list[ClipRow]:
    return [row for row in rows if row.path == rows[0].path]

"""Writes a sentence that says what limits the speed of an extraction on this machine, and what helps. Torch-free.

The sentence contains only measured numbers, no estimates.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kinegraph.cache_schemas.crops import FULL, base_of
from kinegraph.pipeline.config import Config
from kinegraph.stages.clock import (
    ASSEMBLE,
    CONVERT,
    COPY,
    DECODE,
    DECODE_WAIT,
    FETCH,
    FIRST_BATCH,
    REST,
    WRITE,
    WRITER_WAIT,
)
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.remote.staging import COPIERS

WAITS = (FIRST_BATCH, DECODE_WAIT, WRITER_WAIT)
THREADS_AT = {DECODE: "decoding", FETCH: "copying from URLs", ASSEMBLE: "putting batches together", WRITE: "writing"}
STAGES = {"features": "the backbone", "proposals": "boxes", "regions": "RoIAlign", "tracks": "linking tracks"}
NAMES = {"graphs": "reading scene graphs", COPY: "copying results to the host", REST: "work between the stages"}
LEAST_SAVED = 0.05  # a smaller share is no remedy
LEAST_WAITED = 0.05  # a smaller share of the work is no wait
OTHER_CACHE = "values change with it, so it needs another `cache`"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A worker and its machine, as far as advice about speed depends on them."""

    is_cpu: bool  # whether the networks run on the CPU
    cores: int  # the number of CPU cores
    decoders: int  # the number of decoder threads of the worker. 0 means that the thread that computes also decodes.
    has_fast_bf16: bool  # whether the device computes faster in bf16 than in float32


Saved = Callable[[str, str], float | None]  # (stage key, precision) -> share of the time that the precision saves


def limit(
    config: Config,
    machine: Machine,
    computing: Mapping[str, float],
    beside: Mapping[str, float],
    on_device: Mapping[str, float],
    saved: Saved = lambda key, precision: None,
) -> str:
    """Returns a sentence that says what limits the speed of an extraction. If advice is known, a second sentence says
    what helps.

    - `machine`: the worker that was measured.
    - `computing`: kind of work -> seconds of the thread that computes.
    - `beside`: kind of work -> seconds of the other threads.
    - `on_device`: stage key -> seconds on a CUDA device.
    - `saved`: is called with (stage key, precision). Returns the share of the stage's time that would be saved in this
      precision, or None if it was not measured.
    """
    work = {kind: seconds for kind, seconds in computing.items() if kind not in WAITS}
    if on_device:
        work.pop(COPY, None)
        work |= {key: max(seconds, work.get(key, 0.0)) for key, seconds in on_device.items()}
    decoding = beside.get(DECODE, 0.0) + beside.get(CONVERT, 0.0)
    if not machine.decoders:
        work[DECODE] = decoding
    total = sum(work.values())
    loads = {WRITE: beside.get(WRITE, 0.0)}
    if computing.get(DECODE_WAIT, math.inf) >= LEAST_WAITED * total:
        loads |= {FETCH: beside.get(FETCH, 0.0) / COPIERS, ASSEMBLE: beside.get(ASSEMBLE, 0.0)}
        loads |= {DECODE: decoding / machine.decoders if machine.decoders else 0.0}
    slowest = max(loads, key=lambda kind: loads[kind])
    if loads[slowest] > total:
        sentence = f"limit: {THREADS_AT[slowest]}. It takes {loads[slowest]:.1f} s, and the stages take {total:.1f} s"
        return _with(sentence, _helps_thread(slowest, config, machine, beside))
    kind = max(work, key=lambda kind: work[kind], default=REST)
    share = 100 * work.get(kind, 0.0) / total if total else 0.0
    return _with(f"limit: {_named(kind)}, {share:.0f} % of the work of this unit", _helps(kind, config, machine, saved))


def _with(sentence: str, helps: Iterator[str]) -> str:
    remedies = "; ".join(helps)
    return f"{sentence}. What helps: {remedies}." if remedies else f"{sentence}."


def _named(kind: str) -> str:
    family = kind.partition("/")[0]
    return f"{STAGES[family]} (`{kind}`)" if family in STAGES else NAMES.get(kind, THREADS_AT.get(kind, f"`{kind}`"))


def _helps_thread(kind: str, config: Config, machine: Machine, beside: Mapping[str, float]) -> Iterator[str]:
    """Yields advice on how to speed up `kind`, the work of a thread beside the thread that computes. `kind` is a key of
    THREADS_AT, for example decoding.

    `beside` maps each kind of work of such threads to its seconds.
    """
    if kind == DECODE:
        yield (
            f"more threads (`run.decode_threads`, now {machine.decoders} on {machine.cores} cores)"
            if machine.decoders < machine.cores
            else "more cores, or workers on other machines"
        )
        if beside.get(CONVERT, 0.0) > beside.get(DECODE, 0.0):
            yield from _faster_resizing(config)
            yield from _smaller(config)
    elif kind == FETCH:
        yield "workers nearer to the videos, or more of them"
    elif kind == ASSEMBLE:
        yield from _smaller(config)
    else:
        if config.store.compression != "none":
            yield "`store.compression: none`, in another cache"
        if maps := [name for name, options in config.backbones.items() if "maps" in options.store]:
            yield f"`backbones.{maps[0]}.store: [pooled]`, in another cache, if nothing reads the maps"
        yield "a faster disk for the cache"


def _faster_resizing(config: Config) -> Iterator[str]:
    """Yields advice to resize with libswscale, if Pillow resizes frames now and libswscale can do it instead."""
    framings = {f"backbones.{name}": config.framing_of(name) for name in config.backbones}
    by_pillow = [section for section, framing in framings.items() if framing.resize in ("pillow", "bicubic")]
    is_whole = {*map(base_of, config.clips.crops)} == {FULL} or all(each.resize_short for each in framings.values())
    if config.proposals is not None and getattr(config.proposals, "resize", "") == "pillow":
        by_pillow.append("proposals")
    if by_pillow and is_whole:
        yield f"`resize: swscale` under {' and '.join(by_pillow)} ({OTHER_CACHE})"


def _smaller(config: Config) -> Iterator[str]:
    if config.proposals is not None and hasattr(config.proposals, "short_side"):
        yield f"a smaller `proposals.short_side` ({OTHER_CACHE})"
    else:
        yield f"fewer frames, `clips.num_frames` ({OTHER_CACHE})"


def _helps(kind: str, config: Config, machine: Machine, saved: Saved) -> Iterator[str]:
    """Yields advice on how to speed up `kind`, the slowest work of the thread that computes. Each advice is a part of a
    sentence, for example "a GPU, if one can be had (`run.device`)".

    `kind` is a stage key or other work, for example copying results from the GPU. `saved` returns how much time another
    precision saves.
    """
    family, _, name = kind.partition("/")
    if kind == DECODE:
        yield "`--executor local`, which decodes in threads beside the stages"
    elif family == "proposals" and config.proposals is not None:
        if config.proposals.network is not None:
            if (precision := getattr(config.proposals, "precision", None)) is not None:
                yield from _precision("proposals", kind, precision, machine, saved)
            twice = config.proposals.model_copy(update={"every": 2 * config.proposals.every})
            if _is_allowed(config.model_copy(update={"proposals": twice})):
                yield f"`proposals.every: {twice.every}` ({OTHER_CACHE})"
    elif family == "features" and name in config.backbones:
        yield from _precision(f"backbones.{name}", kind, config.backbones[name].precision, machine, saved)
    elif family == "regions" and config.proposals is not None:
        yield f"fewer boxes, `proposals.top` below {config.proposals.top} ({OTHER_CACHE})"
    elif kind == COPY:
        yield f"`store: [pooled]` without maps ({OTHER_CACHE})"
    if machine.is_cpu and (family == "features" or (family == "proposals" and config.proposals is not None)):
        yield "a GPU, if one can be had (`run.device`)"


def _is_allowed(config: Config) -> bool:
    try:
        for kind in KINDS.values():
            kind.check(config)
    except ValueError:
        return False
    return True


def _precision(section: str, key: str, precision: str, machine: Machine, saved: Saved) -> Iterator[str]:
    other = "bf16" if machine.has_fast_bf16 else "fp32"
    if precision == other or (precision, other) == ("fp16", "bf16"):
        return
    share = saved(key, other)
    if share is None:
        yield f"`{section}.precision: {other}`, not measured ({OTHER_CACHE})"
    elif share >= LEAST_SAVED:
        yield f"`{section}.precision: {other}` saves {100 * share:.0f} % of that, measured on one batch ({OTHER_CACHE})"

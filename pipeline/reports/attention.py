"""Finds what the user of a cache or of runs should check first, such as random weights or failed clips. Torch-free."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from kinegraph.cache_schemas.arrays import CLIPS, FRAME_TIMES
from kinegraph.cache_schemas.words import counted, few_of
from kinegraph.pipeline.caches.advice import random_in_cache
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.samples import DRIFT
from kinegraph.pipeline.reports.section import Absent, Paragraph, Section

MOST_SENTENCES, MOST_NAMED = 7, 3
FAILED_SHARE, DRIFTED_SHARE, REPEATED_SHARE = 0.01, 0.2, 0.1


def attention(contents: Contents) -> Section | Absent:
    """Returns the first section of the report: at most 7 sentences about what is wrong or odd. Each sentence links to
    the section with the details. Returns an Absent if nothing is odd.
    """
    sentences: list[Paragraph] = []
    if contents.look is not None:
        sentences += _of_cache(contents.look)
    if contents.runs is not None:
        sentences += [Paragraph(text, link) for text, link in contents.runs.attention()]
    if not sentences:
        return Absent("Nothing odd was found.")
    shown, more = sentences[:MOST_SENTENCES], len(sentences) - MOST_SENTENCES
    return Section(
        [*shown, *([Paragraph(f"{counted(more, 'further point')} in the sections below.")] if more > 0 else [])]
    )


def _of_cache(look: Look) -> Iterator[Paragraph]:
    for find in (_random, _failed, _missing, _classes, _values, _drift, _repeated):
        yield from find(look)


def _random(look: Look) -> Iterator[Paragraph]:
    if names := random_in_cache(look.cache):
        yield Paragraph(f"Random weights: {', '.join(names)}. Scores on such features show little.", "provenance")


def _failed(look: Look) -> Iterator[Paragraph]:
    for key, stage in look.numbers.stages.items():
        failed = stage.counts["failed"]
        if failed > FAILED_SHARE * look.numbers.num_rows:
            share = failed / look.numbers.num_rows
            yield Paragraph(f"{counted(failed, 'clip')} of {key} failed, {share:.1%} of all.", "failures")
            return


def _missing(look: Look) -> Iterator[Paragraph]:
    shards = look.cache.num_shards
    lacking = {
        key: shards - stage.num_shards for key, stage in look.numbers.stages.items() if stage.num_shards < shards
    }
    if not look.numbers.stages:
        yield Paragraph("No stage has begun yet. Run `kinegraph extract CONFIG`.", "coverage")
    if lacking:
        text = few_of(
            [f"{key} lacks {counted(count, 'shard')} of {shards:,}" for key, count in lacking.items()], MOST_NAMED
        )
        yield Paragraph(f"The cache is incomplete: {text}. `kinegraph extract CONFIG` goes on.", "coverage")


def _classes(look: Look) -> Iterator[Paragraph]:
    counts, names, splits = look.numbers.class_counts, look.numbers.class_names, look.numbers.splits
    if not names:
        yield Paragraph("The cache has no list of classes. Run `kinegraph index CONFIG` again.", "coverage")
        return
    labelled = [at for at in range(len(splits)) if counts[at].sum()]
    texts = []
    for at in labelled:
        if count := int((counts[at] == 0).sum()):
            empty = [names[label] for label in np.flatnonzero(counts[at] == 0) if label < len(names)]
            of_split = counted(count, "class has", "classes have")
            texts.append(f"{of_split} no clip in split {splits[at]} ({few_of(empty, MOST_NAMED)})")
    if texts:
        yield Paragraph(f"{'; '.join(texts)}.", "coverage")
    if not labelled:
        yield Paragraph("No clip has a label.", "coverage")


def _values(look: Look) -> Iterator[Paragraph]:
    for array in look.samples.vector_arrays():
        try:
            summary = look.vectors(array)
        except NothingToShowError:
            continue
        if summary.num_not_finite:
            text = f"{array} has {counted(summary.num_not_finite, 'value')} that are NaN or infinite in the sample."
            yield Paragraph(f"{text} `kinegraph verify CACHE --repair` finds their shards.", "features")
        if len(summary.dead):
            share = f"{len(summary.dead):,} of {counted(len(summary.std), 'channel')}"
            yield Paragraph(f"{array}: {share} have one value in the whole sample.", "features")


def _drift(look: Look) -> Iterator[Paragraph]:
    splits = look.numbers.splits
    for array in look.samples.vector_arrays():
        try:
            summary = look.vectors(array)
        except NothingToShowError:
            continue
        for first, second in combinations(range(len(splits)), 2):
            drift = summary.drift(first, second)
            share = float((drift > DRIFT).mean()) if np.isfinite(drift).all() else 0.0
            if share > DRIFTED_SHARE:
                text = (
                    f"{array} differs between {splits[first]} and {splits[second]}: in {share:.0%} of its channels the"
                )
                yield Paragraph(f"{text} means are more than half a standard deviation apart.", "features")
                return


def _repeated(look: Look) -> Iterator[Paragraph]:
    if FRAME_TIMES not in look.samples.specs:
        return
    rows = look.samples.rows(FRAME_TIMES)
    times = look.samples.read(FRAME_TIMES, rows)
    if not times.size or times.shape[1] < 2:
        return
    share = float((np.diff(np.sort(times, 1), axis=1) == 0).any(1).mean())
    if share > REPEATED_SHARE:
        text = f"{share:.0%} of the clips show a frame several times, because the videos are short for {CLIPS}"
        yield Paragraph(f"{text}.num_frames = {times.shape[1]}.", "coverage")

"""Defines the command `bench`, which measures the speed of an extraction."""

import json
from typing import Annotated

import typer

from kinegraph.cli.options import AsJson, ConfigPath, Overrides, load
from kinegraph.cli.printing import benchmarks as printing
from kinegraph.cli.printing.text import counting, note


def bench(
    config: ConfigPath,
    clips: Annotated[int, typer.Option(min=1, help="Number of clips, spread over the cache.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="How many times each way runs. The ways take turns.")] = 5,
    as_json: AsJson = False,
    overrides: Overrides = [],
) -> None:
    """Measure how fast a few of your clips are extracted. Writes nothing to the cache.

    Times the same clips in several ways: the whole extraction, only its decoding,
    only its networks, and a plain loop without a cache. Uses a temporary folder.
    """
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.caches.advice import advice
    from kinegraph.pipeline.caches.indexed_dataset import check_for_extraction
    from kinegraph.pipeline.extraction.benchmark.comparison import compare

    settings = load(config, overrides)
    cache = Cache(settings.cache)
    for sentence in [*check_for_extraction(settings, cache), *advice(settings)]:
        note(sentence)
    with counting() as progress:
        comparison = compare(settings, cache, clips=clips, rounds=rounds, on_progress=progress)
    if as_json:
        print(json.dumps(comparison.to_json()))
    else:
        printing.compared(comparison)

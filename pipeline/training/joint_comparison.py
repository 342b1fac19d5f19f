"""Compares fine-tuning with more training of the head alone. All trainings start from the same trained runs.

Without this comparison, a better score after fine-tuning may only come from the longer training.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.documents import parsed
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.regular import read_regular
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.training.finetuning import finetune, score_from_pixels
from kinegraph.pipeline.training.results import read_results
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs, wanted_runs
from kinegraph.pipeline.training.tuned_run import TunedRun
from kinegraph.pipeline.training.tuning_start import identity_of, start_of
from kinegraph.stages.device import pick_device
from kinegraph.stages.training.checkpoint import EXTRACT_FILE, is_trained, load_record, load_run
from kinegraph.stages.training.evaluation import evaluate
from kinegraph.stages.training.train import seeded, train

CONVERGED = "converged"  # folder below `train.run`
COMPARISON_FILE = "comparison.json"  # in the folder of a tuned run


class JointComparison(BaseModel):
    """Test scores of one seed, from 0 to 1, after different trainings that all start from one trained run."""

    model_config = ConfigDict(frozen=True)

    seed: int
    start: float  # the score of the trained run itself
    # The score after fine-tuning of head and backbone, computed from pixels. `joint_seconds` is the training time.
    joint: float
    head_alone: float  # the score after training the head alone, for as many epochs as the fine-tuning
    # The score after training the head alone for `epochs_at_cost` epochs. These epochs take about as many seconds as
    # the fine-tuning.
    head_at_cost: float
    epochs_at_cost: int
    joint_seconds: float
    tuned_sha256: str  # the digest of the head after fine-tuning


def compare(
    config: Config, variant: str, epochs: int, seeds: int, note: Callable[[str], None]
) -> list[JointComparison]:
    """Compares fine-tuning with more training of the head alone, from the same trained runs. Returns one
    JointComparison of the test scores for each seed.

    First trains `seeds` runs of the head `variant`, a key of `train.variants`, for `epochs` epochs each. Then
    fine-tunes each run, and also trains its head alone, both with the options in `finetune` of the config. Results of
    an earlier call with the same options are used again. `note` is called with a line of text at each step.
    """
    keys = config.train.variants[variant] | {"epochs": epochs}
    section = {"run": f"{config.train.run}/{CONVERGED}", "variants": {variant: keys}}
    longer = config.model_copy(update={"train": config.train.model_copy(update=section)})
    wanted = wanted_runs(longer, [variant], seeds)
    if not all(is_trained(run.folder) for run in wanted):
        train_runs(longer, [variant], seeds, on_run=lambda run: note(f"      {run.folder} trained"))
    return [_compared(config, run.folder, run.options.seed, note) for run in wanted]


def _compared(config: Config, start: Path, seed: int, note: Callable[[str], None]) -> JointComparison:
    run = Path(f"{start}-tuned")
    section = config.finetune.model_copy(update={"start": str(start), "seed": seed, "run": str(run)})
    tuning = config.model_copy(update={"finetune": section})
    tuned = _finished(tuning, run) or finetune(tuning, overwrite=is_trained(run))
    note(f"      seed {seed}: fine-tuned in {tuned.results.seconds:.0f} s")
    digest, file = load_record(run).weights_sha256, run / COMPARISON_FILE
    if file.exists() and (kept := parsed(str(file), read_regular(file), JointComparison)).tuned_sha256 == digest:
        return kept
    split = section.test_split
    before = evaluate_run(start, split=split).result
    metric = next(iter(before.metrics))
    head_alone, seconds = _head_alone(tuning, start, section.epochs, metric)
    epochs = max(section.epochs, round(tuned.results.seconds / seconds * section.epochs))
    head_at_cost, _ = _head_alone(tuning, start, epochs, metric)
    note(f"      seed {seed}: head alone, {section.epochs} and {epochs} epochs")
    comparison = JointComparison(
        seed=seed,
        start=before.metrics[metric],
        joint=score_from_pixels(tuned, split).metrics[metric],
        head_alone=head_alone,
        head_at_cost=head_at_cost,
        epochs_at_cost=epochs,
        joint_seconds=tuned.results.seconds,
        tuned_sha256=digest,
    )
    write_whole(file, [comparison.model_dump_json(indent=1).encode()])
    return comparison


def _finished(config: Config, folder: Path) -> TunedRun | None:
    """Returns the tuned run in `folder`, if fine-tuning with `config` would make the same run again. Returns None
    otherwise.
    """
    if not is_trained(folder):
        return None
    start, record = start_of(config, Cache(config.cache), allow_code=False), load_record(folder)
    options = config.finetune.model_copy(update={"head": start.record.head}).shared_with_train
    if options.views_per_epoch is None:  # the record has what it means for the clips
        options = options.model_copy(update={"views_per_epoch": record.train.views_per_epoch})
    identity = {"start": str(start.folder)} | identity_of(config, start)
    if (record.train, record.finetune) != (options, identity):
        return None
    return TunedRun(folder=folder, results=read_results(folder), config_file=folder / EXTRACT_FILE)


def _head_alone(config: Config, start: Path, epochs: int, metric: str) -> tuple[float, float]:
    """Trains the head of the run in the folder `start` on the cache, for `epochs` more epochs. Returns (test score,
    seconds of the training). The score is the metric `metric`.
    """
    options, cache = config.finetune.model_copy(update={"epochs": epochs}), Cache(config.cache)
    device = pick_device(config.run.device)
    torch.set_num_threads(config.run.worker_threads)
    head, record = load_run(start)
    clips, val_clips, test = (
        CachedClips(cache, record.reads, split, preload=True) if split else None
        for split in (options.train_split, options.val_split, options.test_split)
    )
    assert clips is not None
    assert test is not None
    with seeded(options.seed, device):
        result = train(head, clips, val_clips, options, device=device)
    return evaluate(head, test, options, device=device).metrics[metric], result.seconds

"""Compares fine-tuning with more training of the head alone, from the same trained runs.

Without this comparison, a better score after fine-tuning may come from the longer training alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.training.finetuning import finetune, score_from_pixels
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs, wanted_runs
from kinegraph.stages.device import pick_device
from kinegraph.stages.training.checkpoint import is_trained, load_run
from kinegraph.stages.training.evaluation import evaluate
from kinegraph.stages.training.train import seeded, train

CONVERGED = "converged"  # folder below `train.run`


@dataclass(frozen=True, kw_only=True)
class JointComparison:
    """Test scores of one seed, from 0 to 1, after different trainings. All of them start from one trained run.

    `start` is the score of that run itself. `joint` is the score after fine-tuning of head and backbone, which took
    `joint_seconds` and is scored from pixels. `head_alone` is the score after the head alone was trained on the cache
    for as many epochs as fine-tuning. `head_at_cost` is the score after the head alone was trained for `epochs_at_cost`
    epochs, which take about as many seconds as fine-tuning.
    """

    seed: int
    start: float
    joint: float
    head_alone: float
    head_at_cost: float
    epochs_at_cost: int
    joint_seconds: float


def compare(
    config: Config, variant: str, epochs: int, seeds: int, note: Callable[[str], None]
) -> list[JointComparison]:
    """Trains `seeds` runs of the variant `variant` of `train.variants`, for `epochs` epochs each. Then trains each of
    these runs further in several ways, with the options in `finetune` of the config. Returns one JointComparison of the
    scores per seed.

    Runs that are finished are kept. `note` is called with a line of text at each step.
    """
    keys = config.train.variants[variant] | {"epochs": epochs}
    section = {"run": f"{config.train.run}/{CONVERGED}", "variants": {variant: keys}}
    longer = config.model_copy(update={"train": config.train.model_copy(update=section)})
    wanted = wanted_runs(longer, [variant], seeds)
    if not all(is_trained(run.folder) for run in wanted):
        train_runs(longer, [variant], seeds, on_run=lambda run: note(f"      {run.folder} trained"))
    return [_compared(config, run.folder, run.options.seed, note) for run in wanted]


def _compared(config: Config, start: Path, seed: int, note: Callable[[str], None]) -> JointComparison:
    run = f"{start}-tuned"
    section = config.finetune.model_copy(update={"start": str(start), "seed": seed, "run": run})
    tuning = config.model_copy(update={"finetune": section})
    tuned = finetune(tuning, overwrite=is_trained(Path(run)))
    note(f"      seed {seed}: fine-tuned in {tuned.results.seconds:.0f} s")
    split = section.test_split
    before = evaluate_run(start, split=split).result
    metric = next(iter(before.metrics))
    head_alone, seconds = _head_alone(tuning, start, section.epochs, metric)
    epochs = max(section.epochs, round(tuned.results.seconds / seconds * section.epochs))
    head_at_cost, _ = _head_alone(tuning, start, epochs, metric)
    note(f"      seed {seed}: head alone, {section.epochs} and {epochs} epochs")
    return JointComparison(
        seed=seed,
        start=before.metrics[metric],
        joint=score_from_pixels(tuned, split).metrics[metric],
        head_alone=head_alone,
        head_at_cost=head_at_cost,
        epochs_at_cost=epochs,
        joint_seconds=tuned.results.seconds,
    )


def _head_alone(config: Config, start: Path, epochs: int, metric: str) -> tuple[float, float]:
    """Trains the head of the run in the folder `start` on the cache for `epochs` more epochs. Returns (value of the
    metric `metric` on the test split, seconds of the training).
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

"""Prints the output of `kinegraph finetune`."""

from typing import TYPE_CHECKING

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing import heads
from kinegraph.cli.printing.text import note

if TYPE_CHECKING:
    from kinegraph.pipeline.training.finetuning import StepZero
    from kinegraph.pipeline.training.tuned_run import TunedRun

FAR = 0.1  # RMS over the standard deviation of the logits; rounding alone stays below 0.04


def step_zero(step: "StepZero") -> None:
    """Prints the result of the check before the first step of a fine-tuning. The check scores the clips twice: with
    features that are computed from the videos, and with the features in the cache.

    No weight has changed before the first step, so the scores should be equal except for rounding.
    """
    equal = (
        "equal those from the cache bit for bit"
        if step.as_extracted == 0
        else (f"differ from those from the cache by {step.as_extracted:.2g} at most")
    )
    note(f"step 0, {counted(step.num_clips, 'clip')}: scores from pixels, computed as in an extraction, {equal}.")
    note(f"        The network that is trained differs by {100 * step.as_trained:.2g} % (RMS over std of the scores).")
    if step.as_trained > FAR:
        note("        That is more than rounding explains. Check that the videos are those of the cache.")


def tuned(run: "TunedRun") -> None:
    """Prints the results of a fine-tuned run, and the commands that use its weights."""
    heads.results([(run.folder, run.results)])
    waited = max((epoch.get("waited", 0.0) for epoch in run.results.history), default=0.0)
    note(f"The network waited for pixels {waited:.0%} of the time, in the epoch with the most waiting.")
    if waited > 0.05:
        note("More finetune.decode_threads shorten that if this machine has idle cores. Smaller videos do, too.")
    note(f"`kinegraph predict VIDEO... --run {run.folder}` scores videos.")
    note(f"`kinegraph index {run.config_file}`, then extract and train, make a cache with the tuned weights.")

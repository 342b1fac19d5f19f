"""Defines the command `finetune`, which trains backbones and a head together."""

from pathlib import Path
from typing import Annotated

import typer

from kinegraph.cli.options import AllowCode, ConfigPath, Overrides, load
from kinegraph.cli.printing import finetuning as printing
from kinegraph.cli.printing import heads


def finetune(
    config: ConfigPath,
    start: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Trained run to start from, in place of finetune.start.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a tuned run that exists.")] = False,
    allow_code: AllowCode = False,
    overrides: Overrides = [],
) -> None:
    """Train the backbones of a trained run together with its head, from the videos. Resumes where it was stopped."""
    from kinegraph.pipeline.training.finetuning import finetune as tune
    from kinegraph.stages.training.together import rank

    settings = load(config, [*overrides, *([f"finetune.start={start}"] if start is not None else [])])
    if rank() > 0:  # under torchrun only the first process prints
        tune(settings, overwrite=overwrite, allow_code=allow_code)
        return
    lines = heads.TrainingLines()
    tuned = tune(
        settings,
        overwrite=overwrite,
        allow_code=allow_code,
        on_epoch=lines.epoch,
        on_step=lines.step,
        on_start=printing.step_zero,
    )
    printing.tuned(tuned)

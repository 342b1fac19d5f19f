"""Trains and validates a head with candidates. A candidate is a set of weights with its own learning rate and decay.

A head without candidates is treated as one with a single candidate. Shapes: B clips, G candidates, K classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.candidates import CandidateHead, candidates_of
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.clips import Batch, Clips
from kinegraph.stages.training.evaluation import evaluate_candidates
from kinegraph.stages.training.losses import clip_loss
from kinegraph.stages.training.options import TrainOptions


class SideBySide(nn.Module):
    """Wraps a head with candidates for training. Its output has the logits of every candidate, [B, G, K]."""

    def __init__(self, head: CandidateHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        return self.head.candidate_logits(batch)


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The validation of one epoch: the `metrics` of the candidate with the number `candidate`, which is the best one of
    the epoch.

    `of_candidates` maps the name of each candidate to its metric, or to None if its loss or scores are not finite. It
    is empty for a head without candidates.
    """

    metrics: dict[str, float]
    candidate: int = 0
    of_candidates: dict[str, float | None] = field(default_factory=dict)


def trained_form(head: Head) -> nn.Module:
    """Returns the module whose output goes into the loss. It is `head` itself, or a module that returns the logits of
    all candidates side by side.
    """
    return SideBySide(head) if isinstance(head, CandidateHead) else head


def require_choice(head: Head, options: TrainOptions) -> None:
    """Raises UsageError if `head` has several candidates and `options` do not allow a choice among these candidates. A
    head with one candidate always passes.

    Validation chooses the best candidate, so `val_split` must be given and differ from `test_split`. The schedule
    `plateau` and the precision `fp16` are not allowed. With them, one candidate would influence the training of the
    others: `plateau` lowers one learning rate for all, and `fp16` scales all gradients by one factor.
    """
    count, section = len(candidates_of(head)), options.section
    if count < 2:
        return
    if options.val_split in (None, options.test_split):
        seen = "null" if options.val_split is None else f"{options.val_split!r}, which is also test_split"
        raise UsageError(
            f"{section}.val_split: given {seen}. {head.name} has {count} candidates, and validation chooses one of "
            "them, never the test split. Name a split of its own, as by `dataset.splits` or a csv, and run `kinegraph "
            "index` again. Or give one number in `learning_rates` and in `weight_decays`."
        )
    refused = {"schedule": ("plateau", "cosine, constant, step"), "precision": ("fp16", "bf16, fp32")}
    for key, (value, allowed) in refused.items():
        if getattr(options, key) == value:
            raise UsageError(f"{section}.{key}: given {value!r}, allowed for a head with {count} candidates: {allowed}")


def losses_of(logits: Tensor, labels: Tensor, weights: Tensor | None, reduction: Literal["mean", "sum"]) -> Tensor:
    """Returns the loss of each of G candidates, [G]. `logits` are [B, G, K], or [B, K] for a head without candidates,
    of B clips and K classes.

    `labels` are those of the clips. `weights` and `reduction` are as in `clip_loss`: weights of the classes, and "mean"
    or "sum" over the clips.
    """
    each = logits.unbind(1) if logits.ndim == 3 else (logits,)
    return torch.stack([clip_loss(of_one.float(), labels, weights, reduction) for of_one in each])


def parameters_of_each(head: Head) -> list[list[nn.Parameter]]:
    """Returns one list of parameters for each candidate of `head`, or one list for a head without candidates. The
    gradients of a list are clipped together.
    """
    if not isinstance(head, CandidateHead):
        return [[*head.parameters()]]
    return [[*probe.parameters()] for probe in head.probes]


def weights_of(head: Head, candidate: int) -> Mapping[str, Tensor]:
    """Returns the state dict of `head` with the candidate number `candidate` alone. The tensors are not copied."""
    return head.weights_of(candidate) if isinstance(head, CandidateHead) else head.state_dict()


def keep(head: Head, candidate: int) -> None:
    """Drops all candidates of `head` except the number `candidate`. Does nothing for a head without candidates."""
    if isinstance(head, CandidateHead):
        head.keep(candidate)


def validated(
    head: CandidateHead, clips: Clips, options: TrainOptions, metric: str, losses: Tensor, device: torch.device
) -> Validated:
    """Scores all candidates of `head` on `clips` in one pass, and returns the Validated of the best one by `metric`. Of
    equal candidates the first is the best.

    `losses` [G] are the training losses of the epoch. A candidate whose loss is not finite has no part in the choice.
    Raises ScoresNotFinite if no candidate has a finite loss and finite scores.
    """
    usable = losses.isfinite().tolist()
    results = evaluate_candidates(head, clips, options, usable, device=device)
    metrics = [None if result is None else result.metrics | {"loss": result.loss} for result in results]
    values = [None if of_one is None else of_one[metric] for of_one in metrics]
    sign = -1 if metric == "loss" else 1
    worths = [-math.inf if value is None else sign * value for value in values]
    best = worths.index(max(worths))
    names = [candidate.name for candidate in head.candidates]
    chosen = metrics[best]
    assert chosen is not None
    return Validated(metrics=chosen, candidate=best, of_candidates=dict(zip(names, values, strict=True)))

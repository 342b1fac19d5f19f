"""Trains and validates heads with several candidates. A candidate is a copy of the head's layers that is trained with a
learning rate and a weight decay of its own. After the training, the head has only the best candidate.

A head without candidates is treated as a head with one candidate. Shapes: B clips, G candidates, K classes.
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
    """Wraps a head with several candidates for training. A candidate is a copy of the head's layers. `forward` returns
    the logits of all candidates, [B, G, K], for B clips, G candidates and K classes.
    """

    def __init__(self, head: CandidateHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        return self.head.candidate_logits(batch)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The result of the validation of a head after one epoch. A head may have several candidates: copies of its layers,
    each with its own learning rate and weight decay.
    """

    metrics: dict[str, float]  # {name: value} of the metrics of the best candidate, and its "loss"
    candidate: int = 0  # the number of the best candidate, counted from 0
    # {name of the candidate: metric}. None if its loss or a score is not finite. Empty for a head without candidates.
    of_candidates: dict[str, float | None] = field(default_factory=dict)


def trained_form(head: Head) -> nn.Module:
    """Returns the module that computes the logits for the loss. For a head with several candidates (copies of its
    layers), the module returns the logits of all candidates. For all other heads, the module is `head` itself.
    """
    return SideBySide(head) if isinstance(head, CandidateHead) else head


def require_choice(head: Head, options: TrainOptions) -> None:
    """Raises UsageError if `head` has several candidates and the training options `options` do not allow this. A
    candidate is a copy of the head's layers with its own learning rate and weight decay.

    Validation chooses the best candidate, so `val_split` must be set and must differ from `test_split`. The schedule
    `plateau` and the precision `fp16` are refused, because with them one candidate would change the training of the
    others.
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
    """Returns the loss of each candidate of a head, [G], for G candidates. A head without candidates has one loss, [1].

    - `logits`: [B, G, K] for B clips, G candidates and K classes, or [B, K] for a head without candidates.
    - `labels`: the labels of the clips, int64 [B] or multi-hot [B, K].
    - `weights`: the weights [K] of the classes, or None for equal weights.
    - `reduction`: "mean" or "sum" over the clips, as in `clip_loss`.
    """
    of_candidates = logits.unbind(1) if logits.ndim == 3 else (logits,)
    return torch.stack([clip_loss(one.float(), labels, weights, reduction) for one in of_candidates])


def parameters_of_each(head: Head) -> list[list[nn.Parameter]]:
    """Returns the parameters of `head` as one list for each candidate (a copy of the head's layers). A head without
    candidates has one list with all parameters. The gradient norm of each list is clipped separately.
    """
    if not isinstance(head, CandidateHead):
        return [[*head.parameters()]]
    return [[*probe.parameters()] for probe in head.probes]


def weights_of(head: Head, candidate: int) -> Mapping[str, Tensor]:
    """Returns the weights of one candidate (a copy of the head's layers) with the number `candidate`, counted from 0.
    The result is the state dict that `head` has after `keep(head, candidate)`. For a head without candidates, returns
    the whole state dict. The tensors are not copied.
    """
    return head.weights_of(candidate) if isinstance(head, CandidateHead) else head.state_dict()


def keep(head: Head, candidate: int) -> None:
    """Removes all candidates (copies of the head's layers) from `head` except the candidate with the number
    `candidate`, counted from 0. Does nothing for a head without candidates.
    """
    if isinstance(head, CandidateHead):
        head.keep(candidate)


def validate_candidates(
    head: CandidateHead, clips: Clips, options: TrainOptions, metric: str, losses: Tensor, device: torch.device
) -> Validation:
    """Evaluates all candidates of `head` on `clips` in one pass. Returns a Validation with the results of the best
    candidate. A candidate is one of several copies of the head's layers that are trained together.

    `metric` is the name of the metric that is compared, such as "top1" or "loss". The first of equal candidates is the
    best. `losses` [G] are the training losses of the G candidates. A candidate whose training loss is not finite cannot
    be the best.

    Raises FeaturesNotFinite if a feature is not finite. Raises ScoresNotFinite if no candidate has a finite loss and
    finite scores.
    """
    usable = losses.isfinite().tolist()
    results = evaluate_candidates(head, clips, options, usable, device=device)
    metrics = [None if result is None else result.metrics | {"loss": result.loss} for result in results]
    values = [None if one is None else one[metric] for one in metrics]
    sign = -1 if metric == "loss" else 1
    worths = [-math.inf if value is None else sign * value for value in values]
    best = worths.index(max(worths))
    names = [candidate.name for candidate in head.candidates]
    chosen = metrics[best]
    assert chosen is not None
    return Validation(metrics=chosen, candidate=best, of_candidates=dict(zip(names, values, strict=True)))

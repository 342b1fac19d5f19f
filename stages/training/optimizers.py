"""What moves the weights: the optimiser and its groups, and the moving mean of the weights."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stages.heads.head import Head
from stages.training.options import TrainOptions


def build_optimizer(head: Head, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW or SGD over the parameters that are to be trained."""
    groups = _groups(head, options)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, options.learning_rate)
    nesterov = options.nesterov and options.momentum > 0
    return torch.optim.SGD(groups, options.learning_rate, momentum=options.momentum, nesterov=nesterov)


def build_ema(head: Head, options: TrainOptions) -> AveragedModel | None:
    """The moving mean of weights and BatchNorm statistics; it has its own copy of the head in `module`."""
    if options.ema is None:
        return None
    mean = get_ema_multi_avg_fn(options.ema)  # type: ignore[no-untyped-call]
    return AveragedModel(head, multi_avg_fn=mean, use_buffers=True)


def _groups(head: Head, options: TrainOptions) -> list[dict[str, Any]]:
    """The parameters that are trained, by the head's `factor` on the learning rate and by weight decay.

    If asked for, those of one axis (biases, gains of norms) have no decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            decay = options.weight_decay if options.decay_all or parameter.ndim > 1 else 0.0
            groups.setdefault((head.learning_rate_factor_of(name), decay), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]

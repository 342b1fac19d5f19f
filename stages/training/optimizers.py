"""What moves the weights: the optimiser and its groups, and the moving mean of the weights."""

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


def _groups(head: Head, options: TrainOptions) -> list[dict[str, object]]:
    """Parameters with weight decay and, if asked for, those of one axis (biases, gains of norms) without."""
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    spared: list[nn.Parameter] = [] if options.decay_all else [p for p in trained if p.ndim <= 1]
    decayed = [p for p in trained if options.decay_all or p.ndim > 1]
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]

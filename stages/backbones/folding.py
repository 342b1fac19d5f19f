"""Folds batch norms into the convolutions before them, so that a frozen network has fewer layers.

One convolution can replace a convolution and the norm behind it, because both are linear in evaluation mode.
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kinegraph.stages.backbones.norms import NORMS

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def fold_batch_norms(network: nn.Module) -> None:
    """Replaces each convolution in `network` and the batch norm behind it by one convolution, in place and in float32.

    `network` must come from the catalogue and be in evaluation mode. In float32, results change by rounding only. In
    bf16, results come nearer to float32, because fewer values are rounded.
    """
    for parent in network.modules():
        for conv, norm in list(_pairs(parent)):
            before, after = getattr(parent, conv), getattr(parent, norm)
            if isinstance(before, CONVOLUTIONS) and isinstance(after, NORMS):
                assert after.running_mean is not None
                assert after.running_var is not None
                # fuse_conv_bn_eval would copy the convolution first
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight,
                    before.bias,
                    after.running_mean,
                    after.running_var,
                    after.eps,
                    after.weight,
                    after.bias,
                )
                parent.add_module(norm, nn.Identity())


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    names = [name for name, _ in parent.named_children()]
    if isinstance(parent, nn.Sequential):
        yield from pairwise(names)
        return
    for name in names:
        for norm in (f"{name}_bn", name.replace("conv", "bn")):
            if norm != name and norm in names:
                yield name, norm

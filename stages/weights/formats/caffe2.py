"""Defines the names that tensors have in files of Caffe2, a framework older than PyTorch. The tensors lie in .pkl
files, under the key `blobs`.

Files of two code bases for video networks use these names: video-nonlocal-net, and SlowFast's model zoo.
"""

import re

import torch

from kinegraph.stages.weights.formats.format import NORM_EPS, Format, Pair, State

NORM_SHIFT = re.compile(r"((?:.+\.)?(?:bn\d|downsample\.1|norm))\.bias")

_BLOCK, _THEIRS = "res{stage}.{block}", "res{stage}_{block}"
_AFTER, _NONLOCAL = "res{stage}.after.{block}", "nonlocal_conv{stage}_{block}"

CONVOLUTIONS = {
    "conv1": "conv1",
    f"{_BLOCK}.conv1": f"{_THEIRS}_branch2a",
    f"{_BLOCK}.conv2": f"{_THEIRS}_branch2b",
    f"{_BLOCK}.conv3": f"{_THEIRS}_branch2c",
    f"{_BLOCK}.downsample.0": f"{_THEIRS}_branch1",
    f"{_AFTER}.theta": f"{_NONLOCAL}_theta",
    f"{_AFTER}.phi": f"{_NONLOCAL}_phi",
    f"{_AFTER}.g": f"{_NONLOCAL}_g",
    f"{_AFTER}.out": f"{_NONLOCAL}_out",
}
NORMS = {
    "bn1": "res_conv1_bn",
    f"{_BLOCK}.bn1": f"{_THEIRS}_branch2a_bn",
    f"{_BLOCK}.bn2": f"{_THEIRS}_branch2b_bn",
    f"{_BLOCK}.bn3": f"{_THEIRS}_branch2c_bn",
    f"{_BLOCK}.downsample.1": f"{_THEIRS}_branch1_bn",
    f"{_AFTER}.norm": f"{_NONLOCAL}_bn",
}
CONVOLUTION_LEAVES = {"weight": "w", "bias": "b"}
NORM_LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
# The layers that join the pathways of SlowFast. Their names have the last block of a stage: res4 has 6 blocks in a
# ResNet-50 and 23 in a ResNet-101.
FUSIONS = (
    ("fuse1", "t_pool1_subsample"),
    *(
        (f"fuse{stage}", f"t_res{stage}_{last}_branch2c_bn_subsample")
        for stage, last in ((2, 2), (3, 3), (4, 5), (4, 22))
    ),
)


def _pairs(ours_before: str = "", theirs_before: str = "") -> tuple[Pair, ...]:
    """Returns (kinegraph's name, name in the file) of each tensor of one pathway. `ours_before` is put before
    kinegraph's names, and `theirs_before` before the names in the file.
    """
    return tuple(
        (f"{ours_before}{ours}.{leaf}", f"{theirs_before}{theirs}_{letters}")
        for layers, leaves in ((CONVOLUTIONS, CONVOLUTION_LEAVES), (NORMS, NORM_LEAVES))
        for ours, theirs in layers.items()
        for leaf, letters in leaves.items()
    )


def _fusion_pairs() -> tuple[Pair, ...]:
    return tuple(
        pair
        for ours, theirs in FUSIONS
        for pair in (
            (f"{ours}.conv.weight", f"{theirs}_w"),
            *((f"{ours}.bn.{leaf}", f"{theirs}_bn_{letters}") for leaf, letters in NORM_LEAVES.items()),
        )
    )


def _with_statistics(state: State) -> State:
    """Adds a mean and a variance for each norm to the state dict `state` and returns the result. If the file has means
    and variances already, returns `state` unchanged.

    In files without means and variances, a norm is only a scale and a shift: scale * x + shift. With a mean of 0 and a
    variance of 1 - epsilon, a batch norm computes the same.
    """
    if any(name.endswith((".running_mean", ".running_var")) for name in state):
        return state
    complete = _with_norms_after_attention(state)
    for name, shift in [*complete.items()]:
        if match := NORM_SHIFT.fullmatch(name):
            complete[f"{match[1]}.running_mean"] = torch.zeros_like(shift)
            complete[f"{match[1]}.running_var"] = torch.full_like(shift, 1 - NORM_EPS)
    return complete


def _with_norms_after_attention(state: State) -> State:
    """Adds a norm of scale 1 and shift 0 after each attention block (non-local block) to the tensors `state`. Such a
    norm changes nothing, but kinegraph's networks have one. If the file has these norms already, returns `state`
    unchanged.

    The norms are missing in files of video-nonlocal-net whose networks were trained without NONLOCAL.USE_BN. Its
    authors call such networks `affine`.
    """
    complete = dict(state)
    if not any(name.endswith(".norm.bias") for name in state):
        for name, bias in state.items():
            if name.endswith(".out.bias"):
                norm = name.replace(".out.bias", ".norm")
                complete |= {f"{norm}.weight": torch.ones_like(bias), f"{norm}.bias": torch.zeros_like(bias)}
    return complete


IGNORED = {
    r".+_momentum": "state of the optimiser",
    r"lr|model_iter": "state of the training",
    r"pred_[wb]": "classifier",
}
CAFFE2 = Format(
    name="Caffe2's names",
    sign=r"res2_0_branch2a_w",
    pairs=_pairs(),
    ignored=IGNORED,
    adapt=_with_statistics,
)
TWO_PATHWAYS = Format(
    name="Caffe2's names, with two pathways",
    sign=r"t_conv1_w",
    pairs=_fusion_pairs() + _pairs("slow.") + _pairs("fast.", "t_"),
    ignored=IGNORED,
)

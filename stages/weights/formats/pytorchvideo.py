"""Defines the names of tensors in files of the package pytorchvideo (.pyth, under the key `model_state`).

pytorchvideo numbers the parts of a network. A pool after res2 has a number too, so the numbers of the parts after such
a pool are higher by 1. Networks with two pathways (SlowFast) have both pathways in one part.
"""

from collections.abc import Mapping

import torch

from kinegraph.stages.weights.formats.format import NORM_EPS, Format, State, with_leaves

POOLED_BLOCKS, UNPOOLED_BLOCKS = {2: 1, 3: 3, 4: 4, 5: 5}, {2: 1, 3: 2, 4: 3, 5: 4}  # stage -> number of its part


def _layers(block_numbers: Mapping[int, int], before: str = "", inside: str = "") -> dict[str, str]:
    """Returns {kinegraph's name: pytorchvideo's name} of the layers of a ResNet.

    `block_numbers` maps the number of a ResNet stage to pytorchvideo's number of the block: 2 -> 1 for res2. `before`
    stands before kinegraph's names, and `inside` after the number of the block in the names of pytorchvideo.
    """
    layers = {f"{before}conv1": f"blocks.0.{inside}conv", f"{before}bn1": f"blocks.0.{inside}norm"}
    for stage, block_number in block_numbers.items():
        block = f"{before}res{stage}.{{block}}"
        their_block = f"blocks.{block_number}.{inside}res_blocks.{{block}}"
        for index, letter in enumerate("abc", start=1):
            layers[f"{block}.conv{index}"] = f"{their_block}.branch2.conv_{letter}"
            layers[f"{block}.bn{index}"] = f"{their_block}.branch2.norm_{letter}"
        layers[f"{block}.downsample.0"] = f"{their_block}.branch1_conv"
        layers[f"{block}.downsample.1"] = f"{their_block}.branch1_norm"
    return layers


def _x3d_layers() -> dict[str, str]:
    """Returns {kinegraph's name: pytorchvideo's name} of the layers of X3D. pytorchvideo calls the stem's convolution
    in space `conv_t`, and its convolution in time `conv_xy`.
    """
    layers = _layers(UNPOOLED_BLOCKS)
    layers |= {"conv1_xy": "blocks.0.conv.conv_t", "conv1": "blocks.0.conv.conv_xy"}
    layers |= {"conv5": "blocks.5.pool.pre_conv", "bn5": "blocks.5.pool.pre_norm", "lin5": "blocks.5.pool.post_conv"}
    for stage, number in UNPOOLED_BLOCKS.items():
        norm = f"blocks.{number}.res_blocks.{{block}}.branch2.norm_b"
        layers[f"res{stage}.{{block}}.bn2"] = f"{norm}.0"
        layers[f"res{stage}.{{block}}.se.fc1"] = f"{norm}.1.block.0"
        layers[f"res{stage}.{{block}}.se.fc2"] = f"{norm}.1.block.2"
    return layers


def _slowfast_layers() -> dict[str, str]:
    layers = _layers(UNPOOLED_BLOCKS, "slow.", "multipathway_blocks.0.")
    layers |= _layers(UNPOOLED_BLOCKS, "fast.", "multipathway_blocks.1.")
    for number in range(4):
        fusion = f"blocks.{number}.multipathway_fusion"
        layers |= {f"fuse{number + 1}.conv": f"{fusion}.conv_fast_to_slow", f"fuse{number + 1}.bn": f"{fusion}.norm"}
    return layers


def _with_first_shortcut_norm(state: State) -> State:
    """Adds a norm behind the shortcut of res2's first block to the tensors `state` and returns the result. The norm
    does not change its input.

    X3D of SlowFast's own code has this norm. In pytorchvideo, a shortcut has a norm only if the number of channels
    changes.
    """
    shortcut = "res2.0.downsample"
    if f"{shortcut}.0.weight" not in state or f"{shortcut}.1.weight" in state:
        return state
    size = len(state[f"{shortcut}.0.weight"])
    leaves = {"weight": torch.ones(size), "bias": torch.zeros(size), "running_mean": torch.zeros(size)}
    leaves["running_var"] = torch.full((size,), 1 - NORM_EPS)
    return state | {f"{shortcut}.1.{leaf}": tensor for leaf, tensor in leaves.items()}


POOLED = Format(
    name="pytorchvideo's names, with a pool after res2",
    sign=r"blocks\.5\.res_blocks\..+",
    pairs=with_leaves(_layers(POOLED_BLOCKS)),
    ignored={r"blocks\.6\.proj\..+": "classifier"},
)
UNPOOLED = Format(
    name="pytorchvideo's names, without a pool after res2",
    sign=r"blocks\.2\.res_blocks\..+",
    pairs=with_leaves(_layers(UNPOOLED_BLOCKS)),
    ignored={r"blocks\.5\.proj\..+": "classifier"},
)
X3D = Format(
    name="pytorchvideo's names of X3D",
    sign=r"blocks\.0\.conv\.conv_xy\.weight",
    pairs=with_leaves(_x3d_layers()),
    ignored={r"blocks\.5\.proj\..+": "classifier"},
    adapt=_with_first_shortcut_norm,
)
TWO_PATHWAYS = Format(
    name="pytorchvideo's names, with two pathways",
    sign=r"blocks\.0\.multipathway_blocks\.1\.conv\.weight",
    pairs=with_leaves(_slowfast_layers()),
    ignored={r"blocks\.6\.proj\..+": "classifier"},
)

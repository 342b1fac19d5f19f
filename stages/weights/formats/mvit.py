"""Defines the names that tensors of Multiscale Vision Transformers (MViT) have in files of SlowFast and pytorchvideo.

In kinegraph, these networks and their names are those of torchvision.
"""

import re

import torch

from kinegraph.stages.weights.formats.format import Format, State, with_leaves

_BLOCK = "blocks.{block}"
_POOLS = {f"{_BLOCK}.attn.pool_{letter}.pool": f"{_BLOCK}.attn.pool_{letter}" for letter in "qkv"}
_NORMS = {f"{_BLOCK}.attn.pool_{letter}.norm_act.0": f"{_BLOCK}.attn.norm_{letter}" for letter in "qkv"}
_LAYERS = {  # both code bases
    **_POOLS,
    **_NORMS,
    f"{_BLOCK}.norm1": f"{_BLOCK}.norm1",
    f"{_BLOCK}.norm2": f"{_BLOCK}.norm2",
    f"{_BLOCK}.attn.qkv": f"{_BLOCK}.attn.qkv",
    f"{_BLOCK}.attn.project.0": f"{_BLOCK}.attn.proj",
    f"{_BLOCK}.mlp.0": f"{_BLOCK}.mlp.fc1",
    f"{_BLOCK}.mlp.3": f"{_BLOCK}.mlp.fc2",
    f"{_BLOCK}.project": f"{_BLOCK}.proj",
}
_POSITIONS = {  # kinegraph's name -> the name in files, after a prefix
    "pos_encoding.class_token": "cls_token",
    "pos_encoding.spatial_pos": "pos_embed_spatial",
    "pos_encoding.temporal_pos": "pos_embed_temporal",
    "pos_encoding.class_pos": "pos_embed_class",
}
_QUERY = re.compile(r"(blocks\.\d+\.attn)\.q\.(weight|bias)")


def _with_plain_positions(state: State) -> State:
    """Returns `state` with the class token and the positions in the shapes that torchvision's networks have. In the
    files, they have additional axes of length 1 in front.
    """
    flat = {"pos_encoding.class_token", "pos_encoding.class_pos"}
    return {
        name: x.flatten() if name in flat else x.flatten(0, -2) if name.startswith("pos_encoding.") else x
        for name, x in state.items()
    }


def _with_joined_queries(state: State) -> State:
    """Returns `state` with one layer `qkv` in place of the three layers for queries, keys and values.

    Files of earlier versions of pytorchvideo have the one layer already.
    """
    joined = _with_plain_positions(state)
    for name in state:
        if match := _QUERY.fullmatch(name):
            parts = [f"{match[1]}.{letter}.{match[2]}" for letter in "qkv"]
            if all(part in state for part in parts):
                joined[f"{match[1]}.qkv.{match[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


MVIT_OF_PYTORCHVIDEO = Format(
    name="pytorchvideo's names of MViT",
    sign=r"cls_positional_encoding\.cls_token",
    pairs=(
        *((ours, f"cls_positional_encoding.{theirs}") for ours, theirs in _POSITIONS.items()),
        *with_leaves(
            {"conv_proj": "patch_embed.patch_model", "norm": "norm_embed"}
            | _LAYERS
            | {f"{_BLOCK}.attn.{letter}": f"{_BLOCK}.attn.{letter}" for letter in "qkv"}
        ),
    ),
    ignored={
        r"head\.proj\..+": "classifier",
        r"blocks\.\d+\.attn\._attention_pool_[qkv]\..+": "a second name of pool_q, norm_q and so on",
    },
    adapt=_with_joined_queries,
)
MVIT_OF_SLOWFAST = Format(
    name="SlowFast's names of MViT",
    sign=r"blocks\.0\.attn\.pool_k\.weight",
    pairs=(
        *_POSITIONS.items(),
        *((f"{_BLOCK}.attn.rel_pos_{axis}", f"{_BLOCK}.attn.rel_pos_{axis}") for axis in "thw"),
        *with_leaves({"conv_proj": "patch_embed.proj", "norm": "norm"} | _LAYERS),
    ),
    ignored={r"head\.projection\..+": "classifier"},
    adapt=_with_plain_positions,
)

"""Defines the names that tensors have in files of facebookresearch/SlowFast (in .pyth files, under the key
`model_state`).

Only networks with one pathway are meant, for example SlowOnly.
"""

from kinegraph.stages.weights.formats.format import Format, with_leaves

_RESIDUAL, _BLOCK = "s{stage}.pathway0_res{block}", "res{stage}.{block}"
_NONLOCAL, _AFTER = "s{stage}.pathway0_nonlocal{block}", "res{stage}.after.{block}"

LAYERS = {
    "conv1": "s1.pathway0_stem.conv",
    "bn1": "s1.pathway0_stem.bn",
    f"{_BLOCK}.conv1": f"{_RESIDUAL}.branch2.a",
    f"{_BLOCK}.bn1": f"{_RESIDUAL}.branch2.a_bn",
    f"{_BLOCK}.conv2": f"{_RESIDUAL}.branch2.b",
    f"{_BLOCK}.bn2": f"{_RESIDUAL}.branch2.b_bn",
    f"{_BLOCK}.conv3": f"{_RESIDUAL}.branch2.c",
    f"{_BLOCK}.bn3": f"{_RESIDUAL}.branch2.c_bn",
    f"{_BLOCK}.downsample.0": f"{_RESIDUAL}.branch1",
    f"{_BLOCK}.downsample.1": f"{_RESIDUAL}.branch1_bn",
    f"{_AFTER}.theta": f"{_NONLOCAL}.conv_theta",
    f"{_AFTER}.phi": f"{_NONLOCAL}.conv_phi",
    f"{_AFTER}.g": f"{_NONLOCAL}.conv_g",
    f"{_AFTER}.out": f"{_NONLOCAL}.conv_out",
    f"{_AFTER}.norm": f"{_NONLOCAL}.bn",
}

SLOWFAST = Format(
    name="SlowFast's names",
    sign=r"s1\.pathway0_stem\.conv\.weight",
    pairs=with_leaves(LAYERS),
    ignored={r"head\.projection\..+": "classifier"},
)

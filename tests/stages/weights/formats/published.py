"""The names in public checkpoints, spelled out from the code bases that wrote them, beside ours.

Layer by layer: `conv1` is `conv1.weight`; a norm has weight, bias, running_mean and running_var. {s} is a stage, {b} a
block.
"""

from collections.abc import Iterator

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}  # of a ResNet-50
NON_LOCAL = {3: (1, 3), 4: (1, 3, 5)}

# ours | SlowFast | Caffe2 | pytorchvideo ({n}: number of the stage there)
STEM = """
conv1 | s1.pathway0_stem.conv | conv1 | blocks.0.conv
bn1 | s1.pathway0_stem.bn | res_conv1_bn | blocks.0.norm
"""
BLOCK = """
res{s}.{b}.conv1 | s{s}.pathway0_res{b}.branch2.a | res{s}_{b}_branch2a | blocks.{n}.res_blocks.{b}.branch2.conv_a
res{s}.{b}.bn1 | s{s}.pathway0_res{b}.branch2.a_bn | res{s}_{b}_branch2a_bn | blocks.{n}.res_blocks.{b}.branch2.norm_a
res{s}.{b}.conv2 | s{s}.pathway0_res{b}.branch2.b | res{s}_{b}_branch2b | blocks.{n}.res_blocks.{b}.branch2.conv_b
res{s}.{b}.bn2 | s{s}.pathway0_res{b}.branch2.b_bn | res{s}_{b}_branch2b_bn | blocks.{n}.res_blocks.{b}.branch2.norm_b
res{s}.{b}.conv3 | s{s}.pathway0_res{b}.branch2.c | res{s}_{b}_branch2c | blocks.{n}.res_blocks.{b}.branch2.conv_c
res{s}.{b}.bn3 | s{s}.pathway0_res{b}.branch2.c_bn | res{s}_{b}_branch2c_bn | blocks.{n}.res_blocks.{b}.branch2.norm_c
"""
SHORTCUT = """
res{s}.0.downsample.0 | s{s}.pathway0_res0.branch1 | res{s}_0_branch1 | blocks.{n}.res_blocks.0.branch1_conv
res{s}.0.downsample.1 | s{s}.pathway0_res0.branch1_bn | res{s}_0_branch1_bn | blocks.{n}.res_blocks.0.branch1_norm
"""
ATTENTION = """
res{s}.after.{b}.theta | s{s}.pathway0_nonlocal{b}.conv_theta | nonlocal_conv{s}_{b}_theta | -
res{s}.after.{b}.phi | s{s}.pathway0_nonlocal{b}.conv_phi | nonlocal_conv{s}_{b}_phi | -
res{s}.after.{b}.g | s{s}.pathway0_nonlocal{b}.conv_g | nonlocal_conv{s}_{b}_g | -
res{s}.after.{b}.out | s{s}.pathway0_nonlocal{b}.conv_out | nonlocal_conv{s}_{b}_out | -
res{s}.after.{b}.norm | s{s}.pathway0_nonlocal{b}.bn | nonlocal_conv{s}_{b}_bn | -
"""
COLUMNS = {"slowfast": 1, "caffe2": 2, "pytorchvideo": 3, "pytorchvideo_pooled": 3}
STAGE_NUMBERS = {"pytorchvideo": {2: 1, 3: 2, 4: 3, 5: 4}, "pytorchvideo_pooled": {2: 1, 3: 3, 4: 4, 5: 5}}
CLASSIFIERS = {
    "slowfast": ("head.projection.weight", "head.projection.bias"),
    "caffe2": ("pred_w", "pred_b"),
    "pytorchvideo": ("blocks.5.proj.weight", "blocks.5.proj.bias"),
    "pytorchvideo_pooled": ("blocks.6.proj.weight", "blocks.6.proj.bias"),
}
CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def layers(style: str, *, non_local: bool = False) -> Iterator[tuple[str, str]]:
    """Our name and theirs of every layer of a ResNet-50 of the 3D family."""
    yield from _rows(STEM, style)
    for s, count in BLOCKS.items():
        yield from _rows(SHORTCUT, style, s=s)
        for b in range(count):
            yield from _rows(BLOCK, style, s=s, b=b)
        for b in NON_LOCAL.get(s, ()) if non_local else ():
            yield from _rows(ATTENTION, style, s=s, b=b)


def tensors(style: str, *, non_local: bool = False) -> dict[str, str]:
    """Our name -> theirs of every tensor that such a file holds."""
    found = {}
    for ours, theirs in layers(style, non_local=non_local):
        norm = theirs.endswith(("_bn", ".bn", "norm", "norm_a", "norm_b", "norm_c"))
        leaves = ["weight", "bias", "running_mean", "running_var"] if norm else ["weight"]
        if ".after." in ours and not norm:
            leaves.append("bias")
        for leaf in leaves:
            theirs_leaf = {"weight": "w", "bias": "b"}.get(leaf, "") if not norm else CAFFE2_NORM[leaf]
            found[f"{ours}.{leaf}"] = f"{theirs}_{theirs_leaf}" if style == "caffe2" else f"{theirs}.{leaf}"
    return found


def _rows(table: str, style: str, **fields: int) -> Iterator[tuple[str, str]]:
    number = STAGE_NUMBERS.get(style, {}).get(fields.get("s", 0), 0)
    for line in table.strip().splitlines():
        columns = [cell.strip() for cell in line.split("|")]
        yield columns[0].format(**fields), columns[COLUMNS[style]].format(n=number, **fields)

"""Files of X3D, CSN and SlowFast with two pathways: the names of three code bases, spelled out here."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinegraph.stages.backbones.build import untrained
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.formats import caffe2, pytorchvideo, slowfast
from kinegraph.stages.weights.formats.convert import convert
from kinegraph.stages.weights.formats.format import Format
from kinegraph.stages.weights.formats.mvit import MVIT_OF_PYTORCHVIDEO, MVIT_OF_SLOWFAST
from kinegraph.stages.weights.load import load_weights
from tests.conftest import SHARED
from tests.stages.weights.formats.published import tensors

# Of what fits before an error, copied to a network that has shapes and no bytes.
pytestmark = pytest.mark.filterwarnings("ignore:.*is a no-op")
KEYS = SHARED / "datasets/checkpoints"
# ours | SlowFast | pytorchvideo ({n}: number of the stage there), of a block of X3D
X3D = """
res{s}.{b}.conv1 | s{s}.pathway0_res{b}.branch2.a | blocks.{n}.res_blocks.{b}.branch2.conv_a
res{s}.{b}.bn1 | s{s}.pathway0_res{b}.branch2.a_bn | blocks.{n}.res_blocks.{b}.branch2.norm_a
res{s}.{b}.conv2 | s{s}.pathway0_res{b}.branch2.b | blocks.{n}.res_blocks.{b}.branch2.conv_b
res{s}.{b}.bn2 | s{s}.pathway0_res{b}.branch2.b_bn | blocks.{n}.res_blocks.{b}.branch2.norm_b.0
res{s}.{b}.conv3 | s{s}.pathway0_res{b}.branch2.c | blocks.{n}.res_blocks.{b}.branch2.conv_c
res{s}.{b}.bn3 | s{s}.pathway0_res{b}.branch2.c_bn | blocks.{n}.res_blocks.{b}.branch2.norm_c
"""
X3D_EVEN = """
res{s}.{b}.se.fc1 | s{s}.pathway0_res{b}.branch2.se.fc1 | blocks.{n}.res_blocks.{b}.branch2.norm_b.1.block.0
res{s}.{b}.se.fc2 | s{s}.pathway0_res{b}.branch2.se.fc2 | blocks.{n}.res_blocks.{b}.branch2.norm_b.1.block.2
"""
X3D_FIRST = """
res{s}.{b}.downsample.0 | s{s}.pathway0_res{b}.branch1 | blocks.{n}.res_blocks.{b}.branch1_conv
res{s}.{b}.downsample.1 | s{s}.pathway0_res{b}.branch1_bn | blocks.{n}.res_blocks.{b}.branch1_norm
"""
X3D_ENDS = """
conv1_xy | s1.pathway0_stem.conv_xy | blocks.0.conv.conv_t
conv1 | s1.pathway0_stem.conv | blocks.0.conv.conv_xy
bn1 | s1.pathway0_stem.bn | blocks.0.norm
conv5 | head.conv_5 | blocks.5.pool.pre_conv
bn5 | head.conv_5_bn | blocks.5.pool.pre_norm
lin5 | head.lin_5 | blocks.5.pool.post_conv
"""
# ours | SlowFast | Caffe2 | pytorchvideo
FUSIONS = """
fuse1 | s1_fuse | t_pool1_subsample | blocks.0.multipathway_fusion
fuse2 | s2_fuse | t_res2_2_branch2c_bn_subsample | blocks.1.multipathway_fusion
fuse3 | s3_fuse | t_res3_3_branch2c_bn_subsample | blocks.2.multipathway_fusion
fuse4 | s4_fuse | t_res4_5_branch2c_bn_subsample | blocks.3.multipathway_fusion
"""
FUSED = {  # the convolution and the norm of a fusion
    "slowfast": ("{}.conv_f2s.weight", "{}.bn."),
    "caffe2": ("{}_w", "{}_bn_"),
    "pytorchvideo": ("{}.conv_fast_to_slow.weight", "{}.norm."),
}
LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
PATHWAYS = {  # how a name of one pathway becomes that of the slow and of the fast pathway
    "slowfast": (r"\.pathway0_", ".pathway0_", ".pathway1_"),
    "caffe2": (r"^", "", "t_"),
    "pytorchvideo": (r"^blocks\.(\d)", r"blocks.\1.multipathway_blocks.0", r"blocks.\1.multipathway_blocks.1"),
}
TWO_PATHWAYS = {
    "slowfast": slowfast.TWO_PATHWAYS,
    "caffe2": caffe2.TWO_PATHWAYS,
    "pytorchvideo": pytorchvideo.TWO_PATHWAYS,
}


def x3d_names(column: int) -> dict[str, str]:
    """Our name -> theirs of every tensor of an X3D-M, in column 1 (SlowFast) or 2 (pytorchvideo)."""

    def rows() -> Iterator[tuple[str, str]]:
        yield from _rows(X3D_ENDS, column)
        for stage, blocks in {2: 3, 3: 5, 4: 11, 5: 7}.items():
            for block in range(blocks):
                tables = X3D + (X3D_EVEN if block % 2 == 0 else "") + (X3D_FIRST if block == 0 else "")
                yield from _rows(tables, column, s=stage, b=block, n=stage - 1)

    found: dict[str, str] = {}
    for ours, theirs in rows():
        leaves = [*LEAVES] if ours.split(".")[-1].startswith("bn") or ours.endswith("downsample.1") else ["weight"]
        leaves += ["bias"] if ".se." in ours else []
        found |= {f"{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in leaves}
    return found


def _rows(table: str, column: int, **fields: int) -> Iterator[tuple[str, str]]:
    for line in table.strip().splitlines():
        if line:
            columns = [cell.strip() for cell in line.split("|")]
            yield columns[0].format(**fields), columns[column].format(**fields)


def pathway_names(style: str) -> dict[str, str]:
    """Our name -> theirs of every tensor of a SlowFast R50."""
    found = {}
    for ours, theirs in tensors(style).items():
        pattern, *both = PATHWAYS[style]
        for pathway, replacement in zip(("slow", "fast"), both, strict=True):
            found[f"{pathway}.{ours}"] = re.sub(pattern, replacement, theirs)
    for ours, theirs in _rows(FUSIONS, ["", *FUSED].index(style)):
        conv, norm = FUSED[style]
        found[f"{ours}.conv.weight"] = conv.format(theirs)
        for leaf, letters in LEAVES.items():
            found[f"{ours}.bn.{leaf}"] = norm.format(theirs) + (letters if style == "caffe2" else leaf)
    return found


def meta_state(model: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return {k: x for k, x in untrained(model).state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize(("column", "known"), [(1, slowfast.SLOWFAST), (2, pytorchvideo.X3D)])
def test_every_tensor_of_x3d_has_its_published_name(column: int, known: Format) -> None:
    names = x3d_names(column)
    assert names.keys() == meta_state("x3d_m").keys()
    assert {ours: known.to_file(ours) for ours in names} == names
    assert {theirs: known.to_kinegraph(theirs) for theirs in names.values()} == {v: k for k, v in names.items()}


@pytest.mark.parametrize("style", TWO_PATHWAYS)
def test_every_tensor_of_two_pathways_has_its_published_name(style: str) -> None:
    known, names = TWO_PATHWAYS[style], pathway_names(style)
    assert names.keys() == meta_state("slowfast_r50_8x8").keys()
    assert {ours: known.to_file(ours) for ours in names} == names
    assert {theirs: known.to_kinegraph(theirs) for theirs in names.values()} == {v: k for k, v in names.items()}
    assert convert(dict.fromkeys(names.values(), torch.zeros(1))).format is known


FILES = [
    ("pytorchvideo_csn_r101", "csn_r101", pytorchvideo.UNPOOLED),
    ("pytorchvideo_x3d_m", "x3d_s", pytorchvideo.X3D),
    ("pytorchvideo_x3d_l", "x3d_l", pytorchvideo.X3D),
    ("slowfast_X3D_M", "x3d_m", slowfast.SLOWFAST),
    ("pytorchvideo_slowfast_r50", "slowfast_r50_8x8", pytorchvideo.TWO_PATHWAYS),
    ("slowfast_SLOWFAST_8x8_R50", "slowfast_r50_8x8", slowfast.TWO_PATHWAYS),
    ("pytorchvideo_mvit_base_16x4", "mvit_v1_b", MVIT_OF_PYTORCHVIDEO),
    ("slowfast_MVIT_B_16x4_CONV", "mvit_v1_b", MVIT_OF_SLOWFAST),
    ("slowfast_MVITv2_S_16x4", "mvit_v2_s", MVIT_OF_SLOWFAST),
]


@pytest.mark.shared
@pytest.mark.parametrize(("file", "model", "known"), FILES)
def test_public_files_have_the_shapes_of_our_networks(file: str, model: str, known: Format) -> None:
    """The names and shapes of the packages' own networks. pytorchvideo's X3D lacks the norm of one shortcut."""
    lines = [line.split("\t") for line in (KEYS / f"keys/{file}.tsv").read_text().splitlines()]
    shapes = {name: [int(n) for n in shape.split("x")] for name, shape, _ in lines if shape != "-"}
    with torch.device("meta"):
        converted = convert({name: torch.empty(shape) for name, shape in shapes.items()})
        wanted = {name: x.shape for name, x in meta_state(model).items()}
    assert (converted.format, converted.unknown, converted.classes) == (known, (), 400)
    assert {name: x.shape for name, x in converted.state.items()} == wanted


@pytest.mark.parametrize(
    ("file", "model", "told"),
    [
        (x3d_names(1), "slowonly_r50", r"in the file only: .*head\.conv_5"),
        (x3d_names(2), "csn_r101", r"it has pytorchvideo's names of X3D"),
        (pathway_names("slowfast"), "slowonly_r50", r"it has SlowFast's names, with two pathways"),
        (pathway_names("pytorchvideo"), "x3d_m", r"it has pytorchvideo's names, with two pathways"),
    ],
)
def test_a_file_of_another_network_is_refused(tmp_path: Path, file: dict[str, str], model: str, told: str) -> None:
    torch.save({"model_state": dict.fromkeys(file.values(), torch.zeros(1))}, tmp_path / "file.pyth")
    with torch.device("meta"):
        network = untrained(model)
    with pytest.raises(WeightsError, match=told):
        load_weights(network, str(tmp_path / "file.pyth"), {}, model=model)

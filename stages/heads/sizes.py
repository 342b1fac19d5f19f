"""Counts the parameters and multiplications of the heads in the sizes of their papers, to compare them with the
published numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import Spec


@dataclass(frozen=True, kw_only=True)
class PaperSize:
    """A head in the size that its paper describes, for counting its parameters and multiplications."""

    # `head`, `options`: the name and the options of the head
    head: str
    about: str  # a text with the backbone, the number of frames and the data set
    spec: Spec  # {name of the array: shape of one clip}, for the arrays that the head reads
    num_classes: int  # the number of classes
    options: Mapping[str, Any] = field(default_factory=dict)
    published: str = "no figure"  # a text with the numbers that the paper states


def _tap(backbone: str, tap: str, num_frames: int, channels: int, size: int) -> dict[str, tuple[int, ...]]:
    array = f"features/{backbone}/{tap}"
    return {array: (num_frames, channels, size, size), f"{array}_pooled": (num_frames, channels)}


def _graphs(num_frames: int, num_objects: int, num_relations: int) -> dict[str, tuple[int, ...]]:
    return {
        "graphs/times": (num_frames,),
        "graphs/count": (num_frames,),
        "graphs/objects": (num_frames, num_objects),
        "graphs/linked": (num_frames, num_objects),
        "graphs/relations": (num_frames, num_objects, num_relations),
    }


_I3D = _tap("i3d", "res5", 16, 2048, 14)
_REGIONS = {"regions/i3d/res5": (16, 50, 2048), "proposals/boxes": (16, 50, 4), "proposals/count": (16,)}
_RESNET50 = _tap("resnet50", "res5", 8, 2048, 7)
_DIGITS = _tap("small", "last", 10, 512, 6)
_VJEPA2_L = _tap("vjepa2", "norm", 8, 1024, 16)
_ONE_CANDIDATE = {"learning_rates": (1e-3,), "weight_decays": (0.01,)}
_CHARADES, _SOMETHING, _SYNC_MNIST = 157, 174, 46

SIZES = (
    PaperSize(
        head="avg_pool",
        about="I3D-R50 res5, Charades",
        spec=_I3D,
        num_classes=_CHARADES,
        published="28.0 M and 153 GMACs, the backbone with 400 classes (28.04, 152.5)",
    ),
    PaperSize(
        head="proposal_pool",
        about="I3D-R50 res5, 50 boxes, Charades",
        spec=_I3D | _REGIONS,
        num_classes=_CHARADES,
        options={"concat_global": True},
    ),
    PaperSize(
        head="strg",
        about="I3D-R50 res5, 50 boxes, joint, Charades",
        spec=_I3D | _REGIONS,
        num_classes=_CHARADES,
        published="+5 GMACs; the graphs are 5.79 dense and 3.94 here, where those of boxes are multiplied "
        "block by block; cached regions are projected (0.84) instead of the map (3.29). +27.1 M parameters, which can "
        "only include the proposal network: the graphs have 3.15 M",
    ),
    PaperSize(
        head="trg",
        about="ResNet-50 res5, 8 frames, 3 blocks of 3 heads at 2048 channels, Something-Something",
        spec=_RESNET50,
        num_classes=_SOMETHING,
        options={"dim": None},
        published="with the backbone and 8 frames 28.4 M and 33.6 GMACs (ResNet-50 alone: 23.9, 32.7), 14.1 M and "
        "16.2 (BN-Inception: 10.4, 16.3), 28.3 M and 47.4 (Inception-V3: 22.1, 45.7). The 4.5, 3.7 and 6.2 M that "
        "this leaves contradict the paper's own formula: it gives what we count, and 96 and 301 M in the two others; "
        "use dim",
    ),
    PaperSize(
        head="atr",
        about="ResNet-50 res5, 8 frames, one block, Something-Something",
        spec=_RESNET50,
        num_classes=_SOMETHING,
        published="the table is lost; the formula gives 8.66 M for the block",
    ),
    PaperSize(
        head="st_sgn",
        about="36 classes, 25 relations, 16 frames of 5 objects, GINE, person, biGRU, Charades",
        spec=_graphs(16, 5, 25),
        num_classes=_CHARADES,
    ),
    PaperSize(
        head="relation_matrix",
        about="36 classes, 25 relations, 16 frames, biGRU, Charades",
        spec=_graphs(16, 5, 25),
        num_classes=_CHARADES,
    ),
    PaperSize(
        head="rstg",
        about="10 frames of 6x6x512, positional, all-temp, SyncMNIST",
        spec=_DIGITS,
        num_classes=_SYNC_MNIST,
        options={"positional": True, "attention": "tf_sum", "norm": "batch"},
        published="about 10.57 M by the released config, with a backbone of 4.72 M; no GMACs: re-derived they "
        "are 6.36, with the first layer of messages for every pair, which is applied once a node here",
    ),
    PaperSize(head="mlp", about="I3D-R50 res5, Charades", spec=_I3D, num_classes=_CHARADES),
    PaperSize(head="lstm", about="I3D-R50 res5, Charades", spec=_I3D, num_classes=_CHARADES),
    PaperSize(head="conv_lstm", about="10 frames of 6x6x512, SyncMNIST", spec=_DIGITS, num_classes=_SYNC_MNIST),
    PaperSize(head="conv3d", about="10 frames of 6x6x512, SyncMNIST", spec=_DIGITS, num_classes=_SYNC_MNIST),
    PaperSize(
        head="trn",
        about="ResNet-50, 8 frames, Something-Something",
        spec=_RESNET50,
        num_classes=_SOMETHING,
        published="18.3 M and 16.4 GMACs with BN-Inception (10.4, 16.3), in TRG's table 1; the sizes of the authors' "
        "code, as here, give 2.9 M on its 1024 channels",
    ),
    PaperSize(
        head="non_local",
        about="I3D-R50 res4, one block, Charades",
        spec=_tap("i3d", "res4", 16, 1024, 14),
        num_classes=_CHARADES,
        published="35.1 M and 168 GMACs for I3D with five blocks, two in res3 and three in res4 (28.0, 153 without): "
        "`kinegraph models` counts 35.4 and 220.9",
    ),
    PaperSize(
        head="linear_probe",
        about="V-JEPA 2 L, 16 frames, one candidate, Something-Something",
        spec=_VJEPA2_L,
        num_classes=_SOMETHING,
        options=_ONE_CANDIDATE,
    ),
    PaperSize(
        head="attentive_probe",
        about="V-JEPA 2 L, 16 frames, one candidate of 20, Something-Something",
        spec=_VJEPA2_L,
        num_classes=_SOMETHING,
        options=_ONE_CANDIDATE,
        published="no figure in the paper; the classifier of the package transformers has 49.5 M and 107.3 GMACs more "
        "than its encoder and predictor",
    ),
)


def count(size: PaperSize) -> tuple[int, float, tuple[str, ...]]:
    """Returns (number of parameters, GMACs of one clip, names of the arrays that the head reads) for the head that
    `size` describes.

    GMACs are billions of multiply-accumulate operations in convolutions, linear layers, recurrent layers and matrix
    products.
    """
    # tensors on meta have a shape and no values; only the work of heads on scene graphs depends on values
    device = "cpu" if "graphs/count" in size.spec else "meta"
    with torch.device(device), torch.random.fork_rng([]):
        head = build_head(size.head, size.spec, size.num_classes, **size.options).eval()
        batch = clips_of(size, head.reads, 1)
        # in inference mode the counter fails at a layer whose input is a parameter
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            head(batch)
    num_params = sum(parameter.numel() for parameter in head.parameters())
    return num_params, counter.get_total_flops() / 2e9, head.reads


def clips_of(size: PaperSize, reads: Sequence[str], num_clips: int) -> dict[str, Tensor]:
    """Returns an artificial batch of `num_clips` clips, to count the operations of a head. The batch is {name of the
    array: values [num_clips, ...]}. `reads` are the names of the arrays. `size.spec` has their shapes.

    Arrays of counts have the value 50 (boxes of a frame) or 5 (objects of a scene graph). All other arrays have only
    ones.
    """
    return {name: _array(name, (num_clips, *size.spec[name])) for name in reads}


def _array(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("/count"):
        return torch.full(shape, 5 if name == "graphs/count" else 50, dtype=torch.int16)
    whole = name in ("graphs/objects", "graphs/linked", "graphs/relations")
    return torch.ones(shape, dtype=torch.uint8 if whole else torch.float32)

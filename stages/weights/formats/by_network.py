"""Lists for each network the code bases whose weight files it can take. Files with torchvision's or kinegraph's own
names of tensors are not listed. Imports no torch. `convert.py` recognises the format of a file by itself.
"""

from collections.abc import Mapping

_POOLED, _UNPOOLED = (f"pytorchvideo's names, {word} a pool after res2" for word in ("with", "without"))
_RESNET_3D = ("SlowFast's names", "Caffe2's names", _POOLED, _UNPOOLED)
_NON_LOCAL = ("SlowFast's names", "Caffe2's names")
_X3D = ("SlowFast's names", "pytorchvideo's names of X3D")
_SLOWFAST = tuple(f"{owner}'s names, with two pathways" for owner in ("SlowFast", "Caffe2", "pytorchvideo"))
_TSN = ("TSN's names",)

# network -> names of the formats, as in FORMATS of convert.py
FORMATS_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101"), _TSN),
    "bn_inception": (*_TSN, "Caffe's BN-Inception names"),
    "tsm_r50": ("TSM's names",),
    **dict.fromkeys(("c2d_r50", "i3d_r50", "i3d_r101", "slowonly_r50"), _RESNET_3D),
    **dict.fromkeys(("nonlocal_i3d_r50", "nonlocal_i3d_r101"), _NON_LOCAL),
    "csn_r101": ("SlowFast's names", "Caffe2's names", _UNPOOLED),
    **dict.fromkeys(("x3d_xs", "x3d_s", "x3d_m", "x3d_l"), _X3D),
    **dict.fromkeys(("slowfast_r50_4x16", "slowfast_r50_8x8", "slowfast_r101_8x8"), _SLOWFAST),
    "mvit_v1_b": ("SlowFast's names of MViT", "pytorchvideo's names of MViT"),
    "mvit_v2_s": ("SlowFast's names of MViT",),
    **dict.fromkeys(("inception_i3d", "inception_i3d_flow"), ("pytorch-i3d's names", "kinetics_i3d_pytorch's names")),
}

"""Builds the frozen network of a backbone from its name.

BUILDERS has one line per backbone. `catalogue.py` has the facts about the networks that need no torch. torchvision
takes nearly as long to import as torch, so it is imported only if a network of torchvision is built.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.bn_inception import BNInception
from kinegraph.stages.backbones.catalogue import TIMM_PREFIX, entry
from kinegraph.stages.backbones.depthwise import CSN, X3D
from kinegraph.stages.backbones.entry import INFLATE, BackboneEntry, Tokens
from kinegraph.stages.backbones.inception_i3d import InceptionI3D, InceptionI3DFlow
from kinegraph.stages.backbones.inception_v3 import InceptionV3
from kinegraph.stages.backbones.inflation import inflate
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.resnet2d import ResNet2D
from kinegraph.stages.backbones.resnet3d import ResNet3D
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS
from kinegraph.stages.backbones.slowfast import SlowFast
from kinegraph.stages.backbones.sync_cnn import SyncCnn
from kinegraph.stages.backbones.temporal_shift import ShiftedResNet
from kinegraph.stages.backbones.timm_image import TimmImage
from kinegraph.stages.backbones.tiny_i3d import TinyI3D
from kinegraph.stages.backbones.torchvision_video import S3D, MViT, VideoResNet, VideoSwin
from kinegraph.stages.backbones.transformers_folder import read_folder
from kinegraph.stages.backbones.transformers_network import TransformersNetwork, build, pretrained
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.load import load_weights, tensors_digest, weights_digest
from kinegraph.stages.weights.random import drawing, initialise
from kinegraph.stages.weights.sources import PRETRAINED
from kinegraph.stages.weights.transformers_files import TRANSFORMERS_PREFIX
from kinegraph.stages.weights.transformers_load import files_digest


def _torchvision(name: str, **options: Any) -> Any:
    from torchvision import models

    return models.get_model(name, **options)


BUILDERS: dict[str, Callable[[], Backbone]] = {
    "resnet18": lambda: ResNet2D(_torchvision("resnet18")),
    "resnet34": lambda: ResNet2D(_torchvision("resnet34")),
    "resnet50": lambda: ResNet2D(_torchvision("resnet50")),
    "resnet101": lambda: ResNet2D(_torchvision("resnet101")),
    "inception_v3": InceptionV3,
    "bn_inception": BNInception,
    "tsm_r50": lambda: ShiftedResNet(_torchvision("resnet50")),
    "s3d": S3D,
    "inception_i3d": InceptionI3D,
    "inception_i3d_flow": InceptionI3DFlow,
    "r2plus1d_18": lambda: VideoResNet(_torchvision("r2plus1d_18")),
    "r3d_18": lambda: VideoResNet(_torchvision("r3d_18")),
    "mc3_18": lambda: VideoResNet(_torchvision("mc3_18")),
    "csn_r101": lambda: CSN((3, 4, 23, 3)),
    "x3d_xs": lambda: X3D((3, 5, 11, 7)),
    "x3d_s": lambda: X3D((3, 5, 11, 7)),
    "x3d_m": lambda: X3D((3, 5, 11, 7)),
    "x3d_l": lambda: X3D((5, 10, 25, 15)),
    "slowfast_r50_4x16": lambda: SlowFast((3, 4, 6, 3), alpha=8, fusion_frames=5),
    "slowfast_r50_8x8": lambda: SlowFast((3, 4, 6, 3), alpha=4, fusion_frames=7),
    "slowfast_r101_8x8": lambda: SlowFast((3, 4, 23, 3), alpha=4, fusion_frames=5),
    "swin3d_t": lambda: VideoSwin(partial(_torchvision, "swin3d_t")),
    "swin3d_s": lambda: VideoSwin(partial(_torchvision, "swin3d_s")),
    "swin3d_b": lambda: VideoSwin(partial(_torchvision, "swin3d_b")),
    "mvit_v1_b": lambda: MViT(partial(_torchvision, "mvit_v1_b")),
    "mvit_v2_s": lambda: MViT(partial(_torchvision, "mvit_v2_s")),
    "tiny_i3d": TinyI3D,
    "sync_cnn": lambda: SyncCnn("sync_cnn"),
    "tiny_sync_cnn": lambda: SyncCnn("tiny_sync_cnn"),
}


def build_backbone(
    model: str,
    weights: str,
    taps: Sequence[str],
    *,
    tokens: Tokens = "patch",
    head: bool = False,
    **options: int | str,
) -> Backbone:
    """Returns the network `model` up to the highest of `taps`, frozen, in evaluation mode, on the CPU, in float32.

    - `weights`: a name of the catalogue, a local file or `random:<seed>`. `inflate:` before one of these makes 3D
      weights from the weights of the 2D network.
    - `taps`: the named layers whose output the network returns.
    - `tokens`: "patch", "class" or "both". With "class" or "both", the network also returns the class token of each
      tap.
    - `head`: whether the network also returns its output after the last tap.
    - `options`: the options of the network, such as `pool1_padding=0`. The defaults are those with which the weights
      were trained.

    Layers above the highest tap are not loaded. Every other tensor of the file must belong to the network.

    Raises ValueError if the backbone, a tap or an option does not exist, or if the network has no class token or no
    output after the last tap. Raises WeightsError if the weights cannot be read or do not belong to the network.
    """
    backbone = entry(model, options, weights)
    for tap in taps:
        backbone.tap(tap)
    backbone.check_outputs(taps, tokens, head=head)
    loaded = bool(backbone.folder) and weights == PRETRAINED
    with drawing(weights):
        network = pretrained(read_folder(backbone.folder)) if loaded else untrained(model, **backbone.chosen)
    network.want(class_tokens=tokens != "patch", head=head)
    above = {name: tensor.shape for name, tensor in network.state_dict().items()}
    network.cut(taps)
    if weights.startswith(INFLATE):
        _inflate(network, backbone, weights)
    elif not loaded:
        for name in network.state_dict():
            del above[name]
        ignored, words = network.is_classifier, backbone.other_forms
        try:
            load_weights(network, weights, backbone.weights, ignored, above=above, model=model, other_forms=words)
        except WeightsError as error:
            if not backbone.folder:
                raise
            remedy = "Set `weights: pretrained` for the weights of the folder. A file must be one that `finetune` wrote"
            raise WeightsError(f"{error}\n{remedy}") from error
    return network.eval().requires_grad_(False)


def build_from_options(options: BackboneOptions) -> Backbone:
    """Builds the network of a backbone, as `build_backbone` does. `options` is the backbone's entry in the config,
    which names the network, its weights and its taps.
    """
    return build_backbone(
        options.model, options.weights, options.taps, tokens=options.tokens, head=options.head, **options.options
    )


def backbone_digest(network: Backbone, backbone: BackboneEntry, weights: str) -> str:
    """Returns a sha256 of the weights of `network`, for the fingerprint of a cache. `backbone` is the network's entry
    in the catalogue. `weights` is the option of the config.

    For a weights file, the digest is that of the file. For `random:...` and `inflate:...`, the digest covers all
    tensors of `network`. (`inflate:` makes 3D weights from a 2D network.)
    """
    if weights.startswith(INFLATE):
        return tensors_digest(network)
    if backbone.folder and weights == PRETRAINED:
        return files_digest(read_folder(backbone.folder).path)
    return weights_digest(network, weights, backbone.weights)


def _inflate(network: Backbone, backbone: BackboneEntry, weights: str) -> None:
    if backbone.inflates is None:
        raise WeightsError(f"weights {weights!r}: {backbone.name} has no 2D network whose weights could be inflated")
    try:
        flat = build_backbone(backbone.inflates, weights.removeprefix(INFLATE), network.taps)
    except WeightsError as error:
        raise WeightsError(f"weights {weights!r}, from {backbone.inflates}: {error}") from error
    initialise(network, 0)
    inflate(network, flat.state_dict())


def untrained(model: str, **options: Any) -> Backbone:
    """Returns the network `model` with random weights and all its taps.

    `options` are the options whose values differ from the paper, for example `pool1_padding=0`.
    """
    if model.startswith(TIMM_PREFIX):
        return TimmImage(model.removeprefix(TIMM_PREFIX), **options)
    if model.startswith(TRANSFORMERS_PREFIX):
        folder = read_folder(model.removeprefix(TRANSFORMERS_PREFIX))
        return TransformersNetwork(folder, build(folder))
    if model in LAYOUTS:
        return ResNet3D(replace(LAYOUTS[model], **options))
    return BUILDERS[model]()

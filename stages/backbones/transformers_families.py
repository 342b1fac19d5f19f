"""Lists the families of networks of the package transformers that can be a backbone. Torch-free.

All networks of a family have the same `model_type` in their `config.json`. FAMILIES has one entry per family. The
networks of a family differ in numbers such as the number of layers. `transformers_folder.py` reads these numbers from
`config.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kinegraph.stages.backbones.entry import Counts

# How patch tokens follow each other over time (t), rows (h) and columns (w). The last letter changes fastest.
Order = Literal["thw", "hwt", "hw"]


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """The description of all networks of one family, such as VideoMAE. The `config.json` of such a network has the
    `model_type` of this description.
    """

    model_type: str
    about: str  # published networks of the family, in words
    usual: str  # the name of one published network. Lists show its numbers as an example of the family.
    # The size and cost of the network `usual` without a classifier, with the output `head` if the family has one
    counts: Counts
    # The values in the `config.json` of the network `usual` that differ from `defaults`
    usual_config: Mapping[str, Any] = field(default_factory=dict)
    module: str  # the file of transformers with the class of the network, below `transformers.models`
    # `network`, `config`: the name of the class of the network, and the name of the class of its config
    network: str
    config: str
    layers: str  # the dotted path of the list of layers in the network, for example `encoder.layer`
    norm: str | None  # the dotted path of the norm after the last layer. None if the network has no such norm.
    # The order of the patch tokens, from the slowest axis to the fastest: "thw" or "hwt" for videos, "hw" for single
    # images. t is time, h are rows and w are columns.
    order: Order
    class_token: bool = False  # whether the first token is a class token
    # `frames`, `tubelet`: keys in `config.json` of the number of frames, and of the number of frames of a patch. None
    # in networks of single images.
    frames: str | None = None
    tubelet: str | None = None
    # `patch`, `size`: keys in `config.json` of the side of a patch, and of the side of the input
    patch: str = "patch_size"
    size: str = "image_size"
    # Values of keys that `config.json` may lack, as in the class of the config
    defaults: Mapping[str, Any] = field(default_factory=dict)
    # The key of `config.json` that has the config of the network, if the file also describes a text network
    vision: str | None = None
    is_exact: bool = False  # whether the network takes only the size and the number of frames in its config
    resamples: bool = False  # whether the network needs an argument to resample its table of positions for another size
    has_grid: bool = False  # whether the attention layers keep the number of rows of a map as `grid_size`
    head: str = ""  # the field of the network's result that is the output `head`. Empty if there is no such output.
    head_module: str = ""  # the submodule that only the output `head` needs
    # {beginning of a name: reason} of tensors in a file that are not loaded
    left_out: Mapping[str, str] = field(default_factory=dict)
    # Beginnings of the names of tensors of the network that its maps do not need. A file may lack them.
    unneeded: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the network's method `forward`
    # Keys that the file of the processor must have, besides mean and standard deviation
    processor_keys: tuple[str, ...] = ()
    # Short side of the resized frame, divided by the side of the crop. If it is given, the short side in the file of
    # the processor is ignored.
    short_of_crop: float | None = None

    def norm_of(self, config: Mapping[str, Any]) -> str | None:
        """Returns the dotted path of the final norm, the norm above the last layer, in a network with the `config.json`
        `config`. Returns None if the network has none.

        The norm of VideoMAE's fine-tuned networks belongs to the classifier, so the result is None for them.
        """
        values = {**self.defaults, **config}
        return None if "use_mean_pooling" in self.defaults and values["use_mean_pooling"] else self.norm

    @property
    def sees_single_frames(self) -> bool:
        """Returns whether networks of the family take single images, not videos."""
        return self.order == "hw"


def _counts(num_params: int, gmacs: float, size: int, *, num_frames: int = 1) -> Counts:
    return Counts(num_params=num_params, gmacs=gmacs, num_frames=num_frames, size=size, num_classes=0)


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_channels": 3, "patch_size": 16, "image_size": 224}
_CLASSIFIER = {"classifier.": "the classifier"}
_DECODER = {
    "decoder.": "the decoder of the pre-training",
    "encoder_to_decoder.": "the decoder of the pre-training",
    "mask_token": "the decoder of the pre-training",
}
_TEXT = {
    "text_model.": "the network of texts",
    "text_projection.": "the network of texts",
    "logit_scale": "the temperature of the training",
    "logit_bias": "the temperature of the training",
    "vision_model.embeddings.position_ids": "the numbers of the positions",
    "embeddings.position_ids": "the numbers of the positions",
}
_DINO: dict[str, Any] = {
    "layers": "encoder.layer",
    "norm": "layernorm",
    "order": "hw",
    "class_token": True,
    "left_out": _CLASSIFIER,
    "unneeded": ("embeddings.mask_token",),
}
_DINOV3_B = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_register_tokens": 4}
_CLIP: dict[str, Any] = {
    "module": "clip.modeling_clip",
    "config": "CLIPVisionConfig",
    "norm": None,  # the norm above the last layer takes the class token alone, on the way to the output `head`
    "order": "hw",
    "class_token": True,
    "resamples": True,
    "left_out": _TEXT,
}
_SIGLIP: dict[str, Any] = {
    "module": "siglip.modeling_siglip",
    "network": "SiglipVisionModel",
    "config": "SiglipVisionConfig",
    "layers": "encoder.layers",
    "norm": "post_layernorm",
    "order": "hw",
    "resamples": True,
    "head": "pooler_output",
    "head_module": "head",
    "usual": "SigLIP B/16",
    "counts": _counts(92_884_224, 17.708, 224),
    "defaults": _BASE,
    "left_out": _TEXT,
}

_ALL = (
    ModelFamily(
        model_type="videomae",
        about="VideoMAE (Tong et al. 2022)",
        usual="VideoMAE-B",
        usual_config={"use_mean_pooling": False},
        counts=_counts(86_227_200, 180.345, 224, num_frames=16),
        module="videomae.modeling_videomae",
        network="VideoMAEModel",
        config="VideoMAEConfig",
        layers="encoder.layer",
        norm="layernorm",
        order="thw",
        frames="num_frames",
        tubelet="tubelet_size",
        defaults=_BASE | {"num_frames": 16, "tubelet_size": 2, "use_mean_pooling": True},
        is_exact=True,
        left_out=_CLASSIFIER | _DECODER | {"fc_norm.": "the norm of the classifier"},
    ),
    ModelFamily(
        model_type="vjepa2",
        about="V-JEPA 2 (Assran et al. 2025)",
        usual="V-JEPA 2 L",
        counts=_counts(303_885_312, 5785.321, 256, num_frames=64),
        module="vjepa2.modeling_vjepa2",
        network="VJEPA2Model",
        config="VJEPA2Config",
        layers="encoder.layer",
        norm="encoder.layernorm",
        order="thw",
        frames="frames_per_clip",
        tubelet="tubelet_size",
        size="crop_size",
        defaults=_BASE
        | {"hidden_size": 1024, "num_hidden_layers": 24, "crop_size": 256, "frames_per_clip": 64, "tubelet_size": 2},
        has_grid=True,
        left_out=_CLASSIFIER | {"pooler.": "the attentive pooler of the classifier"},
        unneeded=("predictor.",),
        arguments={"skip_predictor": True},
        short_of_crop=256 / 224,
    ),
    ModelFamily(
        model_type="timesformer",
        about="TimeSformer (Bertasius et al. 2021)",
        usual="TimeSformer-B",
        counts=_counts(121_258_752, 195.83, 224, num_frames=8),
        module="timesformer.modeling_timesformer",
        network="TimesformerModel",
        config="TimesformerConfig",
        layers="encoder.layer",
        norm="layernorm",
        order="hwt",
        class_token=True,
        frames="num_frames",
        defaults=_BASE | {"num_frames": 8},
        is_exact=True,
        left_out=_CLASSIFIER,
    ),
    ModelFamily(
        model_type="vivit",
        about="ViViT (Arnab et al. 2021)",
        usual="ViViT-B/16x2",
        counts=_counts(88_646_400, 451.524, 224, num_frames=32),
        module="vivit.modeling_vivit",
        network="VivitModel",
        config="VivitConfig",
        layers="layers",
        norm="layernorm",
        order="thw",
        class_token=True,
        frames="num_frames",
        tubelet="tubelet_size",
        patch="tubelet_size",
        defaults=_BASE | {"num_frames": 32, "tubelet_size": [2, 16, 16]},
        is_exact=True,
        left_out=_CLASSIFIER,
        unneeded=("pooler.",),
        processor_keys=("rescale_factor", "offset"),
    ),
    ModelFamily(
        model_type="dinov2",
        about="DINOv2 (Oquab et al. 2023)",
        usual="DINOv2 B/14",
        usual_config={"image_size": 518},
        counts=_counts(86_580_480, 23.161, 224),
        module="dinov2.modeling_dinov2",
        network="Dinov2Model",
        config="Dinov2Config",
        defaults=_BASE | {"patch_size": 14},
        **_DINO,
    ),
    ModelFamily(
        model_type="dinov2_with_registers",
        about="DINOv2 with registers (Darcet et al. 2024)",
        usual="DINOv2 B/14 with registers",
        usual_config={"image_size": 518, "patch_size": 14},
        counts=_counts(86_583_552, 23.539, 224),
        module="dinov2_with_registers.modeling_dinov2_with_registers",
        network="Dinov2WithRegistersModel",
        config="Dinov2WithRegistersConfig",
        defaults=_BASE | {"num_register_tokens": 4},
        **_DINO,
    ),
    ModelFamily(
        model_type="dinov3_vit",
        about="DINOv3 (Simeoni et al. 2025), its vision transformers",
        usual="DINOv3 B/16",
        usual_config=_DINOV3_B,
        counts=_counts(85_660_416, 17.932, 224),
        module="dinov3_vit.modeling_dinov3_vit",
        network="DINOv3ViTModel",
        config="DINOv3ViTConfig",
        defaults=_BASE | {"hidden_size": 384, "num_register_tokens": 0},
        **_DINO | {"layers": "model.layer", "norm": "norm"},
    ),
    ModelFamily(
        model_type="clip",
        about="CLIP (Radford et al. 2021), its network of images",
        usual="CLIP B/32",
        counts=_counts(87_849_216, 4.409, 224),
        network="CLIPVisionModelWithProjection",
        layers="vision_model.encoder.layers",
        vision="vision_config",
        head="image_embeds",
        head_module="visual_projection",
        defaults=_BASE | {"patch_size": 32, "projection_dim": 512},
        **_CLIP,
    ),
    ModelFamily(
        model_type="clip_vision_model",
        about="CLIP's network of images, saved without the network of texts",
        usual="CLIP B/32",
        counts=_counts(87_456_000, 4.408, 224),
        network="CLIPVisionModel",
        layers="encoder.layers",
        defaults=_BASE | {"patch_size": 32},
        **_CLIP | {"left_out": _TEXT | {"visual_projection.": "the projection"}},
    ),
    ModelFamily(
        model_type="siglip",
        about="SigLIP (Zhai et al. 2023), SigLIP 2 of one size, the network of images",
        vision="vision_config",
        **_SIGLIP,
    ),
    ModelFamily(
        model_type="siglip_vision_model",
        about="SigLIP's network of images, saved without the network of texts",
        **_SIGLIP,
    ),
)

FAMILIES: dict[str, ModelFamily] = {family.model_type: family for family in _ALL}

# Networks that were fine-tuned to classify videos have an output below their classifier. Name of the class, which
# stands in `config.json` under `architectures` -> the family with this class.
CLASSIFIERS: dict[str, ModelFamily] = {
    "VideoMAEForVideoClassification": replace(
        FAMILIES["videomae"],
        network="VideoMAEForVideoClassification",
        layers="videomae.encoder.layer",
        head="logits",  # of a classifier that does nothing: the norm of the mean over all tokens
        head_module="fc_norm",
        unneeded=("classifier.",),
    ),
    "VJEPA2ForVideoClassification": replace(
        FAMILIES["vjepa2"],
        network="VJEPA2ForVideoClassification",
        layers="vjepa2.encoder.layer",
        norm="vjepa2.encoder.layernorm",
        head="logits",
        head_module="pooler",
        unneeded=("classifier.", "vjepa2.predictor."),
        arguments={},
    ),
}


def family_of(config: Mapping[str, Any]) -> ModelFamily | None:
    """Returns the family of a network, or None if kinegraph does not know the network. `config` is the content of the
    network's `config.json`.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    saved = config.get("architectures")
    classifier = CLASSIFIERS.get(str(saved[0])) if isinstance(saved, list) and saved else None
    if family is None or classifier is None or classifier.model_type != family.model_type:
        return family
    return classifier if family.norm_of(config) is None or "use_mean_pooling" not in family.defaults else family

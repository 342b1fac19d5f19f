"""Runs image models of the package timm as backbones, on each frame of a clip. The model must be able to return
intermediate maps.

A plain transformer of timm has class tokens and a norm after its last block. It takes any size that its patches divide.
For another size than its own, timm resamples the table of positions (bicubic, with antialias).

A plan for such a model imports torch, because timm knows channels and sizes of maps only after it has built the model.

Shapes: B clips, T frames, C channels, H rows and W columns.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import CLASS_SUFFIX, HEAD
from kinegraph.cache_schemas.crops import Resize
from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.taps import Steps, Tap, WrongSize
from kinegraph.stages.weights.random import draw_as_built
from kinegraph.stages.weights.sources import PRETRAINED, HubFile, WeightSource

FINAL_NORM, APPLIED, NONE = "final_norm", "applied", "none"  # the option, and its values
RESIZES: dict[str, Resize] = {"bicubic": "bicubic", "bilinear": "pillow"}  # names of timm
VECTORS_RANK = 2  # axes of the output `head`: frame, channel


class TimmImage(Backbone):
    """An image model of timm as a backbone. It runs on each frame of a clip.

    `model` is timm's name, such as `convnext_tiny` or `convnext_tiny.fb_in22k`. A tap has the name of the timm module
    whose output it is, with `_` in place of dots: `stages.0` -> `stages_0`. If `final_norm` is "applied", the maps and
    class tokens of the last tap come after the model's final norm.
    """

    stages = {}  # noqa: RUF012 (a ClassVar in the base; each of these models has its own value)

    def __init__(self, model: str, final_norm: str = APPLIED) -> None:
        super().__init__()
        self.name = model
        self.model = create(model)
        self.indices = {name: index for index, name in enumerate(tap_names(self.model))}
        self.taps = tuple(self.indices)
        self.normed_tap = self.taps[-1] if final_norm == APPLIED and has_final_norm(self.model) else None
        self.register_state_dict_post_hook(_with_names_of_timm)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_own_names)  # type: ignore[no-untyped-call]

    def cut(self, taps: Sequence[str]) -> None:
        """Makes `taps` the wanted taps. Removes the layers above the highest of them from the model. If the output
        `head` is wanted, the layers that it needs stay. A tap is a named layer, and `forward` returns the output of
        each wanted tap.

        `taps` must be a part of the present wanted taps. Raises ValueError if it is not, or if it is empty.
        """
        self._want_taps(taps)
        if not self.wants_head:
            self.model.prune_intermediate_layers([self.indices[name] for name in self.taps], prune_head=True)
        elif not has_projection(self.model):
            self.model.reset_classifier(0)

    def draw(self, seed: int) -> None:
        """Fills the network with random weights, as timm initialises this model. The weights depend on `seed` alone."""
        draw_as_built(self, seed, lambda: create(self.name))

    def is_classifier(self, name: str) -> bool:
        """Returns whether the tensor `name` of a weights file belongs to the classifier of the timm model. If the
        output `head` is wanted, the projection of a model such as CLIP does not count as a classifier.
        """
        if self.wants_head and has_projection(self.model):
            return False
        classifiers = self.model.pretrained_cfg["classifier"] or ()
        return name.startswith(
            tuple(f"{module}." for module in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        )

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the model on each frame of B clips. Returns {tap: maps [B, C, T, H', W']} for each wanted tap (a named
        layer).

        `clips` are normalised pixels [B, 3, T, H, W]. If class tokens are wanted, the result also has `<tap>_class` ->
        [B, T, C]. If the output after the last tap is wanted, the result has `head` -> [B, T, C].
        """
        return frame_by_frame(self.run, clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the model on the frames of all clips, `x` [B*T, 3, H, W]. Returns {tap: maps [B*T, C, H', W']} for each
        wanted tap (a named layer).

        If class tokens are wanted, the result also has `<tap>_class` -> [B*T, C]. If the output after the last tap is
        wanted, the result has `head` -> [B*T, C].
        """
        prefixes = {"return_prefix_tokens": True} if self.wants_class_tokens else {}
        only = {"stop_early": not self.wants_head, "intermediates_only": not self.wants_head}
        features = self.model.forward_intermediates(x, indices=[*map(self.indices.get, self.taps)], **only, **prefixes)
        last, levels = features if self.wants_head else (None, features)
        outputs: dict[str, Tensor] = {}
        for tap, level in zip(self.taps, levels, strict=True):
            maps, prefix = level if self.wants_class_tokens else (level, None)
            is_normed = tap == self.normed_tap
            outputs[tap] = self.model.norm(maps.movedim(1, -1)).movedim(-1, 1) if is_normed else maps
            if prefix is not None:
                outputs[f"{tap}{CLASS_SUFFIX}"] = self.model.norm(prefix[:, 0]) if is_normed else prefix[:, 0]
        if last is not None:
            outputs[HEAD] = self.model.forward_head(last)
        return outputs

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Renames the tensors `state` of a file that timm publishes to the names of timm's model. Returns {name:
        tensor}.

        Some of these files have the names of the code base from which the weights come. timm knows how to rename them.
        """
        rename = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        return state if rename is None else dict(rename(state, create(self.name)))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads a state dict with timm's public names of parameters and buffers. Error messages have timm's names,
        too.
        """
        return self.model.load_state_dict(*args, **kwargs)


def _with_names_of_timm(network: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Removes `model.` from the names of tensors in the state dict `state`, in place. The names are then timm's public
    names. torch calls this function after it has made `state`.

    `prefix` is the text before `model.` in the names.
    """
    own = f"{prefix}model."
    for name in [name for name in state if name.startswith(own)]:
        state[prefix + name.removeprefix(own)] = state.pop(name)


def _with_own_names(network: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Puts `model.` before the names of tensors in the state dict `state`, in place. Files have timm's names, but in
    this class the timm model is the child `model`. torch calls this function before it loads `state`.

    The names begin with `prefix`, the path of this module in the network that is loaded.
    """
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}model.{name.removeprefix(prefix)}"] = state.pop(name)


def create(model: str) -> Any:
    """Returns timm's model with the name `model`, untrained.

    Raises ValueError if timm is not installed, if timm has no such model, or if the model does not return intermediate
    maps.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"backbone timm/{model} needs timm: pip install 'kinegraph[timm]'") from error
    try:
        created = timm.create_model(model, **_any_size(model))
    except RuntimeError as error:
        raise ValueError(f"timm {timm.__version__} cannot build {model!r}: {error}; see timm.list_models()") from error
    if not hasattr(created, "forward_intermediates") or not getattr(created, "feature_info", None):
        raise ValueError(f"timm/{model}: timm {timm.__version__} gives no intermediate maps of this model")
    return created


@cache
def _any_size(model: str) -> dict[str, Any]:
    """Returns the keyword arguments with which timm builds the model `model` so that it takes any size that its patches
    divide. They are empty if the model has no such argument, or needs none.
    """
    import timm

    try:
        with torch.device("meta"):
            created = timm.create_model(model)
    except (NotImplementedError, RuntimeError):  # it reads values while it is built, or does not exist
        created = timm.create_model(model)
    is_fixed = getattr(created, "dynamic_img_size", None) is False and hasattr(created, "num_prefix_tokens")
    return {"dynamic_img_size": True} if is_fixed else {}


def has_class_token(model: Any) -> bool:
    """Returns whether the timm model `model` can return a class token beside the map of each tap."""
    parameters = inspect.signature(model.forward_intermediates).parameters
    return getattr(model, "cls_token", None) is not None and "return_prefix_tokens" in parameters


def has_final_norm(model: Any) -> bool:
    """Returns whether the timm model `model` has a norm over the channels of each token between its last tap and its
    pooling.

    Returns False for models other than plain transformers and Swin, because in other models `norm` may mean something
    else.
    """
    is_known = hasattr(model, "num_prefix_tokens") or type(model).__name__ in ("SwinTransformer", "SwinTransformerV2")
    channels = model.feature_info[-1]["num_chs"]
    return is_known and tuple(getattr(getattr(model, "norm", None), "normalized_shape", ())) == (channels,)


def has_projection(model: Any) -> bool:
    """Returns whether the last layer of the timm model `model` is a projection into an embedding, as in CLIP. Returns
    False for a classifier.
    """
    expected = model.pretrained_cfg
    tag = str(expected.get("tag") or "")
    is_clip = "clip" in f"{expected.get('architecture')}.{tag}"
    return is_clip and "_ft_" not in f"_{tag}_" and bool(model.num_classes)


def tap_names(model: Any) -> list[str]:
    """Returns the names of the taps of the timm model `model`, from bottom to top."""
    return [str(level["module"]).replace(".", "_") for level in model.feature_info]


@dataclass(frozen=True, kw_only=True)
class TimmTap(Tap):
    """A tap of the timm model `model`. timm itself computes the size of the maps."""

    model: str

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """Returns the shape (T, C, H, W) of the tap's maps for a clip of T = `num_frames` frames of `size` x `size` px.

        Raises WrongSize if the model cannot take frames of this size.
        """
        height, width = map_sizes(self.model, size)[self.name]
        return num_frames, self.channels, height, width


@dataclass(frozen=True, kw_only=True)
class TimmEntry(BackboneEntry):
    """The description of a timm model as a backbone. If the model has a norm after its last tap, `options` has
    `final_norm`.
    """

    def recorded_options(self, taps: Sequence[str]) -> dict[str, int | str]:
        """Returns {"final_norm": "applied"} if the final norm changes one of `taps`, otherwise {}. The fingerprint of a
        cache covers the result.

        Caches of early versions have the last tap before the norm and nothing about the option `final_norm` in the
        fingerprint. The result {} leaves them valid.
        """
        is_normed = FINAL_NORM in self.options and FINAL_NORM not in self.chosen and self.taps[-1].name in taps
        return {FINAL_NORM: APPLIED} if is_normed else {}


@cache
def _without_values(model: str) -> TimmImage:
    """Returns the timm model `model` on the device `meta`. Its tensors have shapes and no values."""
    try:
        with torch.device("meta"):
            return TimmImage(model).eval()
    except (NotImplementedError, RuntimeError, ValueError):  # it reads values while it is built, or does not exist
        return TimmImage(model).eval().to("meta")


@cache
def map_sizes(model: str, size: int) -> dict[str, tuple[int, int]]:
    """Returns {tap: (H, W)} of the timm model `model` for frames of `size` x `size` px. The maps of the tap have H rows
    and W columns.

    Raises WrongSize if the model cannot take frames of this size.
    """
    network = _without_values(model)
    try:
        maps = network.run(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        own = f"Its own size is {network.model.pretrained_cfg['input_size'][-1]} px"
        if getattr(network.model, "dynamic_img_size", False):
            own += f", and it takes any multiple of {network.model.patch_embed.patch_size[0]} px"
        words = f"timm/{model} cannot take frames of {size} x {size} px: {sentence(error)} {own}"
        raise WrongSize(words) from error
    return {name: (x.shape[2], x.shape[3]) for name, x in maps.items()}


def _head_channels(model: Any, size: int) -> int | None:
    """Returns the number of channels of the output `head` of the timm model `model`, which is on the device `meta`.
    Returns None if timm cannot compute this output from the model's last tap.
    """
    frame = torch.empty(1, 3, size, size, device="meta")
    try:
        head = model.forward_head(model.forward_features(frame), pre_logits=not has_projection(model))
    except (AttributeError, TypeError, RuntimeError, AssertionError, ValueError):
        return None  # timm's models have no common contract of these methods
    return int(head.shape[1]) if isinstance(head, Tensor) and head.ndim == VECTORS_RANK else None


@cache
def timm_entry(model: str) -> TimmEntry:
    """Returns the TimmEntry of `timm/<model>`, with the taps, the size of the input, the mean and the standard
    deviation. timm is a package of image models.

    Raises ValueError if timm is not installed, if timm has no such model, or if the model does not return intermediate
    maps.
    """
    created = _without_values(model).model
    expected = created.pretrained_cfg
    size = expected["input_size"][-1]
    token: Steps | None = "frame" if has_class_token(created) else None
    return TimmEntry(
        name=f"timm/{model}",
        taps=tuple(
            TimmTap(
                name=name, channels=level["num_chs"], space=((1, level["reduction"]),), class_token=token, model=model
            )
            for name, level in zip(tap_names(created), created.feature_info, strict=True)
        ),
        size=size,
        mean=tuple(expected["mean"]),
        std=tuple(expected["std"]),
        weights=published_weights(expected),
        options={FINAL_NORM: (APPLIED, NONE)} if has_final_norm(created) else {},
        sees_single_frames=True,
        head_channels=_head_channels(created, size),
    )


def published_weights(pretrained_cfg: Mapping[str, Any]) -> dict[str, WeightSource]:
    """Returns {"pretrained": WeightSource} for the weights file that timm publishes for a model, or {} if timm
    publishes none.

    `pretrained_cfg` is the attribute of the model in which timm describes its weights.
    """
    repository = pretrained_cfg.get("hf_hub_id")
    if not repository or pretrained_cfg.get("custom_load") == "hf":  # in a form that only its own code base reads
        return {}
    named = pretrained_cfg.get("hf_hub_filename") or "pytorch_model.bin"
    safe = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
    size, crop = pretrained_cfg["input_size"][-1], pretrained_cfg.get("crop_pct") or 1.0
    keeps_aspect = pretrained_cfg.get("crop_mode", "center") == "center" and crop <= 1
    source = WeightSource(
        file_name=f"{repository} of timm",
        licence=str(pretrained_cfg.get("license") or "see huggingface.co"),
        hub=HubFile(repository=repository, names=(safe.get(named, named.replace(".bin", ".safetensors")), named)),
        short_side_px=int(size / crop) if keeps_aspect else None,
        crop_px=size,
        resize=RESIZES.get(pretrained_cfg.get("interpolation", "")),
    )
    return {PRETRAINED: source}

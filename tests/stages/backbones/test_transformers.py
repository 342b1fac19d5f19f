"""Networks of the package transformers: the same maps as the package, from folders that it has saved.

All tests of the package are in this file, because its import takes seconds.
"""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.pipeline.caches.advice import advice
from kinegraph.pipeline.config import Config
from kinegraph.stages.backbones.build import backbone_digest, build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.extract import Normalised
from kinegraph.stages.backbones.pixels import framing_of, pixels_of
from kinegraph.stages.backbones.transformers_entry import usual_network
from kinegraph.stages.backbones.transformers_families import FAMILIES
from kinegraph.stages.backbones.transformers_folder import read_folder
from kinegraph.stages.backbones.transformers_network import TransformersNetwork, build
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.weights import transformers_load
from tests.stages.decode.conftest import clip_row

pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = SMALL | {"intermediate_size": 64}
SIDE, FRAMES, CELLS = 64, 8, 4  # px, frames of a clip, rows and columns of a map
CROPPED = {"resample": 2, "size": {"shortest_edge": 72}, "crop_size": {"height": SIDE, "width": SIDE}}
SQUEEZED = {"resample": 3, "size": {"height": SIDE, "width": SIDE}}
CONFIGS: dict[str, dict[str, Any]] = {  # what is small, and what the class that users save is
    "videomae": WIDE
    | {"num_frames": FRAMES, "use_mean_pooling": False, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
    "vjepa2": SMALL
    | {"crop_size": SIDE, "frames_per_clip": FRAMES, "pred_hidden_size": 24, "pred_num_attention_heads": 2}
    | {"pred_num_hidden_layers": 1},
    "timesformer": WIDE | {"num_frames": FRAMES},
    "vivit": WIDE | {"num_frames": FRAMES},
    "dinov2": SMALL | {"patch_size": 16},
    "dinov2_with_registers": SMALL,
    "dinov3_vit": WIDE | {"num_register_tokens": 4},
    "clip": {"vision_config": WIDE | {"patch_size": 16, "image_size": SIDE}, "projection_dim": 24},
    "siglip": {"vision_config": WIDE | {"image_size": SIDE}},
}
SAVED = {
    "videomae": "VideoMAEForPreTraining",
    "vjepa2": "VJEPA2Model",
    "timesformer": "TimesformerForVideoClassification",
    "vivit": "VivitForVideoClassification",
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
}
INNER = {"videomae": "videomae", "timesformer": "timesformer", "vivit": "vivit"} | dict.fromkeys(
    ["clip", "siglip"], "vision_model"
)
CHANGED = 2e-5  # what another order of sums may change, in standard deviations


def saved(kind: str, folder: Path, **values: Any) -> nn.Module:
    """Returns a small network of the family `kind` with random weights, which it saves in `folder` as users have it."""
    family = FAMILIES[kind]
    module = importlib.import_module(f"transformers.models.{family.module}")
    given = CONFIGS[kind] | {"image_size": SIDE} | values
    whole = {"clip": "CLIPConfig", "siglip": "SiglipConfig"}.get(kind, family.config)
    if kind in ("clip", "siglip"):
        given |= {"text_config": WIDE | {"vocab_size": 50, "eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 1}}
    torch.manual_seed(0)
    network: nn.Module = getattr(module, SAVED.get(kind, family.network))(getattr(module, whole)(**given)).eval()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    network.save_pretrained(folder)
    how = SQUEEZED if kind in ("dinov3_vit", "siglip") else CROPPED
    stated = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5], "rescale_factor": 1 / 255} | how
    stated |= {"rescale_factor": 1 / 127.5, "offset": True} if kind == "vivit" else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return network


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, nn.Module]]:
    """Returns family -> (folder, the network that was saved there)."""
    root = tmp_path_factory.mktemp("transformers")
    return {kind: (root / kind, saved(kind, root / kind)) for kind in CONFIGS}


@pytest.fixture
def copied(networks: dict[str, tuple[Path, nn.Module]], tmp_path: Path) -> Callable[[str], Path]:
    """Returns a function from a family to a folder of its network, which a test may change."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(networks[kind][0], tmp_path / kind))

    return copy


def change(file: Path, **values: Any) -> None:
    """Sets keys of a JSON file. A value None removes the key."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def described(folder: Path) -> BackboneEntry:
    return entry(f"transformers/{folder}")


def clips(num_clips: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(num_clips, 3, FRAMES, side, side, generator=torch.Generator().manual_seed(1))


def run(folder: Path, x: Tensor, **outputs: Any) -> dict[str, Tensor]:
    taps = [tap.name for tap in described(folder).taps]
    network = build_backbone(f"transformers/{folder}", "pretrained", taps, **outputs)
    with torch.inference_mode():
        maps: dict[str, Tensor] = network(x)
    return maps


def tokens_of(kind: str, network: nn.Module, x: Tensor, **arguments: Any) -> list[Tensor]:
    """Returns the tokens after each layer, and after the final norm where the network norms all tokens."""
    inner: Any = getattr(network, INNER.get(kind, ""), network)
    taken = x.transpose(1, 2)  # [B, T, 3, H, W]
    taken = taken.flatten(0, 1) if FAMILIES[kind].sees_single_frames else taken
    with torch.inference_mode():
        result = inner(taken, output_hidden_states=True, **FAMILIES[kind].arguments, **arguments)
    return [*result.hidden_states[1:], *([] if kind == "clip" else [result.last_hidden_state])]


def token_index(kind: str, t: int, h: int, w: int) -> int:
    """Returns the position of a patch among the tokens, as perturbing the patch shows it in each package."""
    if kind == "timesformer":
        return 1 + (h * CELLS + w) * FRAMES + t
    first = {"videomae": 0, "vjepa2": 0, "siglip": 0, "dinov2_with_registers": 5, "dinov3_vit": 5}.get(kind, 1)
    return first + (t * CELLS + h) * CELLS + w


def require_equal(ours: Tensor, theirs: Tensor) -> None:
    difference, std = (ours - theirs).double(), float(theirs.double().std())
    assert ours.shape == theirs.shape
    assert float(difference.square().mean().sqrt()) <= 1e-5 * std
    assert float(difference.abs().max()) <= 5e-5 * std


@pytest.mark.parametrize("kind", CONFIGS)
def test_maps_are_the_tokens_of_the_package_at_their_places(
    kind: str, networks: dict[str, tuple[Path, nn.Module]]
) -> None:
    (folder, network), x = networks[kind], clips()
    maps = run(folder, x)
    known = described(folder)
    is_image = FAMILIES[kind].sees_single_frames
    names = ["layer_0", "layer_1", *([] if kind == "clip" else ["norm"])]
    for name, tokens in zip(names, tokens_of(kind, network, x), strict=True):
        assert tuple(maps[name].transpose(1, 2).shape) == (2, *known.tap(name).shape(FRAMES, SIDE))
        for t in range(maps[name].shape[2]):
            at = torch.tensor([token_index(kind, 0 if is_image else t, h, w) for h in range(4) for w in range(4)])
            of_frame = tokens.view(2, FRAMES, *tokens.shape[1:])[:, t] if is_image else tokens
            require_equal(maps[name][:, :, t].flatten(2), of_frame[:, at].transpose(1, 2))
    assert maps.keys() == {*names}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_patch_that_changes_is_found_where_it_lies(kind: str, networks: dict[str, tuple[Path, nn.Module]]) -> None:
    x = clips(1)
    patched, (t, h, w) = x.clone(), (5, 2, 1)
    patched[:, :, t, h * 16 : h * 16 + 16, w * 16 : w * 16 + 16] += 5
    folder = networks[kind][0]
    changes = (run(folder, patched)["layer_0"] - run(folder, x)["layer_0"]).square().sum(1)[0]  # [T', H', W']
    step = described(folder).taps[0].temporal_stride
    assert torch.unravel_index(changes.argmax(), changes.shape) == (t // step, h, w)


@pytest.mark.parametrize("kind", ["timesformer", "vivit", "dinov2_with_registers", "dinov3_vit", "clip"])
def test_class_tokens_are_those_of_the_package(kind: str, networks: dict[str, tuple[Path, nn.Module]]) -> None:
    (folder, network), x = networks[kind], clips()
    ours = run(folder, x, tokens="both")
    tap = described(folder).taps[-1]
    theirs = tokens_of(kind, network, x)[-1][:, 0].view(2, -1, 32)
    require_equal(ours[f"{tap.name}_class"], theirs)
    assert tuple(theirs.shape) == (2, *tap.class_shape(FRAMES))


@pytest.mark.parametrize(("kind", "channels"), [("clip", 24), ("siglip", 32)])
def test_the_head_is_what_the_package_makes_of_an_image(
    kind: str, channels: int, networks: dict[str, tuple[Path, nn.Module]]
) -> None:
    (folder, network), x = networks[kind], clips()
    network_of_any_type: Any = network
    with torch.inference_mode():
        result = network_of_any_type.get_image_features(x.transpose(1, 2).flatten(0, 1))
        low = build_backbone(f"transformers/{folder}", "pretrained", ["layer_0"], head=True)(x)
    theirs = getattr(result, "pooler_output", result)
    require_equal(low["head"], theirs.view(2, FRAMES, channels))
    require_equal(low["layer_0"], run(folder, x)["layer_0"])
    assert described(folder).head_shape(FRAMES) == (FRAMES, channels)


@pytest.mark.parametrize(
    ("kind", "network_class"),
    [("videomae", "VideoMAEForVideoClassification"), ("vjepa2", "VJEPA2ForVideoClassification")],
)
def test_the_head_of_a_classifier_is_what_its_classifier_reads(
    kind: str, network_class: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAVED, kind, network_class)
    network: Any = saved(kind, tmp_path, use_mean_pooling=True, num_pooler_layers=1, num_labels=7)
    given: list[Tensor] = []
    network.classifier.register_forward_hook(lambda module, arguments, output: given.append(arguments[0]))
    with torch.inference_mode():
        network(clips().transpose(1, 2))
        low = build_backbone(f"transformers/{tmp_path}", "pretrained", ["layer_0"], head=True)(clips())
    require_equal(low["head"], given[0])
    assert described(tmp_path).head_shape(FRAMES) == (32,)
    theirs = tokens_of(kind, network.get_submodule(kind), clips())
    maps = run(tmp_path, clips())
    assert [*maps] == ["layer_0", "layer_1", *(["norm"] if kind == "vjepa2" else [])]
    require_equal(maps["layer_1"].flatten(2), theirs[1].transpose(1, 2))


def test_the_table_of_positions_moves_with_the_network(networks: dict[str, tuple[Path, nn.Module]]) -> None:
    """VideoMAE has it as a plain tensor, which no call of `to` would move."""
    network: Any = build_backbone(f"transformers/{networks['videomae'][0]}", "pretrained", ["layer_0"])
    table = network.network.embeddings.position_embeddings
    original: Any = networks["videomae"][1]
    assert torch.equal(table, original.videomae.embeddings.position_embeddings)
    assert network.to("meta").network.embeddings.position_embeddings.is_meta
    assert not any("position" in name for name in network.state_dict())


@pytest.mark.parametrize("kind", ["videomae", "vjepa2", "dinov3_vit", "siglip"])
def test_layers_above_the_highest_tap_are_gone(kind: str, networks: dict[str, tuple[Path, nn.Module]]) -> None:
    model = f"transformers/{networks[kind][0]}"
    low = build_backbone(model, "pretrained", ["layer_0"])
    with torch.inference_mode():
        require_equal(low(clips())["layer_0"], run(networks[kind][0], clips())["layer_0"])
    names = [*low.state_dict()]
    assert not any(".1." in name or "norm." in name.replace("layernorm_", "") for name in names if "layer" in name)
    assert not any(name.startswith(("network.predictor", "network.head", "network.pooler")) for name in names)


def test_vjepa2_numbers_rows_and_columns_of_the_input_and_not_of_the_config(
    networks: dict[str, tuple[Path, nn.Module]], tmp_path: Path
) -> None:
    folder, network = networks["vjepa2"]
    larger: Any = saved("vjepa2", tmp_path / "larger", crop_size=80)
    larger.load_state_dict(network.state_dict())
    x = clips(1, 80)
    tokens = tokens_of("vjepa2", larger, x)[-1]
    maps = run(folder, x)["norm"]
    require_equal(maps.flatten(2), tokens.transpose(1, 2))
    of_config = tokens_of("vjepa2", network, x)[-1]
    assert float((tokens - of_config).std()) > 0.001 * float(tokens.std()), "the package itself takes the config's"
    require_equal(run(folder, clips())["norm"], run(folder, clips())["norm"])


@pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip"])
def test_positions_are_resampled_as_the_package_does(kind: str, networks: dict[str, tuple[Path, nn.Module]]) -> None:
    (folder, network), x = networks[kind], clips(1, 96)
    arguments = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    theirs = tokens_of(kind, network, x, **arguments)[-1][:, described(folder).taps[0].class_token is not None :]
    maps = run(folder, x)[described(folder).taps[-1].name]
    require_equal(maps[0].flatten(2).permute(1, 2, 0), theirs)


def test_what_only_one_input_fits_is_refused(networks: dict[str, tuple[Path, nn.Module]]) -> None:
    shapes = {kind: described(networks[kind][0]).taps[0].shape for kind in CONFIGS}
    for kind in ("videomae", "timesformer", "vivit"):
        with pytest.raises(ValueError, match="size 80 px: layer_0 needs exactly 64 px"):
            shapes[kind](FRAMES, 80)
        with pytest.raises(ValueError, match="16 frames: layer_0 needs exactly 8"):
            shapes[kind](16, SIDE)
    with pytest.raises(ValueError, match="7 frames: layer_0 needs a multiple of 2"):
        shapes["vjepa2"](7, SIDE)
    for kind in ("vjepa2", "dinov2", "dinov3_vit", "clip", "siglip"):
        with pytest.raises(ValueError, match="size 75 px: layer_0 needs a multiple of 16"):
            shapes[kind](FRAMES, 75)


def test_an_own_size_that_the_patches_do_not_divide_is_the_only_one(copied: Callable[[str], Path]) -> None:
    folder = copied("siglip")
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    change(folder / "config.json", vision_config=vision | {"patch_size": 14, "image_size": 40})
    tap = described(folder).taps[0]
    assert tap.shape(1, 40) == (1, 32, 2, 2)
    with pytest.raises(ValueError, match="needs exactly 40 px"):
        tap.shape(1, 42)


def test_random_weights_need_no_weights_file_and_depend_on_the_seed_alone(copied: Callable[[str], Path]) -> None:
    folder = copied("videomae")
    (folder / "model.safetensors").unlink()
    before = torch.random.get_rng_state()
    first, again, other = (
        build_backbone(f"transformers/{folder}", f"random:{seed}", ["layer_0"]) for seed in (0, 0, 1)
    )
    digests = [backbone_digest(x, described(folder), "random:0") for x in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_may_be_in_several_files_and_in_half_precision(copied: Callable[[str], Path]) -> None:
    folder, x = copied("dinov2"), clips(1)
    state = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    whole = run(folder, x)
    one = backbone_digest(
        build_backbone(f"transformers/{folder}", "pretrained", ["norm"]), described(folder), "pretrained"
    )
    (folder / "model.safetensors").unlink()
    parts = {f"model-0000{i}-of-00002.safetensors": [*state][i::2] for i in (0, 1)}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, folder / file, {"format": "pt"})
    where = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where))
    for name, maps in run(folder, x).items():
        assert maps.dtype == torch.float32
        assert torch.equal(maps, whole[name])
    network = build_backbone(f"transformers/{folder}", "pretrained", ["norm"])
    assert len({one, backbone_digest(network, described(folder), "pretrained")}) == 2
    next(folder.glob("model-00001*")).unlink()
    with pytest.raises(WeightsError, match=r"index\.json: names \['model-00001-of-00002\.safetensors'\]"):
        run(folder, x)


def refused(folder: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        build_backbone(f"transformers/{folder}", "pretrained", ["layer_0"])


def test_every_tensor_is_used_or_left_out_for_a_reason(copied: Callable[[str], Path]) -> None:
    folder = copied("videomae")
    file = folder / "model.safetensors"
    state = load_file(file)
    lacking = dict(state)
    del lacking["videomae.encoder.layer.1.attention.attention.q_bias"]
    save_file(lacking, file, {"format": "pt"})
    refused(folder, r"in the network only: encoder\.layer\.1\.attention\.attention\.query\.bias$")
    save_file(state | {"videomae.extra.weight": torch.zeros(2)}, file, {"format": "pt"})
    refused(folder, r"in the file only: .*extra\.weight$")
    short = {"videomae.encoder.layer.1.attention.attention.q_bias": torch.zeros(2)}
    save_file(state | short, file, {"format": "pt"})
    refused(folder, r"of another shape: .*query\.bias \[2\], here \[32\]$")
    save_file(state, file, {"format": "pt"})
    change(folder / "config.json", num_hidden_layers=1)
    refused(folder, r"in the file only: .*encoder\.layer\.1\.")
    change(folder / "config.json", num_hidden_layers=3)
    refused(folder, r"in the network only: encoder\.layer\.2\.")


def test_values_that_the_package_changes_while_it_loads_are_refused(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases before 5.18 loaded the biases of VideoMAE as zeros, and their report named nothing that raises."""
    loaded = transformers_load._loaded

    def without_biases(*arguments: Any) -> Any:
        network, report = loaded(*arguments)
        network.encoder.layer[0].attention.attention.query.bias.data.zero_()
        return network, report

    monkeypatch.setattr(transformers_load, "_loaded", without_biases)
    refused(copied("videomae"), r"changed the values of: encoder\.layer\.0\.attention\.attention\.query\.bias$")


def test_folders_that_are_not_what_they_should_be(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied("dinov2")
    config = folder / "config.json"
    for faulty, match in (
        ({"auto_map": {"AutoModel": "modeling.Net"}}, "config.json: has auto_map, so the network is Python code"),
        ({"model_type": "siglip2"}, "model_type is 'siglip2', allowed: videomae, vjepa2.* have the model_type siglip"),
        ({"model_type": "hiera"}, "timm has this network: `model: timm/hiera_base_224`"),
        ({"model_type": "rt_detr"}, "Name it under `proposals`, with `source: transformers`"),
        ({"model_type": "vjepa2_1"}, "Features that another program made come in with `kinegraph import`"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers: given 'two', allowed: a whole number above 0"),
        ({"num_channels": 1}, "num_channels: given 1, allowed: 3"),
        ({"patch_size": [[16], [16]]}, "patch_size: given .* allowed: a whole number above 0"),
    ):
        whole = config.read_text()
        change(config, **faulty)
        with pytest.raises(ValueError, match=match):
            described(folder)
        config.write_text(whole)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "has no model.safetensors. pytorch_model.bin is a pickle, which is not read")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    refused(folder, r"model\.safetensors: cannot be read as safetensors")
    with pytest.raises(ValueError, match=r"a folder with a config\.json"):
        entry(f"transformers/{tmp_path}")
    with pytest.raises(ValueError, match="kinegraph downloads nothing here: hf download some/network"):
        entry("transformers/some/network")


@pytest.mark.parametrize("weights", ["pretrained", "random:0"])
def test_values_that_the_package_refuses_are_refused_with_their_file(
    weights: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("dinov2")
    for faulty in ({"hidden_act": "no_such"}, {"hidden_dropout_prob": "much"}):
        whole = (folder / "config.json").read_text()
        change(folder / "config.json", **faulty)
        with pytest.raises(WeightsError, match=r"config\.json: transformers cannot build this Dinov2Model: "):
            build_backbone(f"transformers/{folder}", weights, ["layer_0"])
        (folder / "config.json").write_text(whole)


def test_a_file_of_the_package_is_no_file_of_kinegraph(networks: dict[str, tuple[Path, nn.Module]]) -> None:
    folder = networks["dinov2"][0]
    for file in (folder / "model.safetensors", folder / "no_such.safetensors"):
        with pytest.raises(WeightsError, match="\nSet `weights: pretrained` for the weights of the folder"):
            build_backbone(f"transformers/{folder}", str(file), ["layer_0"])


def test_a_kernel_that_a_config_asks_for_is_not_fetched(copied: Callable[[str], Path]) -> None:
    folder = copied("vivit")
    change(folder / "config.json", _attn_implementation="kernels-community/flash-attn", dtype="float16")
    network: Any = build_backbone(f"transformers/{folder}", "pretrained", ["norm"])
    assert network.network.config._attn_implementation == "sdpa"
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_repositories_of_the_hub_are_read_from_its_cache(
    networks: dict[str, tuple[Path, nn.Module]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--someone--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123")
    shutil.copytree(networks["dinov2"][0], repository / "snapshots" / "0123")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert read_folder("someone/net").path == repository / "snapshots" / "0123"
    assert entry("transformers/someone/net").identity == described(networks["dinov2"][0]).identity


def options_of(folder: Path, **values: Any) -> Recipe:
    backbone = {"model": f"transformers/{folder}", "weights": "pretrained", "taps": ["layer_1"]} | values
    return Recipe.model_validate({"clips": {"num_frames": FRAMES}, "backbones": {"vit": backbone}})


def advised(recipe: Recipe, *crops: str) -> list[str]:
    clips_options = {"num_frames": FRAMES} | ({"crops": crops} if crops else {})
    document = recipe.model_dump(exclude={"dataset"}) | {"cache": "c", "clips": clips_options}
    return advice(Config.model_validate(document))


def test_pixels_are_those_of_the_processor(
    networks: dict[str, tuple[Path, nn.Module]], copied: Callable[[str], Path]
) -> None:
    recipe = options_of(networks["videomae"][0])
    assert pixels_of(recipe.backbones["vit"]).mean == (0.5, 0.4, 0.3)
    framing = recipe.framing_of("vit")
    assert (framing.size, framing.resize_short, framing.resize) == (SIDE, 72, "pillow")
    squeezed = options_of(networks["siglip"][0]).framing_of("vit")
    assert (squeezed.size, squeezed.resize_short, squeezed.resize) == (SIDE, None, "bicubic")
    assert "was tested on whole frames, squeezed into a square" in advised(options_of(networks["siglip"][0]))[0]
    assert advised(options_of(networks["siglip"][0]), "full") == []
    vjepa = options_of(networks["vjepa2"][0]).framing_of("vit")
    assert vjepa.resize_short == SIDE * 256 // 224, "its processor ignores `size`"
    pixels = pixels_of(options_of(networks["vivit"][0]).backbones["vit"])  # (2 x - 1 - mean) / std for x in 0..1
    assert pixels.mean == pytest.approx((0.75, 0.7, 0.65))
    assert pixels.std == pytest.approx((0.1, 0.125, 0.25))
    other = options_of(networks["siglip"][0], size=96)
    assert framing_of(other.backbones["vit"], other.entry_of("vit")).resize == "pillow"
    folder = copied("dinov2")
    change(folder / "preprocessor_config.json", resample=1, do_normalize=False, do_rescale=False)
    told = advised(options_of(folder))
    assert "backbones.vit: preprocessor_config.json resizes frames with lanczos" in told[0]
    assert pixels_of(options_of(folder).backbones["vit"]).std == pytest.approx((1 / 255,) * 3)


@pytest.mark.parametrize(
    ("kind", "name"), [("clip", "CLIPImageProcessorPil"), ("videomae", "VideoMAEImageProcessorPil")]
)
def test_pixels_are_those_that_the_processor_of_the_package_makes(
    kind: str, name: str, networks: dict[str, tuple[Path, nn.Module]]
) -> None:
    module = importlib.import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    processor = getattr(module, name).from_pretrained(networks[kind][0])
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"]).reshape(3, SIDE, SIDE)
    recipe = options_of(networks[kind][0])
    pixels = FramePixels.of(image).square(recipe.square_of("vit"), clip_row(Path("v"), [0.0], crop_name="center"))
    ours = Normalised(_Kept(), pixels_of(recipe.backbones["vit"]))
    frames = ours(torch.from_numpy(pixels.copy())[None, None])["kept"][0, 0]  # [3, S, S]
    np.testing.assert_allclose(frames.numpy(), theirs, atol=1e-5)


class _Kept(nn.Module):
    """A network that returns its input [B, 3, T, S, S]."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kept": x}


@pytest.mark.parametrize(
    ("kind", "stated", "match"),
    [
        ("dinov2", {"image_mean": None}, "has no image_mean"),
        ("vivit", {"offset": None}, "has no offset"),
        ("dinov2", {"do_resize": False}, "do_resize: given false, allowed: true"),
        ("dinov2", {"crop_size": {"height": 64, "width": 32}}, "crop_size: given .*equal `height` and `width`"),
        ("dinov2", {"image_std": [1, 0, 1]}, "image_std: given .* allowed: above 0"),
        ("dinov2", {"image_std": [1, 1]}, "image_std: given .* three numbers"),
        ("dinov2", {"size": {"longest_edge": 64}}, "size: given"),
        ("dinov2", {"size": [72, 72]}, r"size: given \[72, 72\], allowed: a whole number of px"),
        ("dinov2", {"crop_size": [64, 64]}, r"crop_size: given \[64, 64\], allowed: a whole number of px"),
        ("dinov2", {"resample": ["bicubic"]}, "resample: given .*, allowed: the number of a filter of Pillow"),
        ("videomae", {"crop_size": 48}, "makes an input of 48 px, and the network of config.json takes 64 px only"),
        ("timesformer", {"num_frames": 16}, "makes an input of 16 frames, .* takes 8 frames only"),
    ],
)
def test_processors_that_do_not_fit_are_refused(
    kind: str, stated: dict[str, Any], match: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(kind)
    change(folder / "preprocessor_config.json", **stated)
    with pytest.raises(ValueError, match=match):
        described(folder)


def test_without_a_processor_the_error_shows_one(copied: Callable[[str], Path]) -> None:
    folder = copied("dinov2")
    file = folder / "preprocessor_config.json"
    file.unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json") as raised:
        described(folder)
    file.write_text(str(raised.value)[str(raised.value).index("{") :])
    assert described(folder).size == 224


def test_the_fingerprint_knows_the_content_and_not_the_path(
    networks: dict[str, tuple[Path, nn.Module]], copied: Callable[[str], Path]
) -> None:
    folder = copied("videomae")
    here, there = described(networks["videomae"][0]), described(folder)
    assert here.identity == there.identity
    assert here.identity["model"] == "transformers/videomae"
    change(folder / "config.json", transformers_version="6.0", id2label={"0": "run"})
    assert described(folder).identity == here.identity
    change(folder / "config.json", layer_norm_eps=1e-6)
    assert described(folder).identity != here.identity
    document = options_of(folder.parent / "." / folder.name).document()
    assert document["backbones"]["vit"]["model"] == f"transformers/{folder.resolve()}"


def test_a_folder_that_has_changed_is_named(copied: Callable[[str], Path]) -> None:
    folder, kind = copied("dinov2"), kind_of("features")
    clip_stage = {"clips": kind_of("clips").declare(options_of(folder), "clips", {}, "")}
    cached = kind.declare(options_of(folder), "features/vit", clip_stage, "0" * 64)
    change(folder / "config.json", layer_norm_eps=1e-3)
    for digest, told in (("0" * 64, "config.json"), ("1" * 64, "config.json and the weights"), ("?", "config.json")):
        asked = kind.declare(options_of(folder), "features/vit", clip_stage, digest)
        assert f"changed since the cache was made: {told}. Put" in kind.keys_to_set(cached, asked)
    assert kind.keys_to_set(cached, cached) == ""


@pytest.mark.parametrize("kind", FAMILIES)
def test_defaults_are_those_of_the_package(kind: str) -> None:
    family = FAMILIES[kind]
    module = importlib.import_module(f"transformers.models.{family.module}")
    config = getattr(module, family.config)()
    named = {key for key in family.defaults if key not in ("patch_size", "image_size", "num_channels")}
    theirs = {key: getattr(config, key) for key in {*named, family.patch}}
    assert {key: [*x] if isinstance(x, tuple) else x for key, x in theirs.items()} == {
        key: family.defaults[key] for key in theirs
    }
    assert getattr(config, family.size) == family.defaults[family.size]


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "siglip_vision_model"])  # the network of siglip
def test_the_list_tells_what_the_usual_network_counts(kind: str) -> None:
    """Its GMACs are those of torch's counter, on a device without values."""
    family = FAMILIES[kind]
    folder, form = usual_network(family), family.counts
    with torch.device("meta"):
        network = TransformersNetwork(folder, build(folder)).eval()
        network.want(class_tokens=False, head=folder.head_channels is not None)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(torch.empty(1, 3, form.num_frames, form.size, form.size))
    assert sum(parameter.numel() for parameter in network.parameters()) == form.num_params
    assert round(counter.get_total_flops() / 2e9, 3) == form.gmacs


@pytest.mark.parametrize(
    ("kind", "millions", "gmacs"),
    [
        ("clip", 87.85, 8.82 / 2),  # open_clip's model_profile.csv, which counts two operations per multiplication
        ("siglip", 92.88, 35.42 / 2),  # the same file, ViT-B-16-SigLIP
        ("timesformer", None, 588 / 3),  # mmaction2's metafile of TimeSformer, with its classifier, of three crops
    ],
)
def test_the_usual_network_counts_what_is_published(kind: str, millions: float | None, gmacs: float) -> None:
    counts = FAMILIES[kind].counts
    assert counts.gmacs == pytest.approx(gmacs, rel=0.005)
    assert millions is None or counts.num_params / 1e6 == pytest.approx(millions, rel=0.005)

"""Detectors of transformers: the boxes, scores and classes of the package, from folders that it has saved.

All tests of the package's detectors are in this file, because its import takes seconds.
"""

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from kinegraph.cli.printing.one_network import network as print_network
from kinegraph.pipeline.models import network as network_row
from kinegraph.stages.errors import UsageError, WeightsError
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.proposals import from_transformers
from kinegraph.stages.proposals.from_transformers import load_detector
from kinegraph.stages.proposals.options import TransformersOptions
from kinegraph.stages.proposals.source import ClipProposals
from kinegraph.stages.proposals.transformers_detectors import DETECTORS, read_detector
from kinegraph.stages.recipe import Recipe
from tests.stages.proposals.source_contract import HEIGHT, WIDTH, SourceContract, built, clip_of, drawn

pytest.importorskip("transformers")

CLASSES = ("cup", "person", "N/A", "N/A", "dog")
QUERIES, WIDE = 20, 32
NETWORKS: dict[str, dict[str, Any]] = {
    "detr": {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": WIDE},
    "rt_detr": {
        "encoder_hidden_dim": WIDE,
        "encoder_in_channels": [8, 16, 16],
        "decoder_in_channels": [WIDE] * 3,
        "encoder_ffn_dim": WIDE,
        "encoder_attention_heads": 2,
        "decoder_layers": 1,
    },
}
BACKBONES: dict[str, dict[str, Any]] = {
    "detr": {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1], "out_features": ["stage2"]},
    "rt_detr": {
        "model_type": "rt_detr_resnet",
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
    },
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "detr": {"size": 64, "max_size": 80, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]},
    "rt_detr": {
        "size": {"height": 64, "width": 96},
        "do_normalize": False,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.5],
        "resample": 2,
    },
}
for settings in (NETWORKS, BACKBONES, PROCESSORS):
    settings["rt_detr_v2"] = settings["rt_detr"]
NETWORKS["rt_detr_v2"] = NETWORKS["rt_detr"] | {"decoder_layers": 2}  # the package cannot build it with one layer
SIZES = {"detr": (59, 80), "rt_detr": (64, 96), "rt_detr_v2": (64, 96)}  # of a frame of HEIGHT x WIDTH px


def saved(kind: str, folder: Path) -> nn.Module:
    """Returns a small detector with random weights, which it saves in `folder` as users have it."""
    family = DETECTORS[kind]
    module = importlib.import_module(f"transformers.models.{family.module}")
    config = getattr(module, family.config)(
        backbone_config=BACKBONES[kind] | {"embedding_size": 8, "layer_type": "basic"},
        id2label=dict(enumerate(CLASSES)),
        d_model=WIDE,
        num_queries=QUERIES,
        decoder_attention_heads=2,
        decoder_ffn_dim=WIDE,
        **NETWORKS[kind],
    )
    torch.manual_seed(0)
    network: nn.Module = getattr(module, family.network)(config).eval()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    last = f"model.decoder.class_embed.{NETWORKS[kind]['decoder_layers'] - 1}"
    classifier = "class_labels_classifier" if kind == "detr" else last
    head: Any = network.get_submodule(classifier)
    with torch.no_grad():  # as a head with one mean for all classes, which finds several of them
        head.bias -= network(torch.rand(1, 3, 64, 96)).logits[0].mean(0)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    return network


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, nn.Module]]:
    """Returns kind -> (folder, the network that was saved there)."""
    root = tmp_path_factory.mktemp("detectors")
    return {kind: (root / kind, saved(kind, root / kind)) for kind in NETWORKS}


@pytest.fixture
def copied(networks: dict[str, tuple[Path, nn.Module]], tmp_path: Path) -> Callable[[str], Path]:
    """Returns a function from a kind to a folder of its network, which a test may change."""
    return lambda kind: Path(shutil.copytree(networks[kind][0], tmp_path / kind))


def change(file: Path, **values: Any) -> None:
    """Sets keys of a JSON file. A value None removes the key."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def options_of(folder: Path, **more: Any) -> TransformersOptions:
    return TransformersOptions(source="transformers", model=f"transformers/{folder}", **{"top": 12} | more)


def recipe_of(folder: Path) -> Recipe:
    proposals = {"source": "transformers", "model": f"transformers/{folder}", "every": 2}
    return Recipe.model_validate({"clips": {"num_frames": 4}, "proposals": proposals})


class TestDetr(SourceContract):
    @pytest.fixture
    def options(self, networks: dict[str, tuple[Path, nn.Module]]) -> TransformersOptions:
        return options_of(networks["detr"][0])


class TestRtDetr(SourceContract):
    @pytest.fixture
    def options(self, networks: dict[str, tuple[Path, nn.Module]]) -> TransformersOptions:
        return options_of(networks["rt_detr"][0])


@pytest.mark.parametrize("kind", NETWORKS)
def test_boxes_scores_and_classes_are_those_of_the_package(
    networks: dict[str, tuple[Path, nn.Module]], kind: str
) -> None:
    folder, network = networks[kind]
    options, frames = options_of(folder, top=QUERIES), drawn(3)
    assert options.input_size(HEIGHT, WIDTH) == SIZES[kind]
    found = built(options).propose(clip_of(frames, options))
    assert found.labels is not None
    for t, frame in enumerate(frames):
        boxes, scores, labels = _expected(kind, network, folder, frame)
        num = found.count[t]
        assert num == len(boxes) > QUERIES // 2
        np.testing.assert_allclose(found.boxes[t, :num], boxes, atol=5e-4)
        np.testing.assert_allclose(found.scores[t, :num], scores, atol=1e-5)
        assert found.labels[t, :num].tolist() == labels.tolist()
        assert (found.labels[t, num:] == -1).all()
    assert len({*found.labels[found.labels >= 0].tolist()}) > 1


def _expected(kind: str, network: nn.Module, folder: Path, frame: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns (boxes, scores, classes) of one frame, best first, as the package's processor and network make them."""
    its = kind.removesuffix("_v2")
    module = importlib.import_module(f"transformers.models.{its}.image_processing_pil_{its}")
    name = {"detr": "DetrImageProcessorPil", "rt_detr": "RTDetrImageProcessorPil"}[its]
    processor = getattr(module, name).from_pretrained(folder)
    with torch.inference_mode():
        result = network(**processor(images=Image.fromarray(frame), return_tensors="pt"))
    if kind == "detr":
        told = processor.post_process_object_detection(result, threshold=0.0, target_sizes=[(HEIGHT, WIDTH)])[0]
        boxes, scores, labels = (told[name].numpy() for name in ("boxes", "scores", "labels"))
    else:
        x, y, width, height = result.pred_boxes[0].numpy().T * np.array([[WIDTH], [HEIGHT], [WIDTH], [HEIGHT]])
        boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
        probabilities = result.logits[0].sigmoid().numpy()
        scores, labels = probabilities.max(1), probabilities.argmax(1)
    boxes = np.clip(boxes, 0, [WIDTH, HEIGHT] * 2)
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    return boxes[order], scores[order], labels[order]


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (1080, 1920), (333, 1000), (800, 900), (90, 122)])
def test_sides_are_rounded_as_in_the_package(networks: dict[str, tuple[Path, nn.Module]], size: Any) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    detector = replace(read_detector(f"transformers/{networks['detr'][0]}"), size=(800, 1333))
    assert detector.input_size(*size) == get_size_with_aspect_ratio(size, 800, 1333)


def test_suppression_only_where_it_is_asked_for(networks: dict[str, tuple[Path, nn.Module]]) -> None:
    def most(**more: Any) -> tuple[ClipProposals, float]:
        options = options_of(networks["detr"][0], top=QUERIES, **more)
        found = built(options).propose(clip_of(drawn(1), options))
        boxes = torch.from_numpy(found.boxes[0, : found.count[0]])
        return found, box_iou(boxes, boxes).fill_diagonal_(0).max().item()

    (every, before), (fewer, after) = most(), most(nms_threshold=0.5)
    assert before > 0.5 >= after
    assert 1 <= fewer.count[0] < every.count[0]
    assert fewer.scores[0, 0] == every.scores[0, 0]


def test_the_stage_has_labels_and_the_names_of_classes(copied: Callable[[str], Path]) -> None:
    """The place of the folder does not matter, and the values in its files do."""
    folder = copied("detr")
    recipe, kind = recipe_of(folder), kind_of("proposals")
    kind.check(recipe)
    clips = kind_of("clips").declare(recipe, "clips", {}, "")
    stage = kind.declare(recipe, "proposals", {"clips": clips}, "0" * 64)
    arrays = {spec.name: spec for spec in stage.arrays}
    assert (arrays["proposals/labels"].shape, arrays["proposals/labels"].dtype) == ((2, 50), "int16")
    assert arrays["proposals/scores"].about.startswith("probability")
    assert stage.options["labels"] == [*CLASSES]
    assert str(folder) not in json.dumps(stage.options)
    assert recipe.document()["proposals"]["model"] == f"transformers/{folder.resolve()}"

    moved = folder.rename(folder.with_name("moved"))
    again = kind.declare(recipe_of(moved), "proposals", {"clips": clips}, "0" * 64)
    assert again.fingerprint == stage.fingerprint
    change(moved / "config.json", id2label=dict(enumerate(("mug", *CLASSES[1:]))))
    assert kind.declare(recipe_of(moved), "proposals", {"clips": clips}, "0" * 64).fingerprint != stage.fingerprint


def test_the_story_of_a_folder(networks: dict[str, tuple[Path, nn.Module]], capsys: pytest.CaptureFixture[str]) -> None:
    row = network_row(f"transformers/{networks['rt_detr'][0]}")
    print_network(row)
    told = capsys.readouterr().out
    assert "proposals: {source: transformers, model:" in told
    assert "parameters:   not counted, usual input: 1 frame of 96 x 64 px" in told
    assert row["classes"] == [*CLASSES]


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"model_type": "yolos"}, "'yolos', allowed: detr, rt_detr, rt_detr_v2. Boxes of another"),
        (
            "config.json",
            {"model_type": "grounding-dino"},
            r"Write its boxes to files, with their classes: `proposals: \{",
        ),
        ("config.json", {"auto_map": {"AutoModel": "code.Net"}}, "kinegraph runs no such code"),
        ("config.json", {"id2label": {"1": "cup", "2": "dog"}}, "id2label: allowed: the names .* numbered from 0"),
        ("preprocessor_config.json", {"resample": 3}, "resample: given 3, allowed: 2, which is bilinear"),
        ("preprocessor_config.json", {"pad_size": {"height": 9, "width": 9}}, "pad_size: given"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize: given False, allowed: true"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}}, "size: given .*allowed: `height` and `width`"),
        ("preprocessor_config.json", {"max_size": None}, "size: given 64, allowed"),
        ("preprocessor_config.json", {"image_std": None}, "has no image_mean or no image_std"),
    ],
)
def test_folders_that_are_refused_with_the_config(
    copied: Callable[[str], Path], file: str, values: dict[str, Any], message: str
) -> None:
    folder = copied("detr")
    change(folder / file, **values)
    with pytest.raises(ValueError, match=f"^proposals.model: .*{message}"):
        kind_of("proposals").check(recipe_of(folder))


def test_a_folder_of_another_size_or_without_a_processor_or_config(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("rt_detr")
    change(folder / "preprocessor_config.json", size={"height": 64, "width": 80})
    with pytest.raises(ValueError, match=r"size: given \[64, 80\], allowed: `height` and `width`, multiples of 32"):
        kind_of("proposals").check(recipe_of(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json"):
        kind_of("proposals").check(recipe_of(folder))
    with pytest.raises(ValueError, match="kinegraph downloads nothing here"):
        kind_of("proposals").check(recipe_of(tmp_path / "nothing"))


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
@pytest.mark.parametrize(("change_of", "message"), [("missing", "in the network only"), ("extra", "in the file only")])
def test_every_tensor_is_used_and_there(copied: Callable[[str], Path], kind: str, change_of: str, message: str) -> None:
    folder = copied(kind)
    state = load_file(folder / "model.safetensors")
    if change_of == "missing":
        del state[next(name for name in state if name.endswith("layers.0.self_attn.q_proj.bias"))]
    else:
        state["model.other"] = torch.ones(1)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=message):
        load_detector(read_detector(f"transformers/{folder}"))


def test_a_pickle_is_not_read(copied: Callable[[str], Path]) -> None:
    folder = copied("detr")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="is a pickle, which is not read"):
        load_detector(read_detector(f"transformers/{folder}"))


@pytest.mark.parametrize(
    "backbone",
    [
        {"backbone_config": None, "use_timm_backbone": True, "backbone": "resnet50", "use_pretrained_backbone": True},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet50", "use_pretrained_backbone": True}},
    ],
)
def test_no_pretrained_backbone_is_fetched(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, backbone: dict[str, Any]
) -> None:
    folder, configs = copied("detr"), []

    def load(path: Path, network_class: Any, config: Any) -> nn.Module:
        configs.append(config)
        return nn.Identity()

    monkeypatch.setattr(from_transformers, "load_network", load)
    change(folder / "config.json", **backbone)
    load_detector(read_detector(f"transformers/{folder}"))
    assert configs[0].backbone_config.backbone == "resnet50"
    assert configs[0].backbone_config.use_pretrained_backbone is False


def test_timm_is_named_where_it_is_missing(copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any) -> nn.Module:
        raise WeightsError("not built") from ImportError("TimmBackbone requires the timm library")

    monkeypatch.setattr(from_transformers, "load_network", load)
    with pytest.raises(UsageError, match=r"needs timm: pip install 'kinegraph\[timm\]'"):
        load_detector(read_detector(f"transformers/{copied('detr')}"))


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2"])  # the first RT-DETR has the same numbers
def test_the_list_tells_what_the_usual_detector_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GMACs are counted on a device without values. The package would look at the values of masks there."""
    pytest.importorskip("timm")
    family = DETECTORS[kind]
    module = importlib.import_module(f"transformers.models.{family.module}")
    monkeypatch.setattr(module, "create_bidirectional_mask", lambda **given: None, raising=False)
    monkeypatch.setattr(module, "torch_compilable_check", lambda *given: None, raising=False)
    config = getattr(module, family.config)()
    config.backbone_config.use_pretrained_backbone = False
    with torch.device("meta"):
        network = getattr(module, family.network)(config).eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(pixel_values=torch.empty(1, 3, *family.counted_size))
    assert sum(parameter.numel() for parameter in network.parameters()) == family.num_params
    assert round(counter.get_total_flops() / 2e9, 3) == family.gmacs


def test_rt_detr_counts_what_is_published() -> None:
    """The paper has 42 M and 136 G, with two operations for each multiplication. The GMACs here are 1.05 % more."""
    counted = DETECTORS["rt_detr"]
    assert round(counted.num_params / 1e6) in (42, 43)
    assert 1.01 < 2 * counted.gmacs / 136 < 1.011

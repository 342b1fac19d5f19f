import pytest
import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kinegraph.stages.proposals.build import PROPOSERS
from kinegraph.stages.proposals.catalogue import COUNTED_FRAME, PROPOSALS, entry
from kinegraph.stages.proposals.options import ProposalOptions
from kinegraph.stages.proposals.rpn import RpnProposer
from kinegraph.stages.proposals.selection import pad_images


def test_every_proposal_network_has_an_entry_and_a_builder() -> None:
    assert PROPOSALS.keys() == PROPOSERS.keys()
    assert all(known.name == name for name, known in PROPOSALS.items())


@pytest.mark.parametrize("model", PROPOSALS)
def test_the_catalogue_tells_what_the_networks_count(model: str) -> None:
    known = PROPOSALS[model]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        network = PROPOSERS[model]("random:0").eval()
        maps = network.backbone(pad_images(torch.empty(1, 3, *known.input_size(*COUNTED_FRAME)), 32))
        network.rpn.head([*maps.values()]) if isinstance(network, RpnProposer) else network.head(maps)
    assert sum(parameter.numel() for parameter in network.parameters()) == known.num_params
    assert round(counter.get_total_flops() / 2e9, 3) == known.gmacs


@pytest.mark.parametrize("model", PROPOSALS)
def test_a_config_of_the_source_can_name_the_network(model: str) -> None:
    chosen = {"model": model} if PROPOSALS[model].source == "torchvision" else {}
    given = {"source": PROPOSALS[model].source, "weights": next(iter(PROPOSALS[model].weights)), **chosen}
    assert TypeAdapter(ProposalOptions).validate_python(given).network == model


@pytest.mark.parametrize("model", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"])
@pytest.mark.parametrize("size", [(240, 320), (320, 240), (100, 177), (101, 176), (256, 800), (1080, 1920), (7, 7)])
def test_frames_are_resized_as_torchvision_does(model: str, size: tuple[int, int]) -> None:
    known = PROPOSALS[model]
    transform = GeneralizedRCNNTransform(known.short_side, known.max_side, known.mean, known.std).eval()
    images, _ = transform([torch.zeros(3, *size)])
    assert known.input_size(*size) == images.image_sizes[0]


def test_an_extreme_frame_keeps_at_least_a_pixel() -> None:
    assert entry("fasterrcnn_resnet50_fpn").input_size(1, 4000) == (1, 1333)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2"):
        entry("fasterrcnn")


@pytest.mark.parametrize("model", [name for name in PROPOSALS if name.startswith("fasterrcnn_")])
def test_public_files_are_those_that_torchvision_names(model: str) -> None:
    theirs = {weights.name.lower(): weights.url for weights in get_model_weights(model)}
    assert {name: source.url for name, source in PROPOSALS[model].weights.items()} == theirs


def test_another_short_side_keeps_the_proportions() -> None:
    known = entry("detectron2_fpn")
    assert known.at(None) is known
    assert known.at(256).input_size(240, 320) == (256, 341)
    assert known.at(400).input_size(100, 400) == (167, 666)  # half of 800 and 1333


@pytest.mark.parametrize(
    ("frame", "size"),
    [((240, 320), (800, 1067)), ((480, 270), (1333, 750)), ((7, 4000), (2, 1333)), ((1, 4000), (1, 1333))],
)
def test_detectron2_rounds_half_up(frame: tuple[int, int], size: tuple[int, int]) -> None:
    assert entry("detectron2_fpn").input_size(*frame) == size

"""What is said about clips that are far from those that the weights were trained on, and what fingerprints hold."""

from typing import Any

import pytest

from kinegraph.pipeline.caches.advice import advice
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import Config


def config(tiny_document: dict[str, Any], clips: dict[str, Any] | None = None, **backbone: Any) -> Config:
    entry = {"model": "i3d_r50", "weights": "slowfast_8x8", "taps": ["res5"]} | backbone
    clips = {"num_frames": 8, "sampling": "dense", "fps": 3.75} | (clips or {})
    return Config(**tiny_document | {"clips": clips, "backbones": {"x": entry}, "regions": None})


@pytest.mark.parametrize(
    ("clips", "backbone"),
    [
        ({}, {}),
        ({"num_frames": 12, "fps": 6}, {}),
        ({}, {"weights": "nonlocal_net_8x8"}),
        ({"num_frames": 16, "fps": 7.5}, {"every": 2}),
        ({"num_frames": 32, "fps": 30}, {"weights": "random:0"}),
        ({"num_frames": 32, "fps": 30}, {"weights": "/data/mine.pkl"}),
        ({"num_frames": 32, "fps": 30}, {"model": "resnet50", "weights": "imagenet1k_v2"}),
        ({"sampling": "uniform"}, {"model": "tsm_r50", "weights": "something_v2_8"}),
        ({"sampling": "uniform", "fps": "native"}, {"model": "tsm_r50", "weights": "something_v2_8"}),
        ({"num_frames": 32, "fps": "native", "frame_step": 2}, {}),
    ],
)
def test_nothing_is_said_where_it_fits_or_nothing_is_known(
    tiny_document: dict[str, Any], clips: dict[str, Any], backbone: dict[str, Any]
) -> None:
    assert advice(config(tiny_document, clips, **backbone)) == []


@pytest.mark.parametrize(
    ("clips", "backbone", "told"),
    [
        ({"num_frames": 32, "fps": 6}, {}, "was trained on 8 frames at 3.75 fps, here it gets 32 frames at 6 fps"),
        ({"fps": 30}, {}, "here it gets 8 frames at 30 fps"),
        ({"sampling": "uniform"}, {"weights": "/data/I3D_8x8_R50.pkl"}, "here it gets 8 frames over the whole video"),
        ({}, {"model": "tsm_r50", "weights": "something_v2_8"}, "on 8 frames over the whole video, here it gets"),
        ({"sampling": "uniform", "fps": "native"}, {}, "here it gets 8 frames over the whole video"),
        ({}, {"size": 96}, "was trained on about 256 px, here it gets 96 px"),
        ({}, {"options": {"geometry": "paper"}}, "was trained with res5_stride 2 (here 1) (options)"),
        (
            {},
            {"weights": "nonlocal_net_8x8", "options": {"pool1_padding": 1, "stem_time_stride": 2}},
            "was trained with stem_time_stride 1 (here 2), pool1_padding 0 (here 1) (options)",
        ),
    ],
)
def test_clips_and_sizes_far_from_the_trained_ones_are_named(
    tiny_document: dict[str, Any], clips: dict[str, Any], backbone: dict[str, Any], told: str
) -> None:
    (sentence,) = advice(config(tiny_document, clips, **backbone))
    assert sentence.startswith("backbones.x: ")
    assert told in sentence


def recorded(tiny_document: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    size = {"size": 224}  # not that of the weights, who bring along how frames are resized then
    return dict(declare(config(tiny_document, **size | backbone), {}).stages["features/x"].options)


def test_pixels_enter_the_fingerprint_where_they_are_not_the_usual_ones(tiny_document: dict[str, Any]) -> None:
    usual = recorded(tiny_document, model="slowonly_r50", weights="random:0")
    assert not usual.keys() & {"pixels", "mean", "std", "channel_order"}
    assert recorded(tiny_document, model="slowonly_r50", weights="pytorchvideo_8x8") == usual
    bgr = {"mean": [0.45] * 3, "std": [0.225] * 3, "channel_order": "BGR"}
    charades = recorded(tiny_document, model="slowonly_r50", weights="pytorchvideo_charades_8x8")
    assert charades == usual | {"pixels": bgr}
    assert recorded(tiny_document, model="slowonly_r50", weights="random:0", channel_order="BGR") == charades
    back = recorded(tiny_document, model="slowonly_r50", weights="pytorchvideo_charades_8x8", channel_order="RGB")
    assert back == usual


def test_geometry_enters_the_fingerprint_where_it_is_not_that_of_the_paper(tiny_document: dict[str, Any]) -> None:
    paper = recorded(tiny_document, weights="random:0")
    assert "options" not in paper
    trained = recorded(tiny_document)
    assert trained == paper | {"options": {"res5_stride": 2}}
    assert recorded(tiny_document, weights="/data/mine.pkl", options={"res5_stride": 2}) == trained
    assert recorded(tiny_document, options={"geometry": "paper"}) == paper

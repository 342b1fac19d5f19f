import torch
from torchvision.ops import box_iou

from kinegraph.stages.generated.interactions import interaction
from kinegraph.stages.proposals.build import build_proposer
from kinegraph.stages.proposals.catalogue import entry
from kinegraph.stages.proposals.tiny_rpn import TinyPyramid


def test_pyramid_levels() -> None:
    pyramid = TinyPyramid()(torch.zeros(2, 3, 96, 64))
    assert {name: tuple(x.shape) for name, x in pyramid.items()} == {"0": (2, 32, 24, 16), "1": (2, 32, 12, 8)}


def test_size() -> None:
    proposer = build_proposer("tiny_rpn", "random:0")
    assert sum(parameter.numel() for parameter in proposer.parameters()) == 79_701


def test_takes_the_demos_frames_as_they_are() -> None:
    assert entry("tiny_rpn").input_size(96, 96) == (96, 96)


def test_shipped_boxes_find_things_with_unseen_digits() -> None:
    proposer = build_proposer("tiny_rpn", "shipped")
    found = []
    for index in range(20):
        clip = interaction(5, "test", index)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[::4]
        with torch.inference_mode():
            proposals = proposer(frames, top=5)
        assert (proposals.scores[:, :-1] >= proposals.scores[:, 1:]).all()
        for boxes, truth in zip(proposals.boxes, torch.from_numpy(clip.boxes[::4]), strict=True):
            found.append(box_iou(truth, boxes).amax(1) > 0.5)
    assert torch.cat(found).float().mean() >= 0.98

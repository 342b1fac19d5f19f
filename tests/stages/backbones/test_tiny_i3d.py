import pytest
import torch

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.tiny_i3d import TinyI3D
from kinegraph.stages.generated.interactions import interaction
from kinegraph.stages.generated.tiny_networks import batches, directions
from kinegraph.stages.regions.roi import region_features


def test_maps_have_the_catalogues_shapes() -> None:
    known = entry("tiny_i3d")
    with torch.inference_mode():
        maps = TinyI3D().eval()(torch.zeros(2, 3, 16, known.size, known.size))
    assert {name: tuple(x.transpose(1, 2).shape[1:]) for name, x in maps.items()} == {
        tap.name: tap.shape(16, known.size) for tap in known.taps
    }
    assert maps["res4"].shape == (2, 96, 8, 12, 12)


def test_size() -> None:
    assert sum(parameter.numel() for parameter in TinyI3D().parameters()) == 183_216


def test_cut_runs_no_further_than_the_highest_tap() -> None:
    network = TinyI3D()
    network.cut(["res3"])
    assert not hasattr(network, "res4")
    assert set(network(torch.zeros(1, 3, 4, 32, 32))) == {"res3"}


def test_shipped_features_tell_where_unseen_things_move() -> None:
    """A linear map from res4's regions gives each thing's velocity; chance is a correlation of 0."""
    network = build_backbone("tiny_i3d", "shipped", ["res4"])
    known = entry("tiny_i3d")
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (known.mean, known.std))
    features, velocities = [], []
    for index in range(24):
        clip = interaction(5, "test", index)
        frames = torch.from_numpy(clip.frames).permute(3, 0, 1, 2) / 255
        with torch.inference_mode():
            maps = network(((frames - mean) / std)[None])["res4"][0].transpose(0, 1)  # [T', C, H, W]
        boxes = torch.from_numpy(clip.boxes)
        features.append(
            region_features(maps, boxes[::2], torch.ones(8, 4, dtype=torch.bool), stride=8).features.flatten(0, 1)
        )
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        velocities.append(torch.gradient(centres, dim=0)[0][::2].flatten(0, 1))
    x, y = torch.cat(features), torch.cat(velocities)
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    half = len(x) // 2
    weights = torch.linalg.solve(x[:half].T @ x[:half] + torch.eye(x.shape[1]), x[:half].T @ y[:half])
    predicted = x[half:] @ weights
    error = (predicted - y[half:]).square().mean() / y[half:].square().mean()
    assert error < 0.35


def test_directions_are_octants_and_still() -> None:
    velocities = torch.tensor([[2.0, 0.1], [0.0, 2.0], [-2.0, -0.1], [1.0, -1.0], [0.1, 0.1]])
    assert directions(velocities).tolist() == [0, 2, 4, 7, 8]


def test_training_batches_repeat_and_stay_inside_the_frame() -> None:
    first, again = next(batches(3, 1, 2)), next(batches(3, 1, 2))
    assert torch.equal(first.frames, again.frames)
    assert first.boxes.shape == (2, 8, 4, 4)
    assert first.boxes.min() >= 0
    assert first.boxes.max() <= 96
    assert not torch.equal(next(batches(4, 1, 2)).boxes, first.boxes)


@pytest.mark.parametrize("name", ["res2", "res4"])
def test_shipped_maps_are_finite_in_float16(name: str) -> None:
    network = build_backbone("tiny_i3d", "shipped", [name])
    frames = torch.randn(1, 3, 16, 96, 96) * 2
    with torch.inference_mode():
        largest = network(frames)[name].abs().max()
    assert 0 < largest < 1000

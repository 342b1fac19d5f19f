"""SyncMNIST's backbones: sizes as published, what they see, and what the shipped weights know."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.sync_cnn import WIDTHS
from kinegraph.stages.datasets.options import SyncMnistOptions
from kinegraph.stages.generated.sync_mnist import SyncMnist, choose_digits, constant, draw_digits
from kinegraph.stages.generated.sync_networks import CellClassifier, scenes
from kinegraph.stages.heads.build import build_head

SMALL = SyncMnist(
    options=SyncMnistOptions(
        kind="sync_mnist", root="unused", motion="constant", num_digits=3, digit_values=4, val_images=100
    )
)


def maps_of(network: torch.nn.Module, frames: Tensor) -> Tensor:
    """The last maps [B, T, C, 6, 6] of grey frames [B, T, 64, 64] in 0..1."""
    with torch.inference_mode():
        found: Tensor = network(frames[:, None].expand(-1, 3, -1, -1, -1))["block3"].transpose(1, 2)
    return found


@pytest.mark.parametrize(("name", "rows"), [("sync_cnn", [3]), ("tiny_sync_cnn", [1, 2, 3])])
def test_how_many_frames_a_map_sees(name: str, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(WIDTHS, name, (4, 4, 4))  # for speed
    network = untrained(name)
    frames = torch.rand(1, 7, 64, 64)
    changed = frames.clone()
    changed[:, 3] = torch.rand(64, 64)
    differs = (maps_of(network, frames) != maps_of(network, changed)).flatten(2).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == rows  # row 1 of the slim one is around frame 2


def test_the_released_model_has_its_size() -> None:
    """Backbone and positional all-temp graph of the released config (about 10.57 million parameters)."""
    with torch.device("meta"):
        backbone = untrained("sync_cnn")
    head = build_head(
        "rstg", {"features/cnn/block3": (10, 512, 6, 6)}, 46, norm="batch", attention="tf_sum", positional=True
    )
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (backbone, head)]
    assert counts[0] == 4_724_736
    lstms, send, update, norm, classifier = 2 * 2_101_248, 824_320, 787_456, 2 * 512, 46 * 513
    attention = 2 * (512 + 1) + 512  # two projections to a number with their biases, and the bias of the sum
    assert counts[1] == lstms + send + update + attention + norm + classifier
    assert sum(counts) == 10_565_168


def test_pre_training_shows_digits_that_move_on_their_own() -> None:
    clips, again = (next(scenes(SMALL, 3, 1, 6)) for _ in range(2))
    assert torch.equal(clips.frames, again.frames)
    assert clips.frames.shape == (6, 5, 64, 64)
    assert all(len(set(values)) == 3 and max(values) < 4 for values in clips.values.tolist())
    steps = clips.centres.diff(dim=1)  # [6, 4, 3, 2]
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-4)
    assert not torch.isclose(steps[:, 0, 0], steps[:, 0, 1]).all(-1).any()
    for row, column in clips.centres[:, 2].round().long().flatten(0, 1).tolist():
        assert clips.frames[:, 2, row - 8 : row + 9, column - 8 : column + 9].any()


def test_pre_training_teaches_the_cells_on_a_digit_and_every_weight() -> None:
    model = CellClassifier("tiny_sync_cnn", 4)
    who, is_digit = model._owners(torch.tensor([[[[11.0, 19.0], [51.0, 51.0]]]]), 6)
    assert is_digit[0, 0].sum() == 2 * 1  # the next cells are 8 px away, which is not nearer than REACH_PX
    assert is_digit[0, 0, 0, 1]
    assert is_digit[0, 0, 5, 5]
    assert (who[0, 0, 0, 1], who[0, 0, 5, 5]) == (0, 1)
    loss, _ = model(next(scenes(SMALL, 3, 1, 2)))
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_shipped_maps_tell_unseen_digits_and_how_they_move() -> None:
    """A linear map from the cell nearest to a digit, among two others; chance is 0.25 and an error of 1."""
    network, images = build_backbone("tiny_sync_cnn", "shipped", ["block3"]), SMALL.images("test")
    rng = np.random.default_rng(5)
    casts = [choose_digits(rng, images, index % len(images), 3, 4) for index in range(200)]
    corners = np.stack([constant(rng, 3, False) for _ in casts])[:, ::2]  # [200, 5, 3, 2]
    frames = [
        draw_digits([images.images[i] for i in roles.image_indices], at)
        for roles, at in zip(casts, corners, strict=True)
    ]
    maps = maps_of(network, torch.from_numpy(np.stack(frames)) / 255)  # [200, 3, C, 6, 6]
    cells = torch.from_numpy(((corners[:, 2] + 14) * 0.64 - 11) / 8).round().long().clamp(0, 5)  # [200, 3, 2]
    x = maps[torch.arange(200)[:, None], 1, :, cells[..., 0], cells[..., 1]]  # [200, 3, C]
    x = torch.cat([x, torch.ones(200, 3, 1)], -1)
    values = torch.tensor([roles.values for roles in casts])
    steps = torch.from_numpy(corners[:, 1] - corners[:, 0]).float()
    y = torch.cat([F.one_hot(values, 4).float(), steps], -1)
    seen, wanted = x[:140].flatten(0, 1), y[:140].flatten(0, 1)
    fitted = torch.linalg.solve(seen.T @ seen + 1e-2 * torch.eye(x.shape[-1]), seen.T @ wanted)
    found = x[140:] @ fitted
    assert (found[..., :4].argmax(-1) == values[140:]).float().mean() > 0.75
    assert (found[..., 4:] - steps[140:]).square().mean() / steps[140:].square().mean() < 0.2

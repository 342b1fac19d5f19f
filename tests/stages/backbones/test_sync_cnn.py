"""SyncMNIST's backbones: sizes as published, what they see, and what the shipped weights know."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.backbones.build import build_backbone, untrained
from stages.backbones.sync_cnn import WIDTHS
from stages.clips.options import SyncMnistOptions
from stages.clips.sync_mnist import SyncMnist, constant, drawn
from stages.heads.build import build_head
from stages.training.sync_networks import DigitClassifier, batches


def maps_of(network: torch.nn.Module, frames: Tensor) -> Tensor:
    """The last maps [B, T, C, 6, 6] of grey frames [B, T, 64, 64] in 0..1."""
    with torch.inference_mode():
        found: Tensor = network(frames[:, None].expand(-1, 3, -1, -1, -1))["block3"].transpose(1, 2)
    return found


@pytest.mark.parametrize(("name", "rows"), [("sync_cnn", [2]), ("tiny_sync_cnn", [1])])
def test_how_many_frames_a_map_sees(name: str, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(WIDTHS, name, (4, 4, 4))  # for speed
    network = untrained(name)
    frames = torch.rand(1, 5, 64, 64)
    changed = frames.clone()
    changed[:, 2] = torch.rand(64, 64)
    differs = (maps_of(network, frames) != maps_of(network, changed)).flatten(2).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == rows  # row 1 of the slim one is frame 2


def test_the_released_model_has_its_size() -> None:
    """Backbone and positional all-temp graph of the released config: about 10.57 million parameters."""
    with torch.device("meta"):
        backbone = untrained("sync_cnn")
    head = build_head(
        "rstg", {"features/cnn/block3": (10, 512, 6, 6)}, 46, norm="batch", attention="tf_simple", positional=True
    )
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (backbone, head)]
    assert counts[0] == 4_724_736
    assert sum(counts) == pytest.approx(10.57e6, rel=1e-3)


def test_pre_training_shows_single_moving_digits_and_learns_from_them() -> None:
    (frames, values, steps), again = (next(batches("constant", None, 100, 1, 6)) for _ in range(2))
    assert torch.equal(frames, again[0])
    assert frames.shape == (6, 10, 64, 64)
    assert steps.shape == (6, 9, 2)
    assert (steps == steps[:, :1]).all()
    model = DigitClassifier("tiny_sync_cnn")
    loss, _ = model(frames, values, steps)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_shipped_maps_tell_unseen_digits_and_how_they_move() -> None:
    """A linear map from the mean of a map; chance is 0.1 for the value and an error of 1 for the velocity."""
    network = build_backbone("tiny_sync_cnn", "shipped", ["block3"])
    data_set = SyncMnist(options=SyncMnistOptions(kind="sync_mnist", root="unused", motion="constant"))
    images = data_set.images("test")
    rng, frames, steps = np.random.default_rng(5), [], []
    for image in images.images[:300]:
        corners = constant(rng, 1, False)
        frames.append(drawn([image], corners))
        steps.append(corners[1, 0] - corners[0, 0])
    pooled = maps_of(network, torch.from_numpy(np.stack(frames)) / 255)[:, 1:].mean((3, 4))  # [300, 4, C]
    x = torch.cat([pooled, torch.ones(300, 4, 1)], -1)
    values = torch.from_numpy(images.values[:300]).long()
    y = torch.cat([F.one_hot(values, 10).float(), torch.from_numpy(np.stack(steps)).float()], 1)
    seen = x[:200].flatten(0, 1)
    wanted = y[:200].repeat_interleave(4, 0)
    fitted = torch.linalg.solve(seen.T @ seen + 1e-4 * torch.eye(x.shape[-1]), seen.T @ wanted)
    found = (x[200:] @ fitted).mean(1)
    assert (found[:, :10].argmax(1) == values[200:]).float().mean() > 0.75
    assert (found[:, 10:] - y[200:, 10:]).square().mean() / y[200:, 10:].square().mean() < 0.2

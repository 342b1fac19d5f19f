"""Random clips with regions: B clips, T frames, N regions a frame, C channels."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
T, N, C = 5, 4, 12


class Lively(Protocol):
    def __call__(self, network: Network) -> Network: ...


@pytest.fixture
def spec() -> dict[str, tuple[int, ...]]:
    return {
        "features/i3d/res5_pooled": (T, C),
        "features/i3d/res5": (T, C, 3, 3),
        "clips/crop": (4,),
        "proposals/boxes": (T, N, 4),
        "proposals/scores": (T, N),
        "proposals/count": (T,),
        "regions/i3d/res5": (T, N, C),
        "tracks/id": (T, N),
        "graphs/times": (T,),
        "graphs/count": (T,),
        "graphs/objects": (T, N),
        "graphs/linked": (T, N),
        "graphs/relations": (T, N, 3),
    }


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Clips with overlapping boxes and full graphs, all regions valid, in float64."""

    def make(num_clips: int = 3, frames: int = T, regions: int = N, channels: int = C) -> Batch:
        corners = torch.rand(num_clips, frames, regions, 2, dtype=torch.float64) * 60
        sizes = 20 + torch.rand(num_clips, frames, regions, 2, dtype=torch.float64) * 40
        return {
            "features/i3d/res5_pooled": torch.randn(num_clips, frames, channels, dtype=torch.float64),
            "proposals/boxes": torch.cat([corners, corners + sizes], -1),
            "proposals/count": torch.full((num_clips, frames), regions, dtype=torch.int16),
            "regions/i3d/res5": torch.randn(num_clips, frames, regions, channels, dtype=torch.float64),
            "features/i3d/res5": torch.randn(num_clips, frames, channels, 3, 3, dtype=torch.float64),
            "clips/crop": torch.tensor([10.0, 0.0, 90.0, 80.0], dtype=torch.float64).expand(num_clips, 4),
            "tracks/id": torch.rand(num_clips, frames, regions).argsort(-1).int(),
            "graphs/times": torch.arange(frames, dtype=torch.float64).expand(num_clips, frames),
            "graphs/count": torch.full((num_clips, frames), regions, dtype=torch.int16),
            "graphs/objects": torch.randint(1, 36, (num_clips, frames, regions)).short(),
            "graphs/linked": torch.randint(0, 2, (num_clips, frames, regions)).to(torch.uint8),
            "graphs/relations": torch.randint(0, 2, (num_clips, frames, regions, 3)).to(torch.uint8),
        }

    return make


@pytest.fixture
def lively() -> Lively:
    """Random weights and BatchNorm statistics everywhere, float64, evaluation mode: nothing is hidden by a zero."""

    def enliven(network: Network) -> Network:
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
        for name, statistic in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                nn.init.uniform_(statistic, 0.5, 1.5)
        return network.double().eval()

    return enliven


def learns_by_heart(head: nn.Module, batch: Batch, labels: Tensor, learning_rate: float, steps: int) -> bool:
    """Whether training on the batch comes to give every clip its label. Looks after every tenth step."""
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        functional.cross_entropy(head(batch), labels).backward()
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                is_learned = bool((head.eval()(batch).argmax(1) == labels).all())
            if is_learned:
                return True
            head.train()
    return False

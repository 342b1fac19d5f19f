"""A data set in memory, and a task that a linear head can learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

POOLED = "features/tiny/res5_pooled"


@dataclass
class ClipsInMemory:
    pooled: Tensor  # [clips, T, C]
    labels: Tensor
    num_classes: int
    video_ids: Sequence[str]
    failed_labels: Tensor
    cache_fingerprint: str = "f00d"
    batches: list[list[int]] = field(default_factory=list)  # what was read

    @property
    def spec(self) -> dict[str, tuple[int, ...]]:
        return {POOLED: tuple(self.pooled.shape[1:]), "proposals/count": (4,)}

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    @property
    def failed_videos(self) -> list[str]:
        return [f"failed{index}.mp4" for index in range(len(self.failed_labels))]

    @property
    def videos(self) -> list[str]:
        return list(dict.fromkeys([*self.video_ids, *self.failed_videos]))

    def __len__(self) -> int:
        return len(self.pooled)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        self.batches.append(list(indices))
        index = torch.tensor(indices)
        return {POOLED: self.pooled[index], "labels": self.labels[index], "clip_index": index}


@pytest.fixture
def make_clips() -> Callable[..., ClipsInMemory]:
    """Noisy clips whose class is the largest of the first channels; labels may be given instead."""

    def make(
        num_clips: int = 40,
        num_classes: int = 3,
        labels: Tensor | None = None,
        video_ids: Sequence[str] | None = None,
        failed_labels: Tensor | None = None,
        multi_label: bool = False,
    ) -> ClipsInMemory:
        pooled = torch.randn(num_clips, 4, 8)
        score = pooled.mean(1)[:, :num_classes]
        learnable = (score > 0).float() if multi_label else score.argmax(1)
        labels = learnable if labels is None else labels
        return ClipsInMemory(
            pooled=pooled,
            labels=labels,
            num_classes=num_classes,
            video_ids=video_ids or [f"{index:03d}.mp4" for index in range(num_clips)],
            failed_labels=labels[:0] if failed_labels is None else failed_labels,
        )

    return make

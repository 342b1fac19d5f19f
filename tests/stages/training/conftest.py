"""A task that a linear head can learn."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tests.stages.training.clips_in_memory import ClipsInMemory


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

"""A data set in memory. Imports no pytest, which a machine with a GPU may lack."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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

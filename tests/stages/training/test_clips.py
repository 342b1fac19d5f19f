"""What tells one list of clips from another, and how batches of clips in memory are read."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kinegraph.stages.heads.head import MASK
from kinegraph.stages.training import clips as module
from kinegraph.stages.training.clips import clips_identity, read_batches
from tests.stages.training.clips_in_memory import POOLED, ClipsInMemory
from tests.stages.training.resuming import clips


def test_clips_are_known_by_videos_labels_and_failures() -> None:
    first = clips(0, 6)
    relabelled = replace(first, labels=first.labels.roll(1))
    renamed = replace(first, video_ids=[*first.video_ids[:-1], "other"])
    failed = replace(first, failed_labels=torch.tensor([0]))
    failed_otherwise = replace(first, failed_labels=torch.tensor([1]))
    found = [clips_identity(each) for each in (first, relabelled, renamed, failed, failed_otherwise)]
    assert len({each["digest"] for each in found}) == len(found)
    assert clips_identity(clips(0, 6)) == found[0]
    assert (found[3]["clips"], found[3]["failed_videos"]) == (6, 1)


class _AtOnce(ClipsInMemory):
    batches_ahead = 0


class _Masked(_AtOnce):
    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return super().batch(indices) | {MASK: torch.ones(len(indices), 1, dtype=torch.bool)}


@pytest.mark.parametrize(("kind", "reads"), [(_AtOnce, [3, 6, 4]), (_Masked, [3, 3, 3, 3, 1])])
def test_small_batches_in_memory_are_read_several_at_a_time(
    kind: type[ClipsInMemory], reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = clips(0, 13)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    names, cpu = (POOLED, "labels"), torch.device("cpu")
    of_three = sum(x.nbytes for name, x in plain.batch([0, 1, 2]).items() if name in names)
    monkeypatch.setattr(module, "BYTES_TOGETHER", 2 * of_three + 1)
    at_once = kind(**vars(plain) | {"batches": []})
    found, expected = ([*read_batches(each, order, 3, names, cpu)] for each in (at_once, plain))
    assert len(found) == len(expected) == 5
    for batch, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(batch[name], wanted[name]) for name in names)
    assert [len(indices) for indices in at_once.batches] == reads
    assert [index for indices in at_once.batches for index in indices] == order.tolist()

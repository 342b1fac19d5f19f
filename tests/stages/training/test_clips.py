"""What tells one list of clips from another."""

from dataclasses import replace

import torch

from kinegraph.stages.training.clips import clips_identity
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

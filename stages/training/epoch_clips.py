"""Chooses the clips that an epoch of training sees."""

from typing import TypeVar

import torch
import xxhash
from torch import Tensor

from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions

ONE = "one"
Options = TypeVar("Options", bound=TrainOptions)


def with_views_per_epoch(options: Options, clips: Clips) -> Options:
    """Returns `options` with `views_per_epoch` as the training uses it: `one` if an epoch sees one clip of each video,
    None if it sees all clips.

    The value is `one` if a video in `clips` has several clips, unless `options` say `all`. Runs of earlier versions
    have None.
    """
    several = len({*clips.video_ids}) < len(clips)
    value = ONE if several and options.views_per_epoch != "all" else None
    return options.model_copy(update={"views_per_epoch": value})


class EpochClips:
    """The clips of an epoch. An epoch sees all of `clips`, or one clip of each video if `options.views_per_epoch` is
    `one`.
    """

    def __init__(self, clips: Clips, options: TrainOptions) -> None:
        self.seed, self.num_clips = options.seed, len(clips)
        self.clips_of: dict[str, list[int]] = {}
        if options.views_per_epoch == ONE:
            for index, video in enumerate(clips.video_ids):
                self.clips_of.setdefault(video, []).append(index)

    def __len__(self) -> int:
        return len(self.clips_of) or self.num_clips

    def indices(self, epoch: int) -> Tensor:
        """Returns the indices int64 [len(self)] of the clips that the epoch number `epoch` sees, in the order of the
        videos. Epochs are counted from 1.

        The clip of a video depends only on the seed of the run, the epoch and the id of the video.
        """
        if not self.clips_of:
            return torch.arange(self.num_clips)
        chosen = [clips[self._drawn(epoch, video) % len(clips)] for video, clips in self.clips_of.items()]
        return torch.tensor(chosen)

    def _drawn(self, epoch: int, video: str) -> int:
        return xxhash.xxh3_64_intdigest(f"{self.seed} {epoch} {video}".encode())

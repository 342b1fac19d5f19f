"""Chooses the clips on which a head is trained in each epoch."""

from typing import TypeVar

import torch
import xxhash
from torch import Tensor

from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions

ONE = "one"
Options = TypeVar("Options", bound=TrainOptions)


def with_views_per_epoch(options: Options, clips: Clips) -> Options:
    """Returns a copy of `options` in which the option `views_per_epoch` is decided for `clips`. "one" means that an
    epoch trains on one clip of each video. None means that it trains on all clips.

    The result has "one" if a video has several clips and the option is not "all". Otherwise it has None.
    """
    several = len({*clips.video_ids}) < len(clips)
    value = ONE if several and options.views_per_epoch != "all" else None
    return options.model_copy(update={"views_per_epoch": value})


class EpochClips:
    """Chooses the clips of each epoch of a training on `clips`. If `options.views_per_epoch` is "one", an epoch has one
    clip of each video. Otherwise it has all clips. `len` returns the number of clips of an epoch.
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
        """Returns the indices of the clips of the epoch with the number `epoch`, int64 [len(self)]. Epochs are counted
        from 1.

        If an epoch has one clip of each video, this clip is chosen at random. The choice depends only on the seed of
        the run, the epoch and the id of the video.
        """
        if not self.clips_of:
            return torch.arange(self.num_clips)
        chosen = [clips[self._drawn(epoch, video) % len(clips)] for video, clips in self.clips_of.items()]
        return torch.tensor(chosen)

    def _drawn(self, epoch: int, video: str) -> int:
        return xxhash.xxh3_64_intdigest(f"{self.seed} {epoch} {video}".encode())

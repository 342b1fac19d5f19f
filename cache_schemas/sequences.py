"""Reads all clips of a video as one sequence, for torch. The first sample imports torch."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.words import counted

if TYPE_CHECKING:
    from torch import Tensor

PER_VIDEO = ("labels",)  # entries of a sample that have no axis of clips
log = logging.getLogger("kinegraph")


class VideoSequences:
    """Map-style data set for torch whose samples are whole videos. Sample i is the video `video_ids[i]`.

    A sample is a dict of array name -> tensor [N, ...], for the N clips of the video in the order of time. It also has
    `labels` of the whole video: int64 [], or multi-hot float32 [num_classes]. `DataLoader(sequences, batch_size=8,
    collate_fn=sequences.collate)` yields padded batches with masks.

    A video that is only partly extracted is in no sample. `left_out` lists these videos, and a warning is logged.
    Videos whose clips all failed are in `clips.failed_videos`.
    """

    def __init__(self, clips: CachedClips) -> None:
        self.clips = clips
        complete = [video for video in dict.fromkeys(clips.video_ids) if video not in clips.unsealed_videos]
        self.video_ids: list[str] = complete
        self.left_out: list[str] = sorted(clips.unsealed_videos)
        if self.left_out:
            words = f"{counted(len(self.left_out), 'video')} of {clips.cache.root} are not extracted to their end"
            log.warning("left out: %s; go on with `kinegraph extract CONFIG`", words)

    def __len__(self) -> int:
        return len(self.video_ids)

    def __repr__(self) -> str:
        return f"VideoSequences({self.clips.cache.root!r}, {counted(len(self), 'video')}, {list(self.clips.specs)})"

    def __getitem__(self, index: int) -> "dict[str, Tensor]":
        """Returns the video `video_ids[index]` as a dict of array name -> tensor [N, ...] for its N clips. The entry
        `labels` is that of the whole video. Raises IndexError if `index` is out of range.
        """
        sample = self.clips.video(self.video_ids[index])
        return sample | {name: sample[name][0] for name in PER_VIDEO}

    @staticmethod
    def collate(samples: "Sequence[Mapping[str, Tensor]]") -> "dict[str, Tensor]":
        """Joins `samples`, one for each of B videos, to one dict of tensors [B, N, ...]. N is the number of clips of
        the longest video. Shorter videos are filled up with 0.

        The entry `mask`, bool [B, N], is true for each clip of a video and false for each filled place. The entry
        `labels` is [B] or [B, num_classes].
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        padded = partial(pad_sequence, batch_first=True)
        batch = {
            name: (torch.stack if name in PER_VIDEO else padded)([sample[name] for sample in samples])
            for name in samples[0]
        }
        lengths = [len(sample["clip_index"]) for sample in samples]
        batch["mask"] = padded([torch.ones(length, dtype=torch.bool) for length in lengths])
        return batch

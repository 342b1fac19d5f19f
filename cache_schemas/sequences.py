"""Reads the clips of a video as one sequence, for torch. The first sample imports torch."""

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
    """Map-style data set for torch: the videos of `clips`, each as one sequence of its clips in the order of time.
    Sample i is the video `video_ids[i]`.

    A sample is a dict of arrays [N, ...] for the N clips of the video, as `CachedClips.video` returns it. Its entry
    `labels` has only one label for the whole video: int64 [], or multi-hot [num_classes]. `DataLoader(sequences,
    batch_size=8, collate_fn=sequences.collate)` yields batches with masks.

    Videos that are extracted only in part are in no sample, and are listed in `left_out`. A log line says how many they
    are. Videos whose clips all failed are in `clips.failed_videos`.
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
        """Returns the sequence of the video `video_ids[index]`: a dict of array name -> [N, ...] for its N clips, and
        `labels` of the video. Raises IndexError for an index that is out of range.
        """
        sample = self.clips.video(self.video_ids[index])
        return sample | {name: sample[name][0] for name in PER_VIDEO}

    @staticmethod
    def collate(samples: "Sequence[Mapping[str, Tensor]]") -> "dict[str, Tensor]":
        """Returns the B `samples`, one for each video, as one dict of tensors. Sequences of clips are filled up with 0
        to the length N of the longest: [B, N, ...].

        `mask` bool [B, N] is true where a video has a clip, and false where 0 was filled in. `labels` has one entry for
        each video, without an axis of clips.
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

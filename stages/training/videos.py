"""The whole videos of a split for training and evaluation: each video is one sample, the sequence of its windows.

Shapes: B videos of a batch, N windows of the longest of them, T vectors of a window, C channels.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.stages.heads.head import MASK
from kinegraph.stages.heads.padded import even_places
from kinegraph.stages.training.clips import Batch


class CachedVideos:
    """The videos of `clips`, each as one sample for training: the sequence of its windows in the order of time. It is a
    `stages.training.clips.Clips` whose samples are videos.

    A window that failed is left out of its sequence. A video of more than `max_windows` windows has `max_windows` of
    them, taken evenly. With None there is no limit. `num_shortened` counts these videos. A video that is not extracted
    to its end is in no sample and has no score.
    """

    batches_ahead = 1

    def __init__(self, clips: CachedClips, max_windows: int | None = None) -> None:
        self.clips, self.max_windows = clips, max_windows
        complete = [video for video in dict.fromkeys(clips.video_ids) if video not in clips.unsealed_videos]
        self.video_ids: list[str] = complete
        windows = [clips.clips_of(video) for video in self.video_ids]
        self.num_shortened = sum(len(of_video) > self._most(of_video) for of_video in windows)
        self._windows = [self._chosen(of_video) for of_video in windows]

    def _most(self, windows: np.ndarray) -> int:
        return len(windows) if self.max_windows is None else self.max_windows

    def _chosen(self, windows: np.ndarray) -> np.ndarray:
        count = self._most(windows)
        if len(windows) <= count:
            return windows
        places: np.ndarray = even_places(torch.tensor(len(windows)), torch.arange(count), count).numpy()
        return np.asarray(windows[places])

    @property
    def cache(self) -> Cache:
        return self.clips.cache

    @property
    def specs(self) -> Mapping[str, object]:
        return self.clips.specs

    @property
    def spec(self) -> dict[str, tuple[int, ...]]:
        """Returns array name -> shape of one window in the cache. The function `spec_of_videos` turns these shapes into
        shapes of whole videos.
        """
        return self.clips.spec

    @property
    def num_classes(self) -> int:
        return self.clips.num_classes

    @property
    def multi_label(self) -> bool:
        return self.clips.multi_label

    @property
    def cache_fingerprint(self) -> str:
        return self.clips.cache_fingerprint

    @property
    def num_unsealed(self) -> int:
        """Returns the number of windows of the split that are not extracted yet."""
        return self.clips.num_unsealed

    @property
    def counted_ids(self) -> list[str]:
        """Returns one text for each video: its id and its number of windows (`push/1.mp4 12`). Two splits whose videos
        have other windows differ in these texts.
        """
        pairs = zip(self.video_ids, self._windows, strict=True)
        return [f"{video} {len(windows)}" for video, windows in pairs]

    @cached_property
    def labels(self) -> Tensor:
        """Returns the labels of each video, in the order of `video_ids`: multi-hot [videos, num_classes], or int64
        [videos] with -1 for no label.
        """
        return self.clips.batch([int(windows[0]) for windows in self._windows], ())["labels"]

    @property
    def videos(self) -> list[str]:
        """Returns the ids of all videos of the split that are extracted to their end, also of failed videos."""
        return [video for video in self.clips.videos if video not in self.clips.unsealed_videos]

    @property
    def failed_videos(self) -> list[str]:
        """Returns the ids of the videos of which every window failed."""
        return [self.clips.failed_videos[place] for place in self._failed]

    @property
    def failed_labels(self) -> Tensor:
        """Returns the labels of `failed_videos`, in the form of `labels`."""
        return self.clips.failed_labels[torch.tensor(self._failed, dtype=torch.int64)]

    @property
    def _failed(self) -> list[int]:
        failed, unsealed = self.clips.failed_videos, self.clips.unsealed_videos
        return [place for place, video in enumerate(failed) if video not in unsealed]

    def __len__(self) -> int:
        return len(self.video_ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Returns the B videos with the numbers `indices`, from 0, as a dictionary of array name -> [B, N, C]. N is the
        number of windows of the longest video of the batch, and each window has a vector of C numbers. If the cache has
        T vectors for each window, their mean is taken.

        Videos with fewer windows are filled up with 0. The entry `mask` bool [B, N] is true for windows. `labels` has
        the labels of the videos.
        """
        # one video after the other, because the T vectors of all windows of a batch take T times the memory
        videos = [self._video(self._windows[index]) for index in indices]
        batch = {name: pad_sequence([video[name] for video in videos], batch_first=True) for name in self.specs}
        windows = [torch.ones(len(self._windows[index]), dtype=torch.bool) for index in indices]
        return batch | {MASK: pad_sequence(windows, batch_first=True), "labels": self.labels[[*indices]]}

    def _video(self, windows: np.ndarray) -> Batch:
        values = self.clips.batch(windows)
        floats = ((name, values[name].float()) for name in self.specs)
        return {name: x if x.ndim == 2 else x.mean(1) for name, x in floats}


Samples = CachedClips | CachedVideos


def samples_of(clips: CachedClips, over: str, max_windows: int | None) -> Samples:
    """Returns the samples for training: `clips` themselves, or their whole videos if `over` is "videos".

    `over` and `max_windows` are options of training.
    """
    return CachedVideos(clips, max_windows) if over == "videos" else clips

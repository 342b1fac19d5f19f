"""Offers whole videos as samples for training and evaluation. A sample is the sequence of the windows of a video. A
window is a clip of a video that is cut into clips of equal length.

Shapes: B videos of a batch, N windows of the longest video of the batch, T vectors of a window, C channels.
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
from kinegraph.stages.heads.padded import middle_index
from kinegraph.stages.training.clips import Batch


class CachedVideos:
    """The whole videos of a split as samples for training and evaluation. A sample is the sequence of all windows of a
    video. A window is a clip of the cache.

    - `clips`: the windows of the split.
    - `max_windows`: the largest number of windows of a sample. A longer video has this many windows, evenly spaced.
      None means no limit.

    `num_shortened` is the number of videos that were longer. Windows that failed are left out, and videos that are not
    extracted completely.
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
        chosen: np.ndarray = middle_index(torch.tensor(len(windows)), torch.arange(count), count).numpy()
        return np.asarray(windows[chosen])

    @property
    def cache(self) -> Cache:
        return self.clips.cache

    @property
    def specs(self) -> Mapping[str, object]:
        return self.clips.specs

    @property
    def spec(self) -> dict[str, tuple[int, ...]]:
        """Returns {name of the array: shape of one window}. The function `spec_of_videos` turns these shapes into
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
        """Returns one string for each video, with the id and the number of windows of the video, such as "push/1.mp4
        12". The strings identify the samples of a split.
        """
        pairs = zip(self.video_ids, self._windows, strict=True)
        return [f"{video} {len(windows)}" for video, windows in pairs]

    @cached_property
    def labels(self) -> Tensor:
        """Returns the labels of the videos in the order of `video_ids`: int64 [videos] with -1 for no label. If a video
        may have several labels, the result is multi-hot [videos, num_classes].
        """
        return self.clips.batch([int(windows[0]) for windows in self._windows], ())["labels"]

    @property
    def videos(self) -> list[str]:
        """Returns the ids of all videos of the split whose windows are all extracted. Videos of which every window
        failed are included.
        """
        return [video for video in self.clips.videos if video not in self.clips.unsealed_videos]

    @property
    def failed_videos(self) -> list[str]:
        """Returns the ids of the videos of which every window failed."""
        return [self.clips.failed_videos[place] for place in self._failed]

    @property
    def failed_labels(self) -> Tensor:
        """Returns the labels of `failed_videos`, the videos of which every window failed. The result is int64 [videos],
        or multi-hot [videos, num_classes].
        """
        return self.clips.failed_labels[torch.tensor(self._failed, dtype=torch.int64)]

    @property
    def _failed(self) -> list[int]:
        failed, unsealed = self.clips.failed_videos, self.clips.unsealed_videos
        return [place for place, video in enumerate(failed) if video not in unsealed]

    def __len__(self) -> int:
        return len(self.video_ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Returns the B videos with the indices `indices` as {name of the array: values [B, N, C]}. N is the number of
        windows of the longest video. Each window has one vector, which is the mean of its vectors in the cache.

        "mask" is bool [B, N], which is false for the padding after shorter videos. "labels" has the labels of the
        videos.
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
    """Returns the samples on which a head is trained. If `over` is "clips", the result is `clips` itself. If `over` is
    "videos", it is a CachedVideos, in which each sample is a whole video of up to `max_windows` clips.
    """
    return CachedVideos(clips, max_windows) if over == "videos" else clips

"""Frames that windows share go through a 2D network once."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.backbones.catalogue import CATALOGUE
from kinegraph.stages.backbones.sharing import SharedFrames
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.windows import Windows, new_frames
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.recipe import Recipe
from tests.stages.stage_contract import BatchInMemory, clip_row, declared

SIDE, FRAMES = 2, 4
VIDEOS = (9, 5, 4)  # frames of each video, of which windows of 4 frames begin every frame
SQUARE = Square(size=SIDE, resize_short=None, resize="torch", every=1)


def rows_of_windows(hop: int) -> tuple[list[ClipRow], np.ndarray]:
    """The rows of a shard, and the frame [rows, T] that each shows, numbered over all videos."""
    rows, shown = [], []
    for video, length in enumerate(VIDEOS):
        for start in range(0, length - FRAMES + 1, hop):
            times = tuple(float(start + frame) for frame in range(FRAMES))
            rows.append(replace(clip_row(video), clip_id=f"{video}:{start}:center", target_times=times))
            shown.append([100 * video + start + frame for frame in range(FRAMES)])
    return rows, np.array(shown)


@dataclass(kw_only=True)
class WindowBatch(BatchInMemory):
    """Some rows of a shard. The pixels of a frame are its number in `shown`; those of other slots are 0."""

    all_rows: list[ClipRow]
    shown: np.ndarray
    size: int = 3

    @property
    def shard_rows(self) -> list[ClipRow]:
        return self.all_rows

    def pixels(self, square: Square) -> np.ndarray:
        values = np.zeros((self.size, FRAMES), np.uint8)
        values[self.slots] = self.shown[self.offset :][self.slots] % 256
        return np.broadcast_to(values[..., None, None, None], (self.size, FRAMES, SIDE, SIDE, 3))


@dataclass
class Network:
    """Adds its position in the run to each frame. So a frame at another place has other maps."""

    frames: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    def __call__(self, clips: Tensor) -> dict[str, Tensor]:
        assert clips.shape[1:] == (1, SIDE, SIDE, 3)
        values = clips[:, 0, 0, 0, 0].float()
        self.frames += [int(value) for value in values if value]
        self.runs.append(len(clips))
        placed = values + torch.arange(len(values)) / 1000
        tokens = placed[:, None, None].expand(-1, 1, 2)
        return {"res5": tokens[..., None, None], "res5_class": tokens}


def batches(hop: int = 1, size: int = 3, failed: tuple[int, ...] = ()) -> list[WindowBatch]:
    rows, shown = rows_of_windows(hop)
    return [
        WindowBatch(
            rows=rows[offset : offset + size], all_rows=rows, shown=shown + 1, offset=offset, size=size,
            slots=[slot for slot in range(len(rows[offset : offset + size])) if offset + slot not in failed],
        )
        for offset in range(0, len(rows), size)
    ]  # fmt: skip


def maps_of(chosen: list[WindowBatch], network: Network, new: int = 1) -> dict[int, Tensor]:
    """Row -> its maps [T], computed by one worker."""
    shared = SharedFrames(network, SQUARE, new)
    rows: dict[int, Tensor] = {}
    for batch in (batch for batch in chosen if batch.slots):  # a runner gets no batch without a slot
        outputs = shared.of(batch)
        maps = outputs["res5"]
        assert maps.shape == (batch.size, FRAMES, 2, 1, 1)
        assert torch.equal(outputs["res5_class"], maps[..., 0, 0]), "class tokens stay with their frames"
        rows |= {batch.offset + slot: maps[slot, :, 0, 0, 0] for slot in batch.slots}
    return rows


@pytest.mark.parametrize(("hop", "size"), [(1, 1), (1, 3), (2, 3), (1, 20), (3, 2)])
def test_each_frame_goes_through_the_network_once(hop: int, size: int) -> None:
    network, (_, shown) = Network(), rows_of_windows(hop)
    rows = maps_of(batches(hop, size), network, new=hop)
    assert sorted(network.frames) == sorted((np.unique(shown) + 1).tolist())
    assert {*network.runs} == {max(FRAMES, size * hop)}
    assert torch.equal(torch.stack([rows[row] for row in sorted(rows)]).int(), torch.from_numpy(shown + 1).int())


@pytest.mark.parametrize("failed", [(0,), (1, 2), (0, 1, 2, 3), (5, 6)])
def test_other_clips_do_not_change_a_place(failed: tuple[int, ...]) -> None:
    """The same maps to the last bit after a failure, and where only the batches of the failed clips run again."""
    whole, with_failures = maps_of(batches(), Network()), maps_of(batches(failed=failed), Network())
    assert all(torch.equal(maps, whole[row]) for row, maps in with_failures.items())
    again = [batch for batch in batches() if any(batch.offset <= row < batch.offset + 3 for row in failed)]
    assert all(torch.equal(maps, whole[row]) for row, maps in maps_of(again, Network()).items())


def test_only_what_later_batches_need_is_held() -> None:
    shared = SharedFrames(Network(), SQUARE, 1)
    held = []
    for batch in batches():
        shared.of(batch)
        held.append(len(shared._held))
    assert held == [3, 0, 0], "3 frames of the first video, none of a video that ended"


def test_shards_do_not_share() -> None:
    shared, network = SharedFrames(Network(), SQUARE, 1), Network()
    shared._maps = network
    for _ in range(2):
        for batch in batches():
            shared.of(batch)
    assert network.frames[: len(network.frames) // 2] == network.frames[len(network.frames) // 2 :]


@pytest.mark.parametrize("hop", range(1, 9))
@pytest.mark.parametrize(("step", "every"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_new_frames_against_a_count(hop: int, step: int, every: int) -> None:
    """The frames of the 41st window that none of the 40 windows before has."""
    options = ClipOptions(num_frames=6, fps="native", frame_step=step, sampling="windows", hop_frames=hop)
    windows = [{hop * k + step * frame for frame in range(0, 6, every)} for k in range(41)]
    fresh = len(windows[-1] - set().union(*windows[:-1]))
    assert new_frames(options, every) == (None if fresh == 6 // every else fresh)


def test_new_frames_of_hops_in_seconds() -> None:
    options = {"num_frames": 8, "sampling": "windows"}
    assert new_frames(ClipOptions(**options, fps=10, hop_seconds=0.3), 1) == 3
    assert new_frames(ClipOptions(**options, fps=10, hop_seconds=0.8), 1) is None
    assert new_frames(ClipOptions(**options, fps="native", hop_seconds=0.3), 1) == 1
    assert new_frames(ClipOptions(num_frames=8), 1) is None


def test_which_stages_share() -> None:
    def recorded(model: str, **clips: object) -> object:
        backbone = {"model": model, "weights": "random:0", "taps": ["res4"], "store": ["pooled"]}
        sections = {"clips": {"num_frames": 8, "fps": "native", **clips}, "backbones": {"net": backbone}}
        return declared(Recipe.model_validate(sections))["features/net"].options.get("shared_frames")

    windows = {"sampling": "windows", "hop_frames": 2}
    assert recorded("resnet18", **windows) == 1
    assert recorded("resnet18", **windows | {"hop_frames": 8}) is None
    assert recorded("resnet18") is None
    assert recorded("tsm_r50", **windows) is None
    assert recorded("i3d_r50", **windows) is None
    single = {name for name, entry in CATALOGUE.items() if entry.sees_single_frames}
    images = {"resnet18", "resnet34", "resnet50", "resnet101", "inception_v3", "bn_inception"}
    assert single == images


def test_times_of_windows_are_equal_where_frames_are() -> None:
    """A frame is known by its time, so the same frame must have the same time in all windows, to the last bit."""
    for fps, hop in ((10.0, {"hop_frames": 3}), (29.97, {"hop_frames": 7}), (25.0, {"hop_seconds": 0.12})):
        options = ClipOptions(num_frames=16, fps=fps, sampling="windows", **hop)
        windows = Windows.of(options, 60.0, None)
        times = {seconds for window in range(windows.count) for seconds in windows.times(window)}
        assert len(times) == len({round(seconds * 1e6) for seconds in times})

"""`CachedClips` in torch's own loaders, as torch's documentation shows them."""

import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips

ARRAYS = ["features/tiny/res4_pooled", "regions/tiny/res4", "proposals/count"]
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
# By its methods CachedClips is a data set; torch declares a class to inherit from, and reading needs no torch.
LOADERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda clips: DataLoader(clips, batch_size=2),
    "shuffled": lambda clips: DataLoader(clips, batch_size=2, shuffle=True),
    "fork": lambda clips: DataLoader(clips, batch_size=2, num_workers=1, multiprocessing_context="fork"),
    "subset": lambda clips: DataLoader(Subset(clips, range(6)), batch_size=2),
    "random split": lambda clips: DataLoader(
        ConcatDataset(random_split(clips, [0.5, 0.5])), batch_size=2
    ),
    "concatenated": lambda clips: DataLoader(ConcatDataset([clips]), batch_size=2),
    "weighted": lambda clips: DataLoader(
        clips, batch_size=2, sampler=WeightedRandomSampler([1.0] * 6, 6, replacement=False)
    ),
    "batches": lambda clips: DataLoader(
        clips, sampler=BatchSampler(RandomSampler(clips), 2, False), batch_size=None, collate_fn=default_collate
    ),
    "whole batches": lambda clips: DataLoader(cast(Any, range(6)), 2, collate_fn=clips.batch, num_workers=1),
}  # fmt: skip


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@FORKS
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_gives_each_clip_once_in_collated_batches(whole: Cache, loader: str) -> None:
    clips = CachedClips(whole, ARRAYS)
    batches = list(LOADERS[loader](clips))
    assert len(batches) == 3
    assert sorted(torch.cat([batch["clip_index"] for batch in batches]).tolist()) == list(range(6))
    for batch in batches:
        same(batch, clips.batch(batch["clip_index"]))


def test_a_loader_without_batches_gives_samples(whole: Cache) -> None:
    clips: Any = CachedClips(whole, ARRAYS)
    for found, index in zip(DataLoader(clips, batch_size=None), range(6), strict=True):
        same(found, clips[index])


def test_a_sample_is_a_clip_of_a_batch(whole: Cache) -> None:
    clips: Any = CachedClips(whole, ARRAYS)
    batch = clips.batch([5, 0, 3])
    for position, index in enumerate([5, 0, 3]):
        same(clips[index], {name: tensor[position] for name, tensor in batch.items()})
    assert clips[0]["labels"].shape == ()
    clips.multi_label = True
    assert (clips[0]["labels"].shape, clips[0]["labels"].dtype) == ((clips.num_classes,), torch.float32)
    assert next(iter(DataLoader(clips, batch_size=4)))["labels"].shape == (4, clips.num_classes)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 5, 2), [1, 3]), (slice(-2, None), [4, 5]), ([4, -1], [4, 5]), (torch.tensor([2, 0]), [2, 0]),
        (np.array([3]), [3]), (torch.tensor([True, False, True, False, False, False]), [0, 2]), ([], []),
    ],
)  # fmt: skip
def test_several_clips_are_a_list_of_samples(whole: Cache, index: Any, rows: list[int]) -> None:
    clips = CachedClips(whole, ARRAYS)
    assert [int(sample["clip_index"]) for sample in clips[index]] == rows
    if not isinstance(index, slice):
        assert clips.batch(index)["clip_index"].tolist() == rows


@pytest.mark.parametrize(("index", "row"), [(-1, 5), (torch.tensor(3), 3), (np.int64(2), 2)])
def test_one_clip_is_a_sample(whole: Cache, index: Any, row: int) -> None:
    assert CachedClips(whole, ARRAYS)[index]["clip_index"] == row


def test_an_index_that_is_none_is_refused(whole: Cache) -> None:
    clips: Any = CachedClips(whole, ARRAYS)
    assert len(list(clips)) == 6, "iteration ends with IndexError"
    with pytest.raises(IndexError, match=r"6 clips.*index 6 is out of bounds"):
        clips[6]
    with pytest.raises(TypeError, match=r"index 1\.5 is neither an integer, a slice nor a list of integers"):
        clips[1.5]


def test_a_string_in_place_of_arrays_is_refused(whole: Cache) -> None:
    with pytest.raises(TypeError, match=r"wants a list of arrays and got the string 'proposals/count'"):
        CachedClips(whole, "proposals/count")


def test_float16_arrays_are_given_as_float32_on_request(whole: Cache) -> None:
    stored, wide = CachedClips(whole, ARRAYS), CachedClips(whole, ARRAYS, float32=True)
    assert stored[0]["regions/tiny/res4"].dtype == torch.float16
    assert wide[0]["proposals/count"].dtype == torch.int16
    features = pickle.loads(pickle.dumps(wide)).batch(range(2))["regions/tiny/res4"]
    assert torch.nn.Linear(features.shape[-1], 2)(features).dtype == torch.float32
    same({"x": features.half()}, {"x": stored.batch(range(2))["regions/tiny/res4"]})


def test_the_loop_of_the_python_page_learns(
    whole: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On six videos, which it is to know by heart: left and right differ in how they look."""
    monkeypatch.setattr(sys, "argv", ["training_loop.py", whole.root, ARRAYS[0], "train", "train"])
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "training_loop.py"))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(losses) == 20
    assert losses[-1] < losses[0]

"""One clip of each video in an epoch, and losses that are added up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch import Tensor

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.training.clips import clips_identity
from kinegraph.stages.training.epoch_clips import EpochClips, with_views_per_epoch
from kinegraph.stages.training.losses import clip_loss
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import STATE_FILE, EpochRecord, TrainResult
from kinegraph.stages.training.state import identity
from kinegraph.stages.training.train import seeded, train
from tests.stages.training.clips_in_memory import ClipsInMemory

CPU = torch.device("cpu")
VIDEOS = [f"{video}.mp4" for video in range(10) for _ in range(3)]


class Stopped(Exception):
    pass


def clips(video_ids: Sequence[str] = VIDEOS) -> ClipsInMemory:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([int(video.partition(".")[0]) % 3 for video in video_ids])
    pooled = torch.randn(len(video_ids), 4, 8, generator=generator) + labels.view(-1, 1, 1)
    return ClipsInMemory(pooled, labels, 3, video_ids, torch.zeros(0, dtype=torch.int64))


def options(**values: Any) -> TrainOptions:
    return TrainOptions.model_validate({"head": "avg_pool", "epochs": 4, "batch_size": 4, "val_split": None} | values)


def run(seen: ClipsInMemory, chosen: TrainOptions, **keywords: Any) -> tuple[Tensor, TrainResult]:
    with seeded(chosen.seed, CPU):
        head = build_head("avg_pool", seen.spec, 3, dropout=0.0)
    result = train(head, seen, None, chosen, device=CPU, **keywords)
    return torch.cat([parameter.detach().flatten() for parameter in head.parameters()]), result


def epochs_of(seen: ClipsInMemory, length: int) -> list[list[int]]:
    """What was read, in parts of `length` clips."""
    read = [index for batch in seen.batches for index in batch]
    return [read[start : start + length] for start in range(0, len(read), length)]


def test_an_epoch_has_one_clip_of_each_video() -> None:
    seen = clips()
    _, result = run(seen, options(seed=5))
    assert len(result.history) == 4
    epochs = epochs_of(seen, 10)
    assert len(epochs) == 4
    for number, epoch in enumerate(epochs, 1):
        expected = set()
        for video in range(10):  # by a plain loop
            drawn = xxhash.xxh3_64_intdigest(f"5 {number} {video}.mp4".encode())
            expected.add(3 * video + drawn % 3)
        assert set(epoch) == expected
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 4
    assert epochs[0] != sorted(epochs[0])


def test_every_clip_has_its_turn() -> None:
    chosen = EpochClips(clips(), with_views_per_epoch(options(), clips()))
    counts = torch.stack([chosen.indices(epoch) for epoch in range(1, 301)]).flatten().bincount()
    assert len(counts) == 30
    assert 60 < counts.min() <= counts.max() < 140  # 100 on average


def test_all_clips_where_the_option_says_so() -> None:
    seen = clips()
    run(seen, options(epochs=1, views_per_epoch="all"))
    assert sorted(epochs_of(seen, 30)[0]) == list(range(30))


def test_with_one_clip_a_video_nothing_changes() -> None:
    """The option has no effect, and states of earlier versions are continued."""
    seen, single = clips(VIDEOS[::3]), options(epochs=1)
    run(seen, single)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert epochs_of(seen, 10) == [order.tolist()]
    assert with_views_per_epoch(options(views_per_epoch="one"), seen).views_per_epoch is None
    head = build_head("avg_pool", seen.spec, 3)
    assert {"views_per_epoch", "loss_reduction"}.isdisjoint(identity(head, seen, None, single))


@pytest.mark.parametrize("steps", [None, 2])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path, steps: int | None) -> None:
    chosen = options(checkpoint_steps=steps)

    def stop(record: EpochRecord) -> None:
        if record.epoch == 3:
            raise Stopped

    undisturbed, _ = run(clips(), chosen)
    with pytest.raises(Stopped):
        run(clips(), chosen, state_file=tmp_path / STATE_FILE, on_epoch=stop)
    resumed, _ = run(clips(), chosen, state_file=tmp_path / STATE_FILE)
    assert torch.equal(resumed, undisturbed)
    other, _ = run(clips(), options(views_per_epoch="all"))
    assert not torch.equal(other, undisturbed)


def test_runs_with_one_and_with_all_clips_are_not_the_same_run() -> None:
    seen = clips()
    head = build_head("avg_pool", seen.spec, 3)
    resolved = [with_views_per_epoch(options(views_per_epoch=value), seen) for value in (None, "all")]
    one, every = (identity(head, seen, None, chosen) for chosen in resolved)
    assert one["views_per_epoch"] == "one"
    assert "views_per_epoch" not in every
    assert one["train"] == every["train"] == clips_identity(seen)


def test_losses_are_added_over_clips_and_classes() -> None:
    """Zhang et al. 2019, eq. 13."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    many = (torch.rand(6, 5, generator=generator) < 0.5).float()
    terms = -(many * logits.sigmoid().log() + (1 - many) * (1 - logits.sigmoid()).log())
    torch.testing.assert_close(clip_loss(logits, many, reduction="sum"), terms.sum())
    one = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(clip_loss(logits, one, reduction="sum"), 6 * clip_loss(logits, one))


def test_a_sum_is_a_mean_with_another_rate() -> None:
    """In batches of one size. The loss of an epoch is told per clip in both."""
    plain = {"optimizer": "sgd", "momentum": 0, "nesterov": False, "weight_decay": 0, "batch_size": 5}
    by_mean, mean = run(clips(), options(**plain, learning_rate=0.5))
    by_sum, total = run(clips(), options(**plain, learning_rate=0.1, loss_reduction="sum"))
    torch.testing.assert_close(by_sum, by_mean)
    assert [record.loss for record in total.history] == pytest.approx([record.loss for record in mean.history])


def test_a_smaller_last_batch_has_a_smaller_sum() -> None:
    """A batch of ten clips moves the weights as one of nine and one of one do, to first order in the rate."""
    rate = {"optimizer": "sgd", "momentum": 0, "nesterov": False, "weight_decay": 0, "schedule": "constant"}
    adding = {"epochs": 1, "learning_rate": 1e-3, "loss_reduction": "sum"}
    seen = clips(VIDEOS[::3])
    at_once, _ = run(seen, options(**rate, **adding, batch_size=10))
    in_parts, _ = run(seen, options(**rate, **adding, batch_size=9))
    with seeded(0, CPU):
        head = build_head("avg_pool", seen.spec, 3, dropout=0.0)
    start = torch.cat([parameter.detach().flatten() for parameter in head.parameters()])
    assert (in_parts - at_once).norm() < 0.02 * (at_once - start).norm()

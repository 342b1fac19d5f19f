"""A cache of windows: rows, annotations, and reading by video."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kinegraph.cache_schemas.annotations import ANNOTATIONS, read_annotations
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError, CacheNotFound
from kinegraph.cache_schemas.index_documents import documents_advice
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.sequences import VideoSequences
from kinegraph.pipeline.caches import windowed
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.exchange.to_store import export_cache
from kinegraph.pipeline.exchange.to_tad import export_tad
from kinegraph.stages.datasets.errors import DatasetError
from tests.conftest import moving_square, write_video

POOLED, TIMES = "features/tiny/res4_pooled", "clips/frame_times"


def changed(config: Config, tmp_path: Path, section: str = "clips", **options: object) -> Config:
    """The config with a cache of its own and other options of one section."""
    update = {section: getattr(config, section).model_copy(update=options)} if options else {}
    return config.model_copy(update={"cache": str(tmp_path / "cache"), **update})


def test_each_video_has_windows_in_the_order_of_time(windows_cache: Cache) -> None:
    rows = [*windows_cache.clips.rows()]
    assert [row.clip_id for row in rows] == [
        *(f"long.mp4:{k}:center" for k in range(17)),
        *(f"mid.mp4:{k}:center" for k in range(3)),
        "words.mp4:0:center",
    ]
    assert [row.start_seconds for row in rows[:17]] == [2 * k / 8 for k in range(17)]
    assert rows[1].target_times == tuple((2 + i) / 8 for i in range(8))
    assert {row.labels for row in rows[:17]} == {(0, 1)}, "the labels of all segments"
    assert {row.interval for row in rows} == {None}


def test_segments_lie_beside_the_windows(windows_cache: Cache) -> None:
    told = read_annotations(windows_cache)
    assert [*told] == ["long.mp4", "mid.mp4", "short.mp4", "words.mp4"]
    long = told["long.mp4"]
    assert (long.subset, long.duration, long.fps, long.frame, long.num_windows) == ("train", 5.0, 8.0, 40, 17)
    assert [(part.segment, part.label, part.label_id) for part in long.annotations] == [
        ((0.5, 1.5), "left", 0),
        ((1.0, 9.0), "right", 1),
    ]
    assert (told["short.mp4"].frame, told["short.mp4"].num_windows, told["short.mp4"].annotations) == (5, 0, ())
    assert (told["words.mp4"].duration, told["words.mp4"].num_windows) == (None, 0)


def test_index_says_what_it_left_out(windows_config: Config, tmp_path: Path) -> None:
    found = index(changed(windows_config, tmp_path))
    assert (found.num_videos, found.num_intervals, found.without_window) == (4, 4, ["short.mp4"])
    assert (found.beyond_end, [*found.unreadable]) == (["long.mp4@1-9"], ["words.mp4"])
    assert {split: summary.clips for split, summary in found.splits.items()} == {"train": 18, "test": 3}


@pytest.mark.parametrize(("tail", "counts"), [("pad", (20, 7, 3)), ("shift", (17, 4, 1))])
def test_tails(windows_config: Config, tmp_path: Path, tail: str, counts: tuple[int, ...]) -> None:
    cache = index(changed(windows_config, tmp_path, tail=tail)).cache
    assert tuple(video.num_windows for video in read_annotations(cache).values()) == (*counts, 0)


def test_a_window_longer_than_every_video(windows_config: Config, tmp_path: Path) -> None:
    config = changed(windows_config, tmp_path, num_frames=41)
    words = r"a window has 41 frames, and the longest of 3 videos has 40 at 8 a second \(long.mp4\)"
    with pytest.raises(ConfigError, match=words):
        index(config)
    with pytest.raises(CacheNotFound):
        Cache(config.cache)
    empty = index(config, may_be_empty=True)
    assert [row.clip_id for row in empty.cache.clips.rows()] == ["words.mp4:0:center"]
    assert empty.without_window == ["long.mp4", "mid.mp4", "short.mp4"]
    shutil.rmtree(config.cache)
    assert len(index(changed(windows_config, tmp_path, num_frames=40)).cache.clips) == 2, "the other options are kept"


def test_annotations_that_a_killed_index_did_not_write(windows_config: Config, tmp_path: Path) -> None:
    config = changed(windows_config, tmp_path)
    cache = index(config).cache
    cache.storage.delete(ANNOTATIONS)
    found = index(config)
    assert (found.num_new_rows, read_annotations(found.cache)["long.mp4"].num_windows) == (0, 17)


def test_segments_of_two_splits(windows_config: Config, tmp_path: Path) -> None:
    lines = ["path,label,split,start,end", "long.mp4,left,train,0,1", "long.mp4,left,test,1,2"]
    (tmp_path / "listed.csv").write_text("\n".join(lines))
    config = changed(windows_config, tmp_path, "dataset", annotations=str(tmp_path / "listed.csv"))
    with pytest.raises(DatasetError, match=r"long.mp4 is in the splits test, train\. Windows go over the whole video"):
        index(config)


def test_too_many_windows(windows_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a damaged header makes them: the video fails, and the others are indexed."""
    monkeypatch.setattr(windowed, "MAX_WINDOWS", 16)
    found = index(changed(windows_config, tmp_path))
    assert "17 windows, allowed: 16" in str(found.unreadable["long.mp4"])
    assert [row.video_id for row in found.cache.clips.rows()] == ["long.mp4", *["mid.mp4"] * 3, "words.mp4"]


def test_videos_that_change_between_two_calls_of_index(windows_config: Config, tmp_path: Path) -> None:
    """A video that is repaired gets its windows, and one that is damaged keeps them."""
    videos = shutil.copytree(Path(windows_config.cache).parent / "videos", tmp_path / "videos")
    config = changed(windows_config, tmp_path, "dataset", root=str(videos))
    before = [*index(config).cache.clips.rows()]
    assert index(config).num_new_rows == 0
    write_video(videos / "words.mp4", moving_square(12, 96, 80))
    (videos / "long.mp4").write_text("words")
    found = index(config)
    rows = [*found.cache.clips.rows()]
    assert [*found.unreadable] == ["long.mp4"]
    assert rows[:20] == before[:20]
    long = read_annotations(found.cache)["long.mp4"]
    assert (long.duration, long.frame, long.num_windows) == (5.0, 40, 17), "as its rows, so it can be exported"
    assert [row.clip_id for row in rows[20:]] == [f"words.mp4:{k}:center" for k in range(3)]
    assert all(row.is_probed for row in rows)
    write_video(videos / "words.mp4", moving_square(5, 96, 80))
    shutil.rmtree(config.cache)
    (videos / "long.mp4").unlink()
    (videos / "words.mp4").unlink()
    assert len(index(config).cache.clips) == 3 + 2
    write_video(videos / "words.mp4", moving_square(5, 96, 80))
    assert len(index(config).cache.clips) == 3 + 2, "a row stays, although the video is shorter than a window"


def test_frames_are_those_of_the_video(windows_cache: Cache) -> None:
    """Also in windows that lie in another shard than their neighbours."""
    clips = CachedClips(windows_cache, [POOLED, TIMES])
    for video, count in (("long.mp4", 17), ("mid.mp4", 3)):
        sequence = clips.video(video)
        expected = np.array([[(2 * k + i) / 8 for i in range(8)] for k in range(count)])
        np.testing.assert_allclose(sequence[TIMES].numpy(), expected, atol=1e-9)
        np.testing.assert_array_equal(sequence["start_seconds"].numpy(), expected[:, 0])
        np.testing.assert_allclose(sequence["end_seconds"].numpy(), expected[:, 0] + 1.0)
    for position, row in enumerate(clips.video("mid.mp4")["clip_index"].tolist()):
        index_of = clips.rows.tolist().index(row)
        assert torch.equal(clips[index_of][POOLED], clips.video("mid.mp4")[POOLED][position])


def test_videos_without_a_sequence(windows_config: Config, windows_cache: Cache, tmp_path: Path) -> None:
    clips = CachedClips(windows_cache, [POOLED])
    with pytest.raises(CacheError, match=r"of the video 'words.mp4': every clip of it failed"):
        clips.video("words.mp4")
    with pytest.raises(CacheError, match=r"of the video 'none': unknown"):
        clips.video("none")
    part = shutil.copytree(windows_cache.root, tmp_path / "part")
    Cache(part).ledger.unseal("features/tiny", 1)
    clips = CachedClips(part, [POOLED])
    with pytest.raises(CacheError, match=r"long.mp4 is not extracted to its end"):
        clips.video("long.mp4")
    sequences = VideoSequences(clips)
    assert (sequences.video_ids, sequences.left_out) == (["mid.mp4"], ["long.mp4"])


def test_batches_of_sequences_have_masks(windows_cache: Cache) -> None:
    sequences = VideoSequences(CachedClips(windows_cache, [POOLED]))
    assert (len(sequences), sequences.video_ids) == (2, ["long.mp4", "mid.mp4"])
    (batch,) = DataLoader(sequences, batch_size=2, collate_fn=sequences.collate)  # type: ignore[arg-type]
    assert batch["mask"].sum(1).tolist() == [17, 3]
    assert batch[POOLED].shape[:2] == batch["mask"].shape == (2, 17)
    assert batch["labels"].tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert torch.equal(batch[POOLED][1, :3], sequences.clips.video("mid.mp4")[POOLED])
    assert not batch[POOLED][1, 3:].any()


def test_copies_have_the_annotations_and_verify_reads_them(windows_cache: Cache, tmp_path: Path) -> None:
    copy = export_cache(windows_cache, tmp_path / "copy", kind="hdf5").cache
    assert read_annotations(copy) == read_annotations(windows_cache)
    for name, cache in (("zarr", windows_cache), ("hdf5", copy)):
        export_tad(cache, str(tmp_path / name))
    assert (tmp_path / "zarr/features/long.npy").read_bytes() == (tmp_path / "hdf5/features/long.npy").read_bytes()
    assert verify(copy.root).problems == ()
    (tmp_path / "copy" / ANNOTATIONS).write_text('{"schema_version": 1, "database": {"a": 1}}')
    (problem,) = verify(copy.root).problems
    assert (problem.object, problem.kind) == (ANNOTATIONS, "document")
    assert "database.a" in problem.detail
    assert documents_advice(copy) == [problem.detail]
    (tmp_path / "copy" / ANNOTATIONS).unlink()
    with pytest.raises(CacheError, match=r"annotations.json does not exist.*kinegraph index CONFIG"):
        export_tad(copy, str(tmp_path / "hdf5"))

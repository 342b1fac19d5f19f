"""Each format that others write is read as what it means, and what is none is named."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.stages.imports.features import FeatureFileError, UnusableError, VideoFeatures
from kinegraph.stages.imports.layout import chosen_frames, common_layout
from kinegraph.stages.imports.recognise import open_features
from tests.foreign import C, boxes, features, write_hdf5, write_npy, write_npz


def test_npy_at_any_depth_and_of_any_rank(tmp_path: Path) -> None:
    arrays = {"a/b/one": features(1, C), "two": features(2, 3, C).astype(np.float64), "x/maps": features(3, 2, C, 4, 5)}
    files = open_features(write_npy(tmp_path, arrays))
    assert (files.kind, files.videos()) == ("npy", ["a/b/one", "two", "x/maps"])
    assert files.read("a/b/one").shapes == {"pooled": (1, C)}
    np.testing.assert_array_equal(files.read("two").arrays["pooled"], arrays["two"].astype(np.float32))
    maps = files.read("x/maps").arrays
    np.testing.assert_array_equal(maps["maps"], arrays["x/maps"])
    np.testing.assert_allclose(maps["pooled"], arrays["x/maps"].mean((2, 3)), rtol=1e-6)
    assert {array.dtype for name in files.videos() for array in files.read(name).arrays.values()} == {np.dtype("f4")}


@pytest.mark.parametrize(
    ("names", "dataset", "videos"),
    [
        (["a/v.mp4", "a/w.mp4"], None, ["a/v.mp4", "a/w.mp4"]),
        (["a/v.mp4", "b/v.mp4"], None, ["a/v.mp4", "b/v.mp4"]),
        (["v", "w"], None, ["v", "w"]),
        (["a/v", "a/w", "b/u"], None, ["a/v", "a/w", "b/u"]),
        (["a/v.mp4/features", "w.mp4/features"], None, ["a/v.mp4", "w.mp4"]),
        (["v/rgb", "v/flow", "w/rgb", "w/flow"], "flow", ["v", "w"]),
        (["v/rgb", "v/flow", "w/rgb", "w/flow"], ".", ["v/flow", "v/rgb", "w/flow", "w/rgb"]),
    ],
)
def test_hdf5_groups_and_datasets(tmp_path: Path, names: list[str], dataset: str | None, videos: list[str]) -> None:
    arrays = {name: features(number, 3, C) for number, name in enumerate(names)}
    files = open_features(write_hdf5(tmp_path / "f.h5", arrays), dataset=dataset)
    assert (files.kind, files.videos()) == ("hdf5", videos)
    of_video = {video: files.read(video).arrays["pooled"].tobytes() for video in videos}
    assert set(of_video.values()) <= {array.tobytes() for array in arrays.values()}
    assert len({*of_video.values()}) == len(videos)


def test_hdf5_sources_tell_values_and_not_layout(tmp_path: Path) -> None:
    values = {"v": features(0, 3, C), "w": features(1, 3, C)}
    ours, theirs = (
        open_features(write_hdf5(tmp_path / name, dict(order)))
        for name, order in (("a.h5", values.items()), ("b.hdf5", reversed(values.items())))
    )
    assert ours.source("v").digest == theirs.source("v").digest != ours.source("w").digest


def test_hdf5_with_several_datasets_a_group_wants_a_choice(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "f.h5", {f"{v}/{k}": features(0, 2, C) for v in "vw" for k in ("rgb", "flow")})
    with pytest.raises(FeatureFileError, match=r"has flow, rgb in every group. Choose one by --dataset NAME"):
        open_features(path)
    with pytest.raises(FeatureFileError, match=r"--dataset rbg: .* has datasets called flow, rgb"):
        open_features(path, dataset="rbg")


def test_bottom_up_one_file_a_video(tmp_path: Path) -> None:
    x, box = features(0, 5, C), boxes(0, 5)
    write_npz(tmp_path / "a" / "plain.npz", x, box)
    write_npz(tmp_path / "turned.npz", x.T, box)
    write_npz(tmp_path / "padded.npz", x, box, num_bbox=3)
    write_npz(tmp_path / "video.npz", np.stack([x, x + 1]), np.stack([box, box]), num_bbox=[5, 0])
    files = open_features(tmp_path)
    assert (files.kind, files.videos()) == ("bottom_up", ["a/plain", "padded", "turned", "video"])
    for name in ("a/plain", "turned"):
        found = files.read(name).arrays
        np.testing.assert_array_equal(found["regions"], x[None])
        np.testing.assert_array_equal(found["boxes"], box[None])
        np.testing.assert_allclose(found["pooled"], x.mean(0)[None], rtol=1e-6)
        assert found["count"].tolist() == [5]
    padded, video = files.read("padded"), files.read("video").arrays
    assert padded.shapes == {"regions": (1, 3, C), "boxes": (1, 3, 4), "count": (1,), "pooled": (1, C)}
    assert video["count"].tolist() == [5, 0]
    assert not any(video[role][1].any() for role in ("regions", "boxes", "pooled"))


def test_bottom_up_one_file_a_frame(tmp_path: Path) -> None:
    for frame in range(12):
        write_npz(
            tmp_path / "a" / "v.mp4" / f"{frame}.npz", features(frame, 2 + frame % 3, C), boxes(frame, 2 + frame % 3)
        )
    files = open_features(tmp_path)
    assert (files.kind, files.videos()) == ("bottom_up_frames", ["a/v.mp4"])
    found = files.read("a/v.mp4").arrays
    assert found["count"].tolist() == [2, 3, 4] * 4
    for frame in range(12):  # 2 before 10
        np.testing.assert_array_equal(found["regions"][frame, :2], features(frame, 2 + frame % 3, C)[:2])
    assert not found["regions"][0, 2:].any()
    before = files.source("a/v.mp4")
    write_npz(tmp_path / "a" / "v.mp4" / "3.npz", features(77, 2, C), boxes(3, 2))
    assert open_features(tmp_path).source("a/v.mp4").digest != before.digest
    assert open_features(tmp_path, "bottom_up").videos()[1] == "a/v.mp4/1"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (features(0, 2, 3, C), r"v.npy has shape \[2, 3, 6\]; \[C\], \[T, C\] or \[T, C, H, W\] is expected"),
        (np.float32(3), r"v.npy has shape \[\]"),
        (np.zeros((2, C), "U3"), "v.npy holds <U3; numbers are expected"),
        (np.zeros((2, C), "c8"), "v.npy holds complex64"),
    ],
)
def test_arrays_that_are_no_features(tmp_path: Path, array: np.ndarray, said: str) -> None:
    with pytest.raises(FeatureFileError, match=said):
        open_features(write_npy(tmp_path, {"v": array})).read("v")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    write_npy(tmp_path, {"cut": features(0, 3, C), "empty": features(0, 0, C)})
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-10])
    (tmp_path / "nothing.npy").touch()
    os.mkfifo(tmp_path / "fifo.npy")
    (tmp_path / "dangling.npy").symlink_to(tmp_path / "nowhere")
    files = open_features(tmp_path)
    for video, reason, said in (
        ("cut", "unreadable", "cut.npy"),
        ("empty", "too_short", r"empty.npy is empty: shape \[0, 6\]"),
        ("pickled", "unreadable", "pickled.npy: it holds Python objects"),
        ("nothing", "unreadable", "nothing.npy"),
        ("fifo", "unreadable", r"fifo.npy is a named pipe"),
        ("dangling", "unreadable", "No such file"),
    ):
        with pytest.raises(UnusableError, match=said) as caught:
            files.read(video)
        assert caught.value.reason == reason
    assert {files.source(video).size for video in ("fifo", "dangling")} == {0}
    with pytest.raises(FeatureFileError, match=r"no video is usable; .*pickled.npy: it holds Python objects"):
        common_layout(files, ["pickled", "cut"], None)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"x": features(0, 5, C)[None]}, r"x has shape \[1, 5, 6\] and bbox \[5, 4\]"),
        ({"x": features(0, 3, C)}, r"x has shape \[1, 3, 6\] and bbox \[1, 5, 4\]"),
        ({"bbox": boxes(0, 5)[:, :3]}, r"bbox \[1, 5, 3\]"),
        ({"num_bbox": 9}, r"num_bbox is \[9\], but bbox has shape \[1, 5, 4\]"),
        ({"bbox": boxes(0, 5)[:, [2, 3, 0, 1]]}, "boxes that end before they begin"),
    ],
)
def test_npz_files_that_do_not_fit(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    write_npz(tmp_path / "v.npz", **{"x": features(0, 5, C), "bbox": boxes(0, 5)} | keys)
    with pytest.raises(FeatureFileError, match=said):
        open_features(tmp_path, "bottom_up").read("v")


def test_npz_files_of_other_things_and_damaged_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", features=features(0, 5, C), boxes=boxes(0, 5))
    np.savez(tmp_path / "pickled.npz", x=np.array([{"a": 1}]), bbox=boxes(0, 1))
    write_npz(tmp_path / "cut.npz", features(0, 5, C), boxes(0, 5))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    files = open_features(tmp_path)
    with pytest.raises(FeatureFileError, match="has no x and no bbox; it has features, boxes"):
        files.read("other")
    for video in ("cut", "pickled"):
        with pytest.raises(UnusableError, match=f"{video}.npz"):
            files.read(video)


def test_what_is_no_set_of_features(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match=r"no .*nowhere"):
        open_features(tmp_path / "nowhere")
    with pytest.raises(FeatureFileError, match=r"has no .npy, .npz, .pt, .pth or .tar files"):
        open_features(tmp_path)
    words = tmp_path / "words.h5"
    words.write_text("words")
    with pytest.raises(FeatureFileError, match=r"words.h5 is not an HDF5 file"):
        open_features(words)
    write_npy(tmp_path, {"v": features(0, C)})
    write_npz(tmp_path / "v.npz", features(0, 5, C), boxes(0, 5))
    with pytest.raises(FeatureFileError, match="choose by --kind"):
        open_features(tmp_path)
    assert open_features(tmp_path, "npy").videos() == ["v"]
    with pytest.raises(FeatureFileError, match="is a folder, and --kind hdf5 needs a file"):
        open_features(tmp_path, "hdf5")
    with pytest.raises(FeatureFileError, match=r"--dataset rgb: .* is npy, not hdf5"):
        open_features(tmp_path, "npy", "rgb")


def test_videos_have_to_agree(tmp_path: Path) -> None:
    files = open_features(write_npy(tmp_path, {"a": features(0, 4, C), "b": features(0, 7, C), "c": features(0, 4, 5)}))
    with pytest.raises(FeatureFileError, match=r"a.npy has 4 frames, .*b.npy has 7. .* --frames T"):
        common_layout(files, files.videos(), None)
    assert common_layout(files, ["a", "b"], 5).num_frames == 5
    with pytest.raises(FeatureFileError, match=r"a.npy has shape \[6\] a frame, .*c.npy has \[5\]"):
        common_layout(files, ["a", "c"], None)
    write_npy(tmp_path, {"maps": features(0, 4, C, 2, 2).astype(np.float16)})
    with pytest.raises(FeatureFileError, match=r"a.npy has shape \[6\] a frame, .*maps.npy has \[6, 2, 2\]"):
        common_layout(files, ["a", "maps"], None)
    assert common_layout(files, ["maps"], None).dtype == "float16"


@pytest.mark.parametrize(
    ("length", "num_frames", "expected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [1, 3, 5, 7]),
        (9, 3, [1, 4, 7]),
        (1, 3, [0, 0, 0]),
        (3, 5, [0, 1, 2, 2, 2]),
        (7, 1, [3]),
    ],
)
def test_frames_are_spread_or_the_last_repeats(length: int, num_frames: int, expected: list[int]) -> None:
    assert chosen_frames(length, num_frames) == expected


def test_arrays_of_a_video_have_as_many_frames() -> None:
    with pytest.raises(ValueError, match="number of frames differs"):
        VideoFeatures(arrays={"pooled": features(0, 2, C), "count": np.zeros(3, np.int16)})

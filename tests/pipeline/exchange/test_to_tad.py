"""An export for temporal action localisation, read by the rules of ActionFormer and of OpenTAD."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.annotations import read_annotations
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange import to_tad
from kinegraph.pipeline.exchange.to_npy import export_npy
from kinegraph.pipeline.exchange.to_tad import export_tad, names_of, side_by_side
from kinegraph.pipeline.exchange.window_features import NoFeaturesError
from tests.conftest import SHARED

POOLED = "features/tiny/res4_pooled"


@pytest.fixture(scope="module")
def exported(windows_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tad") / "out"
    found = export_tad(Cache(windows_config.cache), str(out), prefix="v_")
    assert (found.num_files, found.damaged) == (2, [])
    assert found.missing == {"short.mp4": "shorter than a window", "words.mp4": "a window failed"}
    return out


def test_files(exported: Path, windows_cache: Cache) -> None:
    names = sorted(str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file())
    assert names == [
        "annotations.json", "category_idx.txt", "features/missing_files.txt", "features/v_long.npy",
        "features/v_mid.npy", "manifest.json",
    ]  # fmt: skip
    clips = CachedClips(windows_cache, [POOLED])
    for name in ("long", "mid"):
        features = np.load(exported / f"features/v_{name}.npy", allow_pickle=False)
        expected = clips.video(f"{name}.mp4")[POOLED].numpy().mean(1)
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, expected)
    assert (exported / "features/missing_files.txt").read_text() == "short\nwords"
    assert (exported / "category_idx.txt").read_text() == "left\nright"
    assert json.loads((exported / "manifest.json").read_text())["complete"] is True


Video = dict[str, Any]  # an entry of `database`


def actionformer_grid(video: Video, window: int, hop: int) -> list[list[float]]:
    """Places of the segments on the grid of the features: (t fps - num_frames / 2) / stride."""
    return [
        [(t * video["fps"] - 0.5 * window) / hop for t in annotation["segment"]] for annotation in video["annotations"]
    ]


def opentad_grid(video: Video, categories: list[str], offset: int, hop: int) -> list[list[float]]:
    """Places of the segments of known classes: (int(t / duration * frame) - offset_frames) / snippet_stride."""
    return [
        [(int(t / video["duration"] * video["frame"]) - offset) / hop for t in annotation["segment"]]
        for annotation in video["annotations"]
        if annotation["label"] in categories
    ]


def centres(video: Video, window: int, hop: int, count: int) -> list[float]:
    return [(k * hop + window / 2) / video["fps"] for k in range(count)]


@pytest.mark.shared
def test_the_rules_of_both_give_the_known_places() -> None:
    made = SHARED / "datasets/features_layout/made"
    expected = json.loads((made / "expected.json").read_text())
    database = json.loads((made / "annotations/thumos14.json").read_text())["database"]
    categories = (made / "annotations/category_idx.txt").read_text().split("\n")
    missing = (made / "i3d_features/missing_files.txt").read_text().split("\n")
    assert database.keys() == expected.keys()
    for name, known in expected.items():
        video, path = database[name], made / f"i3d_features/{name}.npy"
        assert (name in missing) == (not path.exists()) == (known["features"] is None)
        assert name in missing or len(np.load(path)) == known["features"]
        np.testing.assert_allclose(actionformer_grid(video, 16, 4), known["actionformer_grid"])
        np.testing.assert_allclose(opentad_grid(video, categories, 8, 4), known["opentad_grid"])
        known_centres = known["feature_k_centre_s"]
        np.testing.assert_allclose(centres(video, 16, 4, len(known_centres)), known_centres)
        assert (video["fps"], video["frame"] / video["duration"], -(-video["frame"] // 4)) == (
            known["fps_from_json"], pytest.approx(known["fps_as_frame_over_duration"]), known["opentad_snippet_count"],
        )  # fmt: skip


def test_read_as_actionformer_does(exported: Path) -> None:
    """Feature k has its centre at place k of the grid."""
    long = json.loads((exported / "annotations.json").read_text())["database"]["long"]
    window, hop = long["window"], long["hop"]
    assert (long["fps"], long["duration"], hop, window) == (8.0, 5.0, 2, 8)
    features = np.load(exported / "features/v_long.npy").astype(np.float32)
    assert len(features) == long["N"] == (round(long["duration"] * long["fps"]) - window) // hop + 1
    assert [part["label_id"] for part in long["annotations"]] == [0, 1]
    np.testing.assert_allclose(actionformer_grid(long, window, hop), [[0.0, 4.0], [2.0, 34.0]])
    at = {"fps": long["fps"], "annotations": [{"segment": centres(long, window, hop, len(features))}]}
    np.testing.assert_allclose(actionformer_grid(at, window, hop), [range(len(features))])


def test_read_as_opentad_does(exported: Path) -> None:
    """Missing videos are passed over."""
    document = json.loads((exported / "annotations.json").read_text())
    missing = (exported / "features/missing_files.txt").read_text().split("\n")
    categories = (exported / "category_idx.txt").read_text().split("\n")
    read = {}
    for name, video in document["database"].items():
        if name in missing:
            continue
        features = np.load(exported / "features" / f"v_{name}.npy")
        grid = opentad_grid(video, categories, video["offset"], video["hop"])
        labels = [categories.index(part["label"]) for part in video["annotations"]]
        read[name] = (features.shape[0], video["subset"], grid, labels)
    assert read == {
        "long": (17, "train", [[0.0, 4.0], [2.0, 34.0]], [0, 1]),
        "mid": (3, "test", [[-2.0, 2.0]], [1]),
    }


def test_a_second_call_writes_the_same_and_removes_what_failed(windows_cache: Cache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_tad(windows_cache, str(out))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    export_tad(windows_cache, str(out))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    part = Cache(shutil.copytree(windows_cache.root, tmp_path / "part"))
    part.ledger.unseal("features/tiny", 0)
    found = export_tad(part, str(out))
    assert found.missing["long.mp4"] == "not sealed yet"
    assert not (out / "features/long.npy").exists()
    assert (out / "features/mid.npy").read_bytes() == before[out / "features/mid.npy"]
    (Path(part.root) / "data.zarr/features/tiny/res4_pooled/c.2.0.0").write_bytes(b"damaged")
    found = export_tad(part, str(out))
    assert (found.missing["mid.mp4"], len(found.damaged)) == ("damaged", 1)


def test_what_cannot_be_exported(windows_cache: Cache, load: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match=r"--array clips/frame_times: expected an array of vectors.*res4_pooled"):
        export_tad(windows_cache, str(tmp_path / "out"), ["clips/frame_times"])
    with pytest.raises(ExchangeError, match=r"rows are from uniform; `clips.sampling: windows` is needed for --to tad"):
        export_tad(index(load()).cache, str(tmp_path / "out"), [POOLED])
    export_npy(windows_cache, str(tmp_path / "npy"), [POOLED])
    with pytest.raises(ExchangeError, match="holds an export of other features"):
        export_tad(windows_cache, str(tmp_path / "npy"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("videos", "names"),
    [
        (("a/x.mp4", "b/y.avi"), ["x", "y"]),
        (("a/x.mp4", "b/x.mp4"), ["a_x", "b_x"]),
        (("x.mp4", "x.avi"), ["x.mp4", "x.avi"]),
        (("a\nb.mp4",), ["a_b"]),
        (("https://host/v.mp4",), ["v"]),
    ],
)
def test_names(videos: tuple[str, ...], names: list[str]) -> None:
    assert [*names_of(videos).values()] == names


def test_a_prefix_that_all_names_have_is_not_doubled() -> None:
    assert names_of(["a/v_x.mp4", "v_v_y.mkv"], "v_") == {"a/v_x.mp4": "x", "v_v_y.mkv": "v_y"}
    assert names_of(["v_x.mp4", "y.mp4"], "v_") == {"v_x.mp4": "v_x", "y.mp4": "y"}


def test_equal_names_are_refused() -> None:
    with pytest.raises(ExchangeError, match=r"a/x\.mp4 and a_x\.mp4 would both be named a_x\.mp4"):
        names_of(["a/x.mp4", "a_x.mp4", "b/a_x.mp4", "a_x.avi", "a/x.avi"])


def test_two_arrays_and_two_caches_stand_side_by_side(windows_cache: Cache, tmp_path: Path) -> None:
    """As [rgb; flow]. Flow has one image less, so its cache may have one window less."""
    both = tmp_path / "both"
    export_tad(windows_cache, str(both), [POOLED, POOLED])
    single = tmp_path / "single"
    export_tad(windows_cache, str(single))
    fused = tmp_path / "fused"
    found = export_tad(windows_cache, str(fused), beside=windows_cache)
    assert (found.num_files, found.unmatched) == (2, [])
    for name in ("long", "mid"):
        features = np.load(single / f"features/{name}.npy")
        for folder in (both, fused):
            np.testing.assert_array_equal(np.load(folder / f"features/{name}.npy"), np.hstack([features, features]))
    manifest = json.loads((fused / "manifest.json").read_text())
    assert [*manifest["beside"]["arrays"]] == [*manifest["arrays"]] == [POOLED]


def test_a_stream_that_is_one_window_longer_loses_the_last_window() -> None:
    first, second = np.zeros((5, 2), np.float32), np.ones((4, 3), np.float32)
    assert side_by_side(first, second).tolist() == [[0, 0, 1, 1, 1]] * 4
    assert side_by_side(second, first).shape == (4, 5)
    with pytest.raises(NoFeaturesError, match="5 windows, and 3 in the other cache"):
        side_by_side(first, second[:3])


def test_what_only_one_cache_has_is_said(
    windows_cache: Cache, load: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_annotations

    def renamed(cache: Cache) -> dict[str, Any]:
        videos = read(cache)
        return {name.replace("mid", "other"): facts for name, facts in videos.items()} if cache is second else videos

    second = Cache(windows_cache.root)
    monkeypatch.setattr(to_tad, "read_annotations", renamed)
    found = export_tad(windows_cache, str(tmp_path / "out"), beside=second)
    assert found.missing["mid.mp4"] == f"not in {second.root}"
    assert (found.num_files, found.unmatched) == (1, ["other"])
    changed = Cache(windows_cache.root)
    monkeypatch.setitem(changed.manifest["clips"], "hop_frames", 4)
    with pytest.raises(ExchangeError, match=r"has other windows than .*: hop_frames: 2 -> 4"):
        export_tad(windows_cache, str(tmp_path / "other"), beside=changed)

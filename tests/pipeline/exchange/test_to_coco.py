"""COCO json and its images, against the arrays of the cache and the frames of the videos."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import UnknownSplit
from kinegraph.pipeline.caches.decoding import decode
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.to_coco import CocoSize, export_coco
from tests.caches import rows_of
from tests.pipeline.conftest import Videos


def document_of(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "annotations.json").read_text())
    return document


def test_boxes_and_frames_are_those_of_the_cache(whole: Cache, tmp_path: Path) -> None:
    out, sizes = tmp_path / "out", list[CocoSize]()
    exported = export_coco(whole, str(out), on_size=sizes.append)
    count, boxes, scores = (rows_of(whole.root, f"proposals/{name}") for name in ("count", "boxes", "scores"))
    assert (exported.num_clips, exported.num_images, exported.num_boxes) == (6, 24, count.sum())
    assert (exported.left_out, exported.damaged) == ({}, [])
    document = document_of(out)
    assert [video["name"] for video in document["videos"]] == whole.clips.column("video_id")
    assert document["classes"] == whole.classes
    assert {category["id"] for category in document["categories"]} == {1}
    images = {image["id"]: image for image in document["images"]}
    rows = [*whole.clips.rows()]
    for row, of_row in enumerate(rows):
        mine = [image for image in images.values() if image["clip_id"] == of_row.clip_id]
        assert [image["frame_index"] for image in mine] == [0, 2, 4, 6]
        assert {(image["width"], image["height"], *image["label_ids"]) for image in mine} == {(96, 80, *of_row.labels)}
        for index, image in enumerate(mine):
            of_image = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
            xywh = np.array([entry["bbox"] for entry in of_image], np.float32).reshape(-1, 4)
            kept = boxes[row, index, : count[row, index]]
            np.testing.assert_allclose(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1), kept, atol=1e-4)
            assert [entry["score"] for entry in of_image] == scores[row, index, : count[row, index]].tolist()
        frames = decode(of_row.path, times=[image["seconds"] for image in mine])[0].pixels
        for image, pixels in zip(mine, frames, strict=True):
            stored = np.asarray(Image.open(out / image["file_name"]), np.int16)
            assert np.abs(stored - pixels).mean() < 6
    assert len({entry["id"] for entry in document["annotations"]}) == exported.num_boxes
    assert json.loads((out / "manifest.json").read_text())["complete"] is True
    written = sum(path.stat().st_size for path in (out / "images").rglob("*.jpg"))
    assert sizes == [CocoSize(6, 24, sizes[0].num_bytes, sizes[0].free_bytes)]
    assert 0.5 < sizes[0].num_bytes / written < 2


def test_categories_are_the_classes_of_boxes(labelled: Cache, tmp_path: Path) -> None:
    export_coco(labelled, str(tmp_path / "out"), rows=range(1))
    document = document_of(tmp_path / "out")
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert names == {1: "cup", 2: "<b>dog"}
    labels = rows_of(labelled.root, "proposals/labels")[0]
    kept = [label for of_frame in labels.tolist() for label in of_frame if label >= 0]
    assert [entry["category_id"] - 1 for entry in document["annotations"]] == kept == [0, 1] * 4


def test_some_rows_and_again(whole: Cache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported = export_coco(whole, str(out), rows=range(2, 4), split="train")
    assert exported.num_clips == 2
    ids = whole.clips.column("clip_id")[2:4]
    assert {image["clip_id"] for image in document_of(out)["images"]} == set(ids)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    export_coco(whole, str(out), rows=range(2, 4), split="train")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "images" / "gone").mkdir()  # of an earlier export that was interrupted
    for name in ("gone/0000.jpg", "gone/mine.jpg"):
        (out / "images" / name).touch()
    assert export_coco(whole, str(out), rows=range(2, 4), split="train").num_removed == 1
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"mine.jpg", *(path.name for path in before)}
    with pytest.raises(ExchangeError, match=r"holds an export of other .* Other than now are: rows\."):
        export_coco(whole, str(out), rows=range(3, 4), split="train")


def test_what_cannot_be_exported(whole: Cache, windows_cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="has no boxes"):
        export_coco(windows_cache, str(tmp_path / "out"))
    with pytest.raises(ExchangeError, match="has the rows 0 to 5"):
        export_coco(whole, str(tmp_path / "out"), rows=range(6, 9))
    with pytest.raises(UnknownSplit, match=r"--split dev: the splits of .* are train"):
        export_coco(whole, str(tmp_path / "out"), split="dev")
    assert not (tmp_path / "out").exists()


def test_clips_that_are_left_out(whole: Cache, tmp_path: Path, shared_videos: Videos, video_folder: Path) -> None:
    """One video is gone, one has changed, one shard is not sealed: each with its reason, and the others are there."""
    (video_folder / "left/v1.mp4").unlink()
    (video_folder / "left/v3.mp4").write_bytes(b"another")
    whole.ledger.unseal("proposals", 2)
    exported = export_coco(whole, str(tmp_path / "out"))
    reasons = {clip.partition(":")[0]: reason for clip, reason in exported.left_out.items()}
    assert reasons["left/v1.mp4"].startswith("missing: no file")
    assert "has changed since it was extracted" in reasons["left/v3.mp4"]
    assert [*reasons.values()].count("not sealed yet") == 2
    assert {image["clip_id"] for image in document_of(tmp_path / "out")["images"]} == {
        str(clip) for clip in whole.clips.column("clip_id") if clip not in exported.left_out
    }
    assert exported.num_clips == 2


def test_videos_elsewhere(whole: Cache, tmp_path: Path, video_folder: Path) -> None:
    shutil.copytree(video_folder, tmp_path / "moved")
    shutil.rmtree(video_folder / "left")
    assert export_coco(whole, str(tmp_path / "out"), videos=tmp_path / "moved").left_out == {}


def test_no_room(whole: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ExchangeError, match=r"need about .* bytes, and 10 are free"):
        export_coco(whole, str(tmp_path / "out"))
    assert not [*tmp_path.rglob("*.jpg")]

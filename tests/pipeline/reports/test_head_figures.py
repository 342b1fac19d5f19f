"""Figures of heads on clips: what is drawn is what the head computed, at its place in the frame."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kinegraph
from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.embedding import pca
from kinegraph.pipeline.reports.head_figures import HeadFigures
from kinegraph.pipeline.reports.head_maps import frames_of, in_boxes
from kinegraph.pipeline.reports.head_sections import class_maps
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.relations import divergences
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, Section
from kinegraph.pipeline.training.results import find_results
from kinegraph.stages.heads.head import Head
from tests.made_reports import HOSTILE, write_runs

MAPS = "features/tiny/res4"


@pytest.fixture(scope="module")
def look(hostile: Cache) -> Look:
    return kinegraph.look(hostile)


@pytest.fixture(scope="module")
def rows(look: Look) -> list[int]:
    return [int(row) for row in np.flatnonzero(look.numbers.usable)[:2]]


def built(look: Look, name: str, **options: object) -> Head:
    torch.manual_seed(0)
    return kinegraph.build_head(name, {key: spec.shape for key, spec in look.cache.readable().items()}, 2, **options)


def figures(look: Look, name: str, **options: object) -> HeadFigures:
    return HeadFigures(look.samples, look.finder, name, built(look, name, **options).eval())


def test_class_maps_are_products_of_weights_and_cached_maps(look: Look, rows: list[int]) -> None:
    drawn = figures(look, "avg_pool")
    weight = np.zeros((2, look.samples.specs[MAPS].shape[1]), np.float32)
    label = look.numbers.labels_of(rows[0])[0]
    weight[1 - label, 3] = weight[label, 5] = 1
    drawn.head.classifier.fc.weight.data = torch.from_numpy(weight)
    drawn.head.classifier.fc.bias.data = torch.tensor([0.0, 0.0])
    drawn.head.classifier.fc.bias.data[1 - label] = 9.0
    (strip,) = drawn.class_maps(rows[:1])
    maps = look.samples.read(MAPS, np.array(rows[:1]))[0].astype(np.float32)  # [T, C, H, W]
    predicted, true = strip.data.values()
    assert predicted == pytest.approx(maps[:, 3] + 9, abs=1e-5)
    assert true == pytest.approx(maps[:, 5], abs=1e-5)
    assert strip.title.endswith(f"taken for {HOSTILE[1 - label]}")
    shares = [frame.heat.shares for frame in strip.frames if frame.heat is not None]
    steps = len(shares) // 2
    assert shares[0] == pytest.approx((predicted[0] - predicted.min()) / np.ptp(predicted), abs=1e-5)
    assert shares[steps] == pytest.approx((true[0] - true.min()) / np.ptp(true), abs=1e-5)
    row = look.cache.rows(rows[0] // look.cache.shard_clips)[rows[0] % look.cache.shard_clips]
    assert strip.frames[0].heat is not None
    assert [*strip.frames[0].heat.rectangle] == [*row.crop]
    drawn.head.classifier.fc.bias.data[label] = 99.0
    assert len(drawn.class_maps(rows[:1])[0].data) == 1, "a right prediction has one line"


def test_class_maps_are_refused_in_words(look: Look, rows: list[int]) -> None:
    with pytest.raises(NothingToShowError, match="proposal_pool has no class activation maps"):
        figures(look, "proposal_pool", dim=8).class_maps(rows)
    drawn = figures(look, "avg_pool")
    drawn.head.source = kinegraph.stages.heads.head.FeatureSource("tiny", "res9")
    with pytest.raises(NothingToShowError, match=r"need the array features/tiny/res9, which the cache lacks. A backb"):
        drawn.class_maps(rows)


def test_clips_by_what_the_classifier_reads(look: Look) -> None:
    drawn = figures(look, "avg_pool")
    picture = drawn.embedding()
    pooled = look.samples.read("features/tiny/res4_pooled", np.flatnonzero(look.numbers.usable)).astype(float).mean(1)
    assert picture.data["points"] == pytest.approx(pca(pooled)[0], abs=1e-3)
    assert picture.title == "PCA of what the classifier of avg_pool reads"
    drawn.head = torch.nn.Module()  # type: ignore[assignment]
    drawn.head.name = "mine.py:Mine"
    with pytest.raises(NothingToShowError, match=r"the head mine\.py:Mine has no classifier of vectors"):
        drawn.embedding()


def test_relations_are_means_over_clips(look: Look, rows: list[int]) -> None:
    drawn = figures(look, "trg", dim=8, num_blocks=1, num_heads=1)
    (mean, between), each = drawn.relations(rows), [drawn.relations([row])[0].data["values"] for row in rows]
    assert mean.data["values"] == pytest.approx((each[0] + each[1]) / 2, abs=1e-6)
    assert between.data["values"] == pytest.approx(divergences(mean.data["values"]), abs=1e-6)
    assert "over 5 clips" in drawn.relations()[0].description
    with pytest.raises(NothingToShowError, match="the head avg_pool has no graph between frames"):
        figures(look, "avg_pool").relations(rows)


def test_actionness_chooses_the_box_with_the_largest_mean(look: Look, rows: list[int]) -> None:
    drawn = figures(look, "atr")
    (strip,) = drawn.actionness(rows[:1])
    (maps,) = strip.data.values()
    boxes = look.samples.read("proposals/boxes", np.array(rows[:1]))[0]
    count = look.samples.read("proposals/count", np.array(rows[:1]))[0]
    shown = strip.frames[0]
    assert shown.heat is not None
    x1, y1, x2, y2 = shown.heat.rectangle
    means = in_boxes(maps[0], (x1, y1, x2, y2), boxes[0, : count[0]].astype(float))
    assert shown.boxes[0].tolist() == boxes[0, np.nanargmax(means)].tolist()
    assert shown.names[0] == f"box {np.nanargmax(means)}, mean {np.nanmax(means):.3f}"
    with pytest.raises(NothingToShowError, match=r"has no map of the action, as it is\. atr has one"):
        figures(look, "non_local").actionness(rows)


def test_messages_of_rstg(look: Look, rows: list[int]) -> None:
    strips = figures(look, "rstg", dim=8, num_iterations=1).messages(rows)
    assert [strip.data["strength"].shape for strip in strips] == [(look.samples.specs[MAPS].shape[0], 90)] * 2
    assert {len(frame.edges) for frame in strips[0].frames} == {5}
    with pytest.raises(NothingToShowError, match="sends no messages between cells"):
        figures(look, "rstg", dim=8, schedule="time_only").messages(rows)


def test_frames_of_time_steps() -> None:
    spec = ArraySpec(name="features/a/b", stage="features/a", shape=(4, 1, 1, 1), dtype="float32",
                     dims=("t", "c", "y", "x"), fill=0, about="", frame_step=2)  # fmt: skip
    assert frames_of(spec, 4).tolist() == [0, 2, 4, 6]
    assert frames_of(spec, 2).tolist() == [0, 4]  # the head halves the steps


def test_the_section_shows_mistakes_first_and_tells_refusals(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = look.numbers.video_ids.to_pylist()
    write_runs(tmp_path, look.cache.root, videos, seeds=(0,))
    contents = Contents(look=look, runs=Runs(find_results(tmp_path)))
    section = class_maps(contents)
    assert isinstance(section, Absent)
    assert section.reason == "No run here has a score and weights."
    for name in ("strg_joint", "avg_pool"):
        (tmp_path / name / "seed0/model.safetensors").touch()
    heads = {"strg_joint": "proposal_pool", "avg_pool": "avg_pool"}
    monkeypatch.setattr(Look, "head", lambda self, folder, name: figures(self, heads[name]))
    section = class_maps(contents)
    assert isinstance(section, Section)
    words = [part.text for part in section.parts if isinstance(part, Paragraph)]
    assert words[0].startswith("Where avg_pool sees a class. ")
    names = [part.drawing.name for part in section.parts if isinstance(part, ReportFigure)]
    assert len(names) == len({*names}) >= 2
    (tmp_path / "avg_pool/seed0/model.safetensors").unlink()
    section = class_maps(contents)
    assert isinstance(section, Absent)
    assert "proposal_pool has no class activation maps" in section.reason

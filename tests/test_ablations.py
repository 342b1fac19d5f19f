"""The ablations: rows are variants of configs, claims are judged by a rule, measures agree with what is known."""

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.ablations import measures, record, render
from examples.ablations.__main__ import FIGURES
from examples.ablations.measures import covered, divergence, things_of
from examples.ablations.record import MEASURED, MeasuredRow, measured_rows, prepared
from examples.ablations.rows import (
    ABLATIONS,
    ACCURACY,
    AREA,
    DIVERGENCE,
    IN_OTHERS,
    IN_PAIR,
    ST_SGN,
    WINDOW,
    Ablation,
    Claim,
)
from kinegraph.cache_schemas import stopping
from kinegraph.cli import exits
from kinegraph.pipeline.config import load_config
from kinegraph.stages.heads.build import build_head

MAPS = "features/tiny/res4"


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.paper)
def test_rows_are_variants_and_claims_are_about_rows(ablation: Ablation) -> None:
    variants = load_config(ablation.config).train.variants
    assert ablation.rows.keys() <= variants.keys()
    for claim in ablation.claims:
        for row, measure in [figure for pair in claim.larger for figure in pair]:
            assert row in ablation.rows
            assert measure == ACCURACY or measure in ablation.measures


def test_the_page_is_what_was_recorded() -> None:
    document = json.loads(FIGURES.read_bytes())
    assert render.PAGE.read_text(encoding="utf-8") == render.page(document), "run `python -m examples.ablations`"
    for ablation in ABLATIONS:
        for row in document["rows"][ablation.paper]:
            assert len(row["values"][ACCURACY]) == document["seeds"] == 3, row["name"]


def rows(first: list[float], second: list[float]) -> list[MeasuredRow]:
    named = {"a": first, "b": second}
    return [MeasuredRow(name=n, values={ACCURACY: v}, seconds=1, num_parameters=1) for n, v in named.items()]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([0.4, 0.5, 0.3], "**Shows up**. `a` - `b`: +0.167 (+0.100 to +0.300)."),
        ([0.4, 0.5, 0.7], "**Does not show up here**. `a` - `b`: +0.033 (-0.100 to +0.100)."),
        ([0.6, 0.7, 0.7], "**The opposite shows up**. `a` - `b`: -0.100 (-0.100 to -0.100)."),
        ([0.5, 0.6, 0.6], "**Does not show up here**. `a` - `b`: +0.000 (+0.000 to +0.000)."),
    ],
)
def test_a_claim_shows_up_if_every_seed_says_so(second: list[float], words: str) -> None:
    claim = Claim(text="A is better.", larger=((("a", ACCURACY), ("b", ACCURACY)),))
    assert render.verdict(claim, rows([0.5, 0.6, 0.6], second)) == words


def test_a_claim_of_two_pairs_needs_both() -> None:
    better, worse = (("a", ACCURACY), ("b", ACCURACY)), (("b", ACCURACY), ("a", ACCURACY))
    assert "Does not show up" in render.verdict(Claim(text="", larger=(better, worse)), rows([0.9], [0.1]))


def test_boxes_cover_parts_of_cells() -> None:
    """Cells of a map of 12 x 12 have 8 px. Two boxes that overlap count once."""
    boxes = np.array([[[8.0, 0.0, 16.0, 8.0], [8.0, 0.0, 12.0, 8.0], [92.0, 94.0, 96.0, 96.0]]])
    part = covered(boxes, 12, 12)[0]
    assert part[0, 1] == 1
    assert part[11, 11] == 8 / 64
    assert part.sum() == 1 + 8 / 64


def test_the_divergence_of_rows() -> None:
    assert divergence(torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0]]).double()) == pytest.approx(0, abs=1e-12)
    assert divergence(torch.eye(3).double()) == pytest.approx(1)
    assert 0.1 < divergence(torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()) < 0.9


def test_things_are_found_by_their_boxes() -> None:
    things = torch.tensor([[[[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]]])
    boxes = torch.tensor([[[[21.0, 0.0, 31.0, 10.0], [0.0, 0.0, 10.0, 9.0], [5.0, 5.0, 15.0, 15.0], [np.nan] * 4]]])
    assert things_of(boxes, things).tolist() == [[[1, 0, -1, -1]]]


def test_the_strongest_neighbour_is_compared_with_a_random_one() -> None:
    """Two frames of two things and a box of nothing. Node 0 prefers the other thing, nodes 1, 3 and 4 their own."""
    things = torch.tensor([[[0, 1, -1], [0, 1, -1]]])
    matrix = torch.zeros(1, 6, 6)
    for node, neighbour in ((0, 4), (1, 4), (3, 0), (4, 1)):
        matrix[0, node, neighbour] = 0.5
        matrix[0, node, 5] = matrix[0, node, node] = 1.0  # no neighbours
    assert measures._same(matrix, things, next_frame=False) == (3.0, 2.0, 4.0)
    assert measures._same(matrix, things, next_frame=True) == (1.0, 1.0, 2.0)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips of eight frames, with a map of every second frame."""
    boxes = np.tile(
        np.array([[0.0, 0, 16, 16], [8, 8, 24, 24], [40, 40, 56, 56], [70, 0, 86, 16]]), (8, 1, 1)
    )  # of eight frames; maps are of every second

    def two_clips(clips: Any) -> Iterator[Any]:
        yield {MAPS: torch.rand(2, 4, 8, 12, 12)}, [boxes, boxes]

    monkeypatch.setattr(measures, "_batches", two_clips)


def test_a_locator_without_weights_looks_everywhere(batches: None) -> None:
    head = build_head("atr", {MAPS: (4, 8, 12, 12)}, 3, reduction=4).eval()
    with torch.inference_mode():
        for name, parameter in head.named_parameters():
            if "phi2" in name:
                parameter.zero_()
        found = measures.mass_of_the_locator(head, [0, 1])  # type: ignore[arg-type]
    assert found[IN_PAIR] == pytest.approx(found[AREA], abs=1e-6)
    assert found[AREA] == pytest.approx((2 * 16 * 16 - 64) / 96**2, abs=1e-6)
    assert found[IN_OTHERS] == pytest.approx(2 * 16 * 16 / 96**2, abs=1e-6)
    assert measures.relations_of_frames(head, [0, 1]) == {}  # type: ignore[arg-type]
    simple = build_head("atr", {MAPS: (4, 8, 12, 12)}, 3, locator="none").eval()
    assert measures.mass_of_the_locator(simple, [0, 1]) == {}  # type: ignore[arg-type]


def test_a_reasoner_without_weights_relates_all_frames_alike(batches: None) -> None:
    head = build_head("atr", {MAPS: (4, 8, 12, 12)}, 3, reasoner="graph", reduction=4).eval()
    with torch.inference_mode():
        for name, parameter in head.named_parameters():
            if "theta" in name:
                parameter.zero_()
        found = measures.relations_of_frames(head, [0, 1])  # type: ignore[arg-type]
    assert found == {DIVERGENCE: pytest.approx(0, abs=1e-9), WINDOW: pytest.approx(3 / 4)}


def test_what_is_finished_is_kept(tmp_path: Path) -> None:
    """One seed, then two: the first is neither trained nor measured again."""
    few = ["dataset.train=20", "dataset.val=10", "dataset.test=20", "backbones={}", "proposals=null", "regions=null"]
    few += [f"{key}={tmp_path}/{key}" for key in ("cache", "dataset.root", "train.run")]
    kept = {name: ST_SGN.rows[name] for name in ("st_sgn_matrix", "st_sgn_gine")}
    small, lines = replace(ST_SGN, rows=kept, claims=ST_SGN.claims[:1]), list[str]()
    config = prepared(small.config, [*few, "train.epochs=1"], lines.append)
    [first, _] = measured_rows(config, small, 1, lines.append)
    assert first.values.keys() == {ACCURACY, *ST_SGN.measures}
    places = sorted(Path(config.train.run).rglob(MEASURED))
    before = [path.stat().st_mtime_ns for path in places]
    lines.clear()
    again = measured_rows(config, small, 2, lines.append)
    assert [path.stat().st_mtime_ns for path in places] == before
    assert [len(lines), again[0].values[ACCURACY][0]] == [2, first.values[ACCURACY][0]]
    section = "\n".join(render.section(small, again))
    assert "| `st_sgn_matrix` | relation matrix, biGRU | 0." in section
    assert "±" in section
    assert record.document(again)[0]["name"] == "st_sgn_matrix"


def test_ctrl_c_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "prepared", stopped)
    monkeypatch.setattr(exits, "stop_on_signals", lambda: None)
    monkeypatch.setattr(stopping._noted, "words", "")
    monkeypatch.setattr(sys, "argv", ["examples.ablations", "--paper", "rstg"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FIGURES.with_name("__main__.py")), run_name="__main__")
    assert end.value.code == 130
    assert "Finished runs are kept. The same command goes on from there." in capsys.readouterr().err

"""--against: what differs between two caches and two folders of runs. Scores by attribute and by one key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinegraph
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports.comparison import NO_OTHER, comparison
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.look import Look
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.run_sections import classes, heads
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Absent, Paragraph, ReportFigure, ReportTable, Section
from kinegraph.pipeline.reports.varied import varied
from kinegraph.pipeline.training.results import find_results
from tests.made_reports import HOSTILE, write_kept, write_runs


def parts(section: Section | Absent) -> tuple[str, dict[str, ReportTable], dict[str, Any]]:
    """The paragraphs, the tables by caption, and the figures by name."""
    assert isinstance(section, Section)
    words = " ".join(part.text for part in section.parts if isinstance(part, Paragraph))
    tables = {part.caption: part for part in section.parts if isinstance(part, ReportTable)}
    return words, tables, {part.drawing.name: part.drawing for part in section.parts if isinstance(part, ReportFigure)}


def test_two_caches(hostile: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    look = kinegraph.look(hostile)
    other = kinegraph.look(hostile)
    array = "features/tiny/res4_pooled"
    words, tables, drawn = parts(comparison(Contents(look=look, against=Contents(look=other), against_name="OTHER")))
    assert "there is OTHER. All options of clips, data set and stages are equal." in words
    assert tables["Clips of both"].rows[0] == ["clips", "6", "6"]
    assert {row[3] for row in tables["Features of both"].rows} == {"0.0%"}
    figure = drawn["against_features_tiny_res4_pooled"]
    assert figure.data["here"].tolist() == figure.data["there"].tolist()
    monkeypatch.setattr(Look, "vectors", lambda self, name: moved(self, name) if self is other else plain(self, name))
    _, tables, _ = parts(comparison(Contents(look=look, against=Contents(look=other))))
    of_array = {row[0]: row[3] for row in tables["Features of both"].rows}
    channels = look.samples.specs[array].shape[1]
    assert of_array[array] == f"{1 / channels:.1%}"


plain = Look.vectors


def moved(look: Look, name: str) -> Any:
    """A summary whose first channel has another mean."""
    summary = plain(look, name)
    mean = summary.mean.copy()
    mean[0] += 10
    return replace(summary, mean=mean)


def test_different_options_are_listed(hostile: Cache) -> None:
    other = kinegraph.look(hostile)
    stage = other.numbers.stages["features/tiny"].stage
    options = {**stage.options, "new": {"inner": 3}}
    other.numbers.stages["features/tiny"].stage = replace(stage, options=options, weights="random:1")
    _, tables, _ = parts(comparison(Contents(look=kinegraph.look(hostile), against=Contents(look=other))))
    assert [*tables["Different options"].rows] == [
        ["features/tiny: new.inner", "(absent)", "3"],
        ["features/tiny: weights", "random:0", "random:1"],
    ]


@pytest.fixture
def two_runs(hostile: Cache, tmp_path: Path) -> tuple[Runs, Runs]:
    videos = [row.video_id for row in hostile.clips.rows()]
    roots = tmp_path / "here", tmp_path / "there"
    for root, num_right in zip(roots, (4, 3), strict=True):
        for folder, run in find_results(write_runs(root, hostile.root, videos, seeds=(0,))):
            if run.name == "strg_joint":
                write_kept(folder, run, videos, num_right)
    here, there = (Runs(find_results(root)) for root in roots)
    return here, there


def test_two_folders_of_runs(two_runs: tuple[Runs, Runs]) -> None:
    here, there = two_runs
    words, tables, drawn = parts(comparison(Contents(runs=here, against=Contents(runs=there), against_name="there")))
    assert "6 videos with predictions in both: 3 right in both, 2 wrong in both, 1 right here alone, 0 right" in words
    assert [row[0] for row in tables["Scores of both"].rows] == ["strg_joint", "avg_pool"]
    assert "All settings of strg_joint here and strg_joint there are equal." in words
    (changed,) = tables["Predictions that changed"].rows
    first_wrong = here.best()[1].video_ids[2]
    assert changed[0] == first_wrong
    assert changed[2].startswith(HOSTILE[0])
    assert changed[3].startswith(HOSTILE[1])
    scores = drawn["classes_against"].data
    assert scores["strg_joint here"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert sorted(scores["strg_joint there"].tolist()) == pytest.approx([1 / 3, 2 / 3])
    lone, _, _ = parts(comparison(Contents(runs=here, against=Contents())))
    assert "No runs are compared, because none are there." in lone
    section = comparison(Contents(runs=here))
    assert isinstance(section, Absent)
    assert section.reason == NO_OTHER


def test_scores_by_attribute(two_runs: tuple[Runs, Runs]) -> None:
    """Class 0 has a ball, class 1 has a cup, and both are games."""
    attributes = {HOSTILE[0]: {"object": "ball", "kind": "game"}, HOSTILE[1]: {"object": "cup", "kind": "game"}}
    runs = two_runs[1]
    scores = dict(zip(HOSTILE, runs.best()[1].per_class(), strict=True))
    picture = runs.attributes(attributes)
    drawn = dict(zip(picture.data["label"].tolist(), picture.data["strg_joint"].tolist(), strict=True))
    assert drawn == pytest.approx({
        "object: ball (1)": scores[HOSTILE[0]], "object: cup (1)": scores[HOSTILE[1]],
        "kind: game (2)": sum(scores.values()) / 2,
    })  # fmt: skip
    assert "avg_pool" in picture.data
    _, _, figures = parts(classes(Contents(runs=runs, attributes=attributes)))
    assert "attributes" in figures
    assert "attributes" not in parts(classes(Contents(runs=runs)))[2]
    with pytest.raises(NothingToShowError, match="No class with a score has an attribute"):
        runs.attributes({})


def test_one_varying_key(tmp_path: Path) -> None:
    """The runs of one head get the options 8, 32 and 16 for its width."""
    (_, run), other = find_results(write_runs(tmp_path / "runs", "cache", seeds=(0,)))
    scores = {8: [0.1, 0.3], 32: [0.5, 0.7], 16: [0.4]}
    made = [
        (tmp_path / f"dim{dim}" / f"seed{seed}", run.model_copy(update={
            "name": f"dim{dim}", "seed": seed, "scores": {"test": {"top1": score}},
            "recipe": run.recipe.model_copy(update={"options": {"dim": dim}, "seed": seed}),
        }))
        for dim, of_dim in scores.items() for seed, score in enumerate(of_dim)
    ]  # fmt: skip
    runs = Runs(made)
    picture = runs.by_key()
    assert picture.title == "test top1 by options.dim"
    assert picture.data["x of options.dim"].tolist() == [8, 16, 32]
    assert np.nanmean(picture.data["y of options.dim"], 0) == pytest.approx([0.2, 0.4, 0.6])
    assert "by_key" in parts(heads(Contents(runs=runs)))[2]
    named = [(folder, it.model_copy(update={"recipe": it.recipe.model_copy(update={"options": {"graphs": it.name}})}))
             for folder, it in made]  # fmt: skip
    assert Runs(named).by_key().data["label"].tolist() == ["dim8", "dim32", "dim16"]
    assert varied(Runs([*made, other]).groups) is None, "the head differs, too"
    with pytest.raises(NothingToShowError, match="differ in no key or in several"):
        Runs([*made[:1]]).by_key()


def test_a_key_of_the_features_varies(tmp_path: Path) -> None:
    """Caches with 2 and 5 boxes: run.json has the options of the stages."""
    (_, run), *_ = find_results(write_runs(tmp_path, "cache", seeds=(0,)))
    groups = {}
    for top in (2, 5):
        of_top = tmp_path / f"top{top}"
        of_top.mkdir()
        features = {"proposals": {"top": top}, "regions/tiny": {"roi_size": 7}}
        (of_top / "run.json").write_text(json.dumps({"options": {}, "features": features}))
        groups[f"top{top}"] = [(of_top, run.model_copy(update={"cache_fingerprint": str(top)}))]
    found = varied(groups)
    assert found is not None
    assert (found.key, found.values) == ("proposals.top", {"top2": 2, "top5": 5})

"""Runs of heads that train several candidates: what is chosen, kept, written and used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.training.results import read_results
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.starting_weights import start_from
from kinegraph.pipeline.training.table import train_runs
from kinegraph.pipeline.training.trainable import build_for
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.candidates import candidates_of
from kinegraph.stages.training.checkpoint import load_run
from kinegraph.stages.training.records import EpochRecord

GRID: dict[str, Any] = {"learning_rates": [1e-2, 1e-5], "weight_decays": [0.1, 0]}


def probes(config: Config, tmp_path: Path, **options: Any) -> Config:
    train = {"head": "linear_probe", "options": GRID, "epochs": 3, "batch_size": 4, "val_split": "train"}
    document = config.model_dump(mode="json", exclude_unset=True) | {
        "train": train | {"run": str(tmp_path / "runs/<head>")} | options
    }
    return check_config(document, "test")


@pytest.mark.parametrize(
    ("head", "over"), [("linear_probe", "clips"), ("attentive_probe", "clips"), ("attentive_probe", "videos")]
)
def test_a_run_has_the_chosen_candidate_alone(
    head: str, over: str, windows_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = GRID | ({"read": "pooled", "num_blocks": 1} if head == "attentive_probe" else {})
    config = probes(windows_config, tmp_path, head=head, options=options, over=over)

    def stop(run: object, record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(config, on_epoch=stop)
    (run,) = train_runs(config)
    trained, record = load_run(run.folder)
    (chosen,) = candidates_of(trained)
    results = read_results(run.folder)
    assert results.candidate == chosen.name
    assert len(results.of_candidates) == 4
    assert results.of_candidates[chosen.name] == results.scores["train"][str(results.metric)]
    assert (record.options["learning_rates"], record.options["weight_decays"]) == (
        [chosen.learning_rate], [chosen.weight_decay],
    )  # fmt: skip
    assert results.num_parameters == sum(parameter.numel() for parameter in trained.parameters())
    assert evaluate_run(run.folder, split="train").result.metrics.items() <= results.scores["train"].items()
    expected = evaluate_run(run.folder).result.videos
    mid = Path(windows_config.cache).parent / "videos" / "mid.mp4"
    (prediction,) = Predictor(run.folder, overrides=["run.threads=1", "run.batch_size=4"]).predict([mid])
    assert prediction.scores is not None
    torch.testing.assert_close(
        prediction.scores, expected.scores[expected.video_ids.index("mid.mp4")], rtol=1e-5, atol=1e-5
    )
    if chosen.learning_rate == 1e-2:
        told = f"{head} seed 0: validation chose the highest learning rate of the candidates, 0.01. Add higher ones"
        assert told in caplog.text


def test_what_has_no_effect_is_told(windows_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run,) = train_runs(probes(windows_config, tmp_path, learning_rate=0.1, epochs=1))
    told = "linear_probe: train.learning_rate: no effect, because the options `learning_rates` and `weight_decays` of"
    assert told in caplog.text
    assert run.results.recipe.learning_rate == 0.1
    config = probes(windows_config, tmp_path, start_from=str(run.folder), run=str(tmp_path / "later"))
    with pytest.raises(UsageError, match=r"train\.start_from: linear_probe has several candidates"):
        train_runs(config)
    single = {"learning_rates": [1e-3], "weight_decays": [0]}
    (later,) = train_runs(probes(windows_config, tmp_path, start_from=str(run.folder), run=str(tmp_path / "later"),
                                 options=single))  # fmt: skip
    assert later.results.of_candidates.keys() == {"learning rate 0.001, weight decay 0"}
    cache = Cache(windows_config.cache)
    head = build_for(cache, later.results.recipe)
    start_from(head, run.folder, cache)
    assert all(torch.equal(head.state_dict()[name], x) for name, x in load_run(run.folder)[0].state_dict().items())


def test_a_grid_without_a_validation_is_refused_before_training(windows_config: Config, tmp_path: Path) -> None:
    for val_split in (None, "test"):
        with pytest.raises(UsageError, match=r"train\.val_split: given .* has 4 candidates, and validation chooses"):
            train_runs(probes(windows_config, tmp_path, val_split=val_split))
    (run,) = train_runs(probes(windows_config, tmp_path, epochs=1))
    document = json.loads((run.folder / "results.json").read_text())
    del document["candidate"], document["of_candidates"]
    for record in document["history"]:
        del record["candidate_index"], record["of_candidates"]
    (run.folder / "results.json").write_text(json.dumps(document))
    assert read_results(run.folder).candidate is None, "results of earlier versions"

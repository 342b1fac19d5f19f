import subprocess
import sys
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from kinegraph.stages.training.options import TrainOptions


def test_the_skeleton_of_a_config_is_valid_as_it_is() -> None:
    section = yaml.safe_load("{head: strg, options: {}, seed: 0, epochs: 20, batch_size: 64, run: runs/<head>}")
    assert TrainOptions.model_validate(section) == TrainOptions()


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": -1},
        {"optimiser": "sgd"},
        {"schedule": "step"},
        {"patience": 0},
        {"seed": "x"},
        {"milestones": [3]},
        {"milestones": [3, 2], "schedule": "step"},
        {"milestones": [20], "schedule": "step"},
        {"schedule": "plateau", "val_split": None},
        {"patience": 5, "schedule": "plateau"},
        {"warmup": 5, "iterations": 5},
        {"metric": "top1", "val_split": None},
        {"class_weights": "equal"},
        {"class_weights": [1, 0]},
        {"ema": 1},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainOptions.model_validate(wrong)


def test_every_option_says_what_it_is_for() -> None:
    assert all(field.description for field in TrainOptions.model_fields.values())


def test_options_are_read_without_torch() -> None:
    code = "import sys, kinegraph.stages.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

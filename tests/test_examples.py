"""The examples load; those of the papers are what their table makes, and each of their heads takes a step."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from cache_schemas.arrays import crop_array
from pipeline.config import Config, load_config
from pipeline.declare import declare
from stages.heads.build import rebuild_head
from stages.training.losses import clip_loss
from stages.training.options import TrainOptions

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml"))
PAPERS = [name for name in CONFIGS if name.startswith("papers/")]
NUM_CLASSES = 5


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_papers", EXAMPLES / "papers" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", CONFIGS)
def test_it_loads(name: str) -> None:
    config = load_config(EXAMPLES / name)
    assert config.train.recipe.run == config.train.run


def test_the_configs_of_the_papers_are_those_of_the_table() -> None:
    texts = {row.path.relative_to(EXAMPLES).as_posix(): row.text for row in _generator().rows()}
    assert sorted(texts) == PAPERS
    for name, text in texts.items():
        assert (EXAMPLES / name).read_text() == text, f"{name}: run `python examples/papers/generate.py`"


@pytest.mark.parametrize("name", PAPERS)
def test_its_heads_take_a_step(name: str) -> None:
    """At the papers' sizes: as shapes only, but for heads on graphs, whose work depends on values."""
    config = load_config(EXAMPLES / name)
    names = [*config.train.variants]
    recipes = [config.train.recipe, *map(config.train.variant, {*names[:1], *names[-1:]})]
    for recipe in recipes:
        device = "cpu" if config.graphs is not None else "meta"
        with torch.device(device), torch.random.fork_rng([]):
            _step(config, recipe)


def _step(config: Config, recipe: TrainOptions) -> None:
    spec = {array.name: array.shape for array in (*declare(config, {}).arrays, crop_array())}
    options = dict(recipe.options)
    if "tail" in options:
        (backbone,) = config.backbones.values()
        options["tail"] |= {"model": backbone.model, "options": backbone.options, "weights": backbone.weights}
    head = rebuild_head(recipe.head, spec, NUM_CLASSES, options).train()
    clip_loss(head({name: _array(name, spec[name]) for name in head.reads}), torch.tensor([0, 1])).backward()
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.shape == parameter.shape for parameter in trained)


def _array(name: str, shape: tuple[int, ...]) -> Tensor:
    """Two clips with as many regions as fit, and a few objects in every graph."""
    if name.endswith("/count"):
        return torch.full((2, *shape), 2, dtype=torch.int16)
    whole = name in ("graphs/objects", "graphs/linked", "graphs/relations")
    return torch.ones(2, *shape, dtype=torch.uint8 if whole else torch.float32)

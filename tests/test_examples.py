"""The examples load; those of the papers are what their table makes, and each of their heads takes a step."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as shapes
from torch.nn import functional

from examples.papers.generate import texts
from kinegraph.cache_schemas.arrays import crop_array
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.demo import CONFIG as DEMO
from kinegraph.stages.backbones.catalogue import CATALOGUE, TIMM_PREFIX
from kinegraph.stages.backbones.entry import INFLATE
from kinegraph.stages.heads.build import HEADS, rebuild_head
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.losses import clip_loss
from kinegraph.stages.training.options import TrainOptions

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml"))
PAPERS = [name for name in CONFIGS if name.startswith("papers/") and not name.startswith("papers/views/")]
NUM_CLASSES = 5
FEW = 3


@pytest.mark.parametrize("name", CONFIGS)
def test_it_loads(name: str) -> None:
    config = load_config(EXAMPLES / name)
    assert config.train.recipe.run == config.train.run
    for entry in config.backbones:
        assert _are_known(config, entry), f"{name}: {config.backbones[entry].weights}"


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("finetune/")])
def test_a_recipe_of_finetuning_says_where_it_is_from_and_what_it_lacks(name: str) -> None:
    header = (EXAMPLES / name).read_text().partition("cache: ")[0]
    assert "# Source: " in header
    assert "# What these keys cannot say:" in header
    config = load_config(EXAMPLES / name)
    assert config.finetune.unfreeze == "all"
    assert config.finetune.run == f"{config.train.run}-tuned"
    assert config.finetune.decay_all is False
    short_side = config.finetune.views.short_side
    assert short_side is not None
    for entry in config.backbones.values():
        assert (entry.size or 0) <= short_side[0], "squares are not larger than the frame"


def _are_known(config: Config, name: str) -> bool:
    """Whether the weights of a backbone entry are named ones, random, inflated from them, or what a command makes."""
    weights, known = config.backbones[name].weights, config.entry_of(name)
    if weights.startswith(INFLATE) and known.inflates is not None:
        weights, known = weights.removeprefix(INFLATE), CATALOGUE[known.inflates]
    made = Path(weights).suffix == ".safetensors"
    return made or weights in known.weights or weights.startswith("random:") or known.name.startswith(TIMM_PREFIX)


def test_the_configs_of_the_papers_are_those_of_the_table() -> None:
    written = {path.relative_to(EXAMPLES).as_posix(): text for path, text in texts().items()}
    assert sorted(written) == [name for name in CONFIGS if name.startswith("papers/")]
    for name, text in written.items():
        assert (EXAMPLES / name).read_text() == text, f"{name}: run `python -m examples.papers.generate`"


BUILT: set[str] = set()
STEPPED: set[str] = set()


@contextmanager
def _for_shapes() -> Iterator[None]:
    """On `meta` no mask has values. Regions of maps are those of all boxes there."""
    with (
        shapes.patch(meta_nonzero_assume_all_nonzero=True),  # type: ignore[attr-defined]
        patch.object(functional, "batch_norm", _affine),
        patch.object(nn.LSTM, "forward", _lstm),
    ):
        yield


def _affine(x: Tensor, mean: object, variance: object, weight: Tensor, bias: Tensor, *_: object) -> Tensor:
    """Batch normalization for shapes and gradients alone. torch's own takes most of a step's time on `meta`."""
    assert x.shape[1:2] == weight.shape == bias.shape
    per_channel = (-1, *[1] * (x.dim() - 2))
    return x * weight.view(per_channel) + bias.view(per_channel)


def _lstm(lstm: nn.LSTM, sequences: Tensor, state: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer for shapes and gradients alone. torch's own goes through the frames one by one on `meta`."""
    assert (lstm.num_layers, lstm.bidirectional, lstm.batch_first) == (1, False, True)
    ((of_inputs, of_states, bias_of_inputs, bias_of_states),) = lstm.all_weights
    hidden = functional.linear(sequences, of_inputs, bias_of_inputs)[..., : lstm.hidden_size]
    hidden = functional.linear(hidden, of_states, bias_of_states)[..., : lstm.hidden_size]
    last = hidden[:, -1][None]
    assert state is None or all(x.shape == last.shape for x in state)
    return hidden, (last, last)


@pytest.mark.parametrize("name", PAPERS)
def test_its_heads_take_a_step(name: str) -> None:
    """At the papers' sizes: as shapes only, but for heads on graphs, whose work depends on values.

    All variants are built, the same head on the same arrays once. Of those that differ only by the length of their
    slices or by the number of frames, one is stepped.
    """
    config = load_config(EXAMPLES / name)
    spec = _spec(config)
    networks = [(backbone.model, backbone.options, backbone.weights) for backbone in config.backbones.values()]
    for recipe in (*map(config.train.variant, config.train.variants), config.train.recipe):
        same = json.dumps([recipe.head, dict(recipe.options), networks, spec])
        if same in BUILT:
            continue
        BUILT.add(same)
        with torch.device("meta"), torch.random.fork_rng([]):
            head = _head(config, recipe)
        frames = {array: _few(array, spec[array])[1:] for array in head.reads}
        kind = json.dumps([recipe.head, head.options | {"slice_seconds": None}, frames])
        if kind not in STEPPED:
            STEPPED.add(kind)
            if config.graphs is None:
                _step(head, spec, "meta")
            else:
                with torch.random.fork_rng([]):
                    _step(_head(config, recipe), spec)


ALL_HEADS = load_config(EXAMPLES / "all_heads.yaml")


def test_all_heads_are_all_but_those_of_other_tasks() -> None:
    compared = {ALL_HEADS.train.variant(name).head for name in ALL_HEADS.train.variants}
    assert compared == HEADS.keys() - {"conv3d", "mlp", "linear_probe", "attentive_probe"}


@pytest.mark.parametrize("name", ALL_HEADS.train.variants)
def test_each_of_all_heads_takes_a_step(name: str) -> None:
    with torch.random.fork_rng([]):
        _step(_head(ALL_HEADS, ALL_HEADS.train.variant(name)), _spec(ALL_HEADS))


SYNC_MNIST = load_config(EXAMPLES / "sync_mnist" / "full_3.yaml")


@pytest.mark.parametrize("name", SYNC_MNIST.train.variants)
def test_each_head_of_sync_mnist_takes_a_step(name: str) -> None:
    """As shapes only."""
    with torch.device("meta"):
        head = _head(SYNC_MNIST, SYNC_MNIST.train.variant(name))
    _step(head, _spec(SYNC_MNIST), "meta")


def test_both_tables_of_sync_mnist_are_of_the_same_heads() -> None:
    both = (SYNC_MNIST, load_config(EXAMPLES / "sync_mnist" / "full_5.yaml"))
    first, second = (config.model_dump(include={"backbones", "clips", "train"}) for config in both)
    for each in (first, second):
        each["train"].pop("run")
    assert first == second


def test_the_demo_is_part_of_all_heads() -> None:
    demo = load_config(DEMO)
    for name in demo.train.variants:
        there, here = (train.variant(name).model_dump(exclude={"run"}) for train in (demo.train, ALL_HEADS.train))
        assert (there.pop("precision"), here.pop("precision")) == ("bf16", "fp32")  # docs/all_heads.md is of float32
        assert here == there, name


def _spec(config: Config) -> dict[str, tuple[int, ...]]:
    return {array.name: array.shape for array in (*declare(config, {}).arrays, crop_array())}


def _head(config: Config, recipe: TrainOptions) -> Head:
    options = dict(recipe.options)
    if "tail" in options:
        (backbone,) = config.backbones.values()
        options["tail"] |= {"model": backbone.model, "options": backbone.options, "weights": backbone.weights}
    return rebuild_head(recipe.head, _spec(config), NUM_CLASSES, options).train()


def _step(head: Head, spec: dict[str, tuple[int, ...]], device: str = "cpu") -> None:
    """All that is trained gets a gradient, and a finite one. On `meta` there are no values, and the graph of the loss
    says which parameters get one: a backward pass of shapes takes as long as one of values.

    `meta` is the default device for the arrays alone. It makes each operation of a step slower.
    """
    with torch.device(device):
        arrays, labels = {name: _array(name, spec[name]) for name in head.reads}, torch.tensor([0, 1])
    with _for_shapes() if device == "meta" else nullcontext():
        loss = clip_loss(head(arrays), labels)
    trained = {parameter for parameter in head.parameters() if parameter.requires_grad}
    if device == "meta":
        assert trained <= _reached(loss)
    else:
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


def _reached(loss: Tensor) -> set[Tensor]:
    """What a backward pass gives a gradient."""
    steps, seen = [loss.grad_fn], set[Any]()
    while steps:
        step = steps.pop()
        if step is not None and step not in seen:
            seen.add(step)
            steps += [before for before, _ in step.next_functions]
    return {step.variable for step in seen if hasattr(step, "variable")}


def _few(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the array for a clip, of graphs with a few frames of a few objects."""
    return tuple(min(size, FEW) for size in shape[:2]) + shape[2:] if name.startswith("graphs/") else shape


def _array(name: str, shape: tuple[int, ...]) -> Tensor:
    """Two clips with a few regions a frame, or a few graphs of a few objects."""
    shape = _few(name, shape)
    if name.endswith("/count"):
        return torch.full((2, *shape), 2, dtype=torch.int16)
    whole = name in ("graphs/objects", "graphs/linked", "graphs/relations")
    if torch.get_default_device().type == "meta":
        return torch.empty(2, *shape, dtype=torch.uint8 if whole else torch.float32)
    random = torch.Generator().manual_seed(0)
    if whole:
        return torch.randint(0, 2, (2, *shape), generator=random, dtype=torch.uint8)
    if name in ("proposals/boxes", "clips/crop"):
        return torch.rand(2, *shape, generator=random) * 50 + torch.tensor([0, 0, 50, 50])
    return torch.rand(2, *shape, generator=random)

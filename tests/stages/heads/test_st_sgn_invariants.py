"""The properties that follow from the equations of ST-SGN, and its sizes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import Head, HeadError
from kinegraph.stages.heads.st_sgn import read_graphs, relation_matrices

Batch = dict[str, Tensor]
B, T, M, R, O, CLASSES = 3, 6, 4, 5, 7, 4  # noqa: E741
LAYERS, READOUTS, REDUCERS = ["gine", "cgconv", "nnconv"], ["person", "mean", "max"], ["max", "mean", "gru", "bigru"]


def _spec(num_frames: int = T, objects: int = M, relations: int = R) -> dict[str, tuple[int, ...]]:
    return {
        "graphs/times": (num_frames,),
        "graphs/count": (num_frames,),
        "graphs/objects": (num_frames, objects),
        "graphs/linked": (num_frames, objects),
        "graphs/relations": (num_frames, objects, relations),
    }


def _batch() -> Batch:
    """Full graphs, one a second; object classes from 1 on."""
    return {
        "graphs/times": torch.arange(T, dtype=torch.float64).expand(B, T).clone(),
        "graphs/count": torch.full((B, T), M, dtype=torch.int16),
        "graphs/objects": torch.randint(1, O, (B, T, M)).short(),
        "graphs/linked": torch.ones(B, T, M, dtype=torch.uint8),
        "graphs/relations": torch.randint(0, 2, (B, T, M, R)).to(torch.uint8),
    }


def _head(name: str = "st_sgn", **options: Any) -> Head:
    defaults: dict[str, Any] = {"num_object_classes": O, "hidden": 8}
    if name == "st_sgn":
        defaults |= {"dim": 6}
    head = build_head(name, _spec(), CLASSES, **defaults | options).double().eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.5)
    return head


def _changed(batch: Batch, name: str, index: tuple[Any, ...], value: int) -> Batch:
    array = batch[f"graphs/{name}"].clone()
    array[index] = value
    return batch | {f"graphs/{name}": array}


HEADS = [("st_sgn", {"layer": layer, "readout": readout}) for layer in LAYERS for readout in READOUTS] + [
    ("relation_matrix", {"mlp": mlp}) for mlp in (False, True)
]


# 4.8.1
@pytest.mark.parametrize("layer", LAYERS)
def test_the_person_reads_edges_to_the_person_only(layer: str) -> None:
    head, batch = _head(layer=layer), _batch()
    batch["graphs/linked"][0, 1, 2] = 0
    logits = head(batch)
    other = (int(batch["graphs/objects"][0, 1, 2]) % (O - 1)) + 1
    assert torch.equal(head(_changed(batch, "objects", (0, 1, 2), other)), logits)
    assert not torch.allclose(head(_changed(batch, "linked", (0, 1, 2), 1)), logits)
    flipped = 1 - int(batch["graphs/relations"][0, 1, 0, 3])
    assert not torch.allclose(head(_changed(batch, "relations", (0, 1, 0, 3), flipped)), logits)


# 4.8.2
def test_without_objects_only_the_person_is_left() -> None:
    batch = _batch() | {"graphs/count": torch.zeros(B, T, dtype=torch.int16)}
    for layer in LAYERS:
        head: Any = _head(layer=layer)
        graphs = read_graphs(batch, torch.float64, O)
        person = head.nodes.weight[0]
        gine = head.layers[0]
        expected = gine.h((1 + gine.eps) * person) if layer == "gine" else person
        torch.testing.assert_close(head._encode(graphs), expected.expand(B, T, -1))
        for readout in ("mean", "max"):
            head.readout = readout
            torch.testing.assert_close(head._encode(graphs), expected.expand(B, T, -1))


# 4.8.3
@pytest.mark.parametrize("layer", LAYERS)
def test_a_second_object_of_the_same_kind_doubles_the_message(layer: str) -> None:
    head, batch = _head(layer=layer), _batch()
    batch["graphs/objects"][:, :, 1] = batch["graphs/objects"][:, :, 0]
    batch["graphs/relations"][:, :, 1] = batch["graphs/relations"][:, :, 0]
    convolution = head.layers[0]

    def message(count: int) -> Tensor:
        """What reaches the person, before the linear layer of GINE."""
        graphs = read_graphs(batch | {"graphs/count": torch.full((B, T), count).short()}, torch.float64, O)
        seen: list[Tensor] = []
        update = convolution.update

        def noted(nodes: Tensor, messages: Tensor) -> Any:
            seen.append(messages)
            return update(nodes, messages)

        convolution.update = noted
        head._encode(graphs)
        convolution.update = update
        return seen[0]

    torch.testing.assert_close(message(2), 2 * message(1))


# 4.8.4
@pytest.mark.parametrize(("name", "options"), HEADS)
def test_the_order_of_objects_does_not_matter(name: str, options: dict[str, Any]) -> None:
    head, batch = _head(name, **options), _batch()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {key: array[:, :, order] if array.dim() > 2 else array for key, array in batch.items()}
    torch.testing.assert_close(head(shuffled), head(batch))


# 4.8.5
@pytest.mark.parametrize("layer", LAYERS)
def test_an_edge_without_relations_is_still_an_edge(layer: str) -> None:
    head, batch = _head(layer=layer), _batch()
    empty = _changed(batch, "relations", (0, 1, 2), 0)
    assert not torch.allclose(head(empty), head(_changed(empty, "linked", (0, 1, 2), 0)))


# 4.8.6
def test_a_relation_matrix_says_which_classes_have_which_relations() -> None:
    batch = {name: array[:1, :1] for name, array in _batch().items()}
    batch["graphs/objects"][0, 0] = torch.tensor([3, 3, 5, 6])
    batch["graphs/relations"][0, 0] = torch.tensor([[1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]])
    batch["graphs/count"][:] = 3
    matrix = relation_matrices(read_graphs(batch, torch.float64, O), O)
    expected = torch.zeros(O, R, dtype=torch.float64)
    expected[3, [0, 1, 4]] = 1
    expected[5, 3] = 1
    assert torch.equal(matrix[0, 0], expected)
    assert matrix.flatten(2)[0, 0, 3 * R + 4] == 1


# 4.8.7
@pytest.mark.parametrize(("name", "options"), HEADS)
@pytest.mark.parametrize("reducer", REDUCERS)
def test_only_recurrent_reducers_know_the_order_of_frames(name: str, options: dict[str, Any], reducer: str) -> None:
    head, batch = _head(name, reducer=reducer, **options), _batch()
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    shuffled = {key: array if key == "graphs/times" else array[:, order] for key, array in batch.items()}
    unordered = reducer in ("max", "mean")
    assert torch.allclose(head(shuffled), head(batch), atol=1e-9) == unordered


@pytest.mark.parametrize("reducer", ["max", "mean"])
def test_repeating_all_frames_changes_neither_max_nor_mean(reducer: str) -> None:
    head, batch = _head(reducer=reducer), _batch()
    repeated = {name: array.repeat_interleave(2, 1) for name, array in batch.items()}
    torch.testing.assert_close(head(repeated), head(batch))


# 4.8.8
@pytest.mark.parametrize("shared", [True, False])
def test_reversed_time_swaps_the_directions_of_a_bigru_that_share_weights(shared: bool) -> None:
    classifier = _head(reducer="bigru").sequence
    if shared:
        for name, parameter in classifier.gru.named_parameters():
            if name.endswith("_reverse"):
                parameter.data = getattr(classifier.gru, name.removesuffix("_reverse")).data
    frames, lengths = torch.randn(B, T, 6, dtype=torch.float64), torch.full((B,), T)
    forwards, backwards = classifier._reduce(frames, lengths), classifier._reduce(frames.flip(1), lengths)
    assert torch.allclose(backwards, forwards.roll(4, 1)) == shared


@pytest.mark.parametrize(("name", "options"), HEADS)
@pytest.mark.parametrize("reducer", REDUCERS)
def test_padding_changes_nothing(name: str, options: dict[str, Any], reducer: str) -> None:
    """Frames and objects past the count, whatever they hold; padding between frames, too."""
    head, batch = _head(name, reducer=reducer, **options), _batch()
    alone = head({key: array[:, [0, 1, 4]] for key, array in batch.items()})
    padded = {key: array.clone() for key, array in batch.items()}
    padded["graphs/count"][:, [2, 3, 5]] = -1
    padded["graphs/times"][:, [2, 3, 5]] = torch.nan
    padded["graphs/objects"][:, [2, 3, 5]] = -1
    torch.testing.assert_close(head(padded), alone, rtol=1e-6, atol=1e-6)

    batch["graphs/count"][:] = 2
    fewer = head({key: array[:, :, :2] if array.dim() > 2 else array for key, array in batch.items()})
    batch["graphs/objects"][:, :, 2:] = 99
    torch.testing.assert_close(head(batch), fewer, rtol=1e-6, atol=1e-6)


# 4.8.9
def test_the_maximum_over_slices() -> None:
    head, batch = _head(slice_seconds=2.0), _batch()
    slices = [head({name: array[:, start : start + 2] for name, array in batch.items()}) for start in (0, 2, 4)]
    torch.testing.assert_close(head(batch), torch.stack(slices).amax(0))
    first_two = head({name: array[:, :4] for name, array in batch.items()})
    assert (head(batch) >= first_two).all()
    torch.testing.assert_close(head(batch).sigmoid(), torch.stack(slices).sigmoid().amax(0))


# 4.8.10
def test_one_slice_over_the_whole_video_is_no_slice() -> None:
    head, batch = _head(slice_seconds=100.0), _batch()
    sliced = head(batch)
    head.sequence.slice_seconds = None
    assert torch.equal(head(batch), sliced)


def test_a_slice_without_graphs_is_left_out() -> None:
    head, batch = _head(slice_seconds=2.0), _batch()
    batch["graphs/count"][:, 2:4] = -1
    rest = [head({name: array[:, start : start + 2] for name, array in batch.items()}) for start in (0, 4)]
    torch.testing.assert_close(head(batch), torch.maximum(*rest))


# 4.8.11
def test_sizes_are_those_of_the_paper() -> None:
    def count(module: Any) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    spec = _spec(relations=25)
    gine = build_head("st_sgn", spec, 157, reducer="gru")
    assert gine.nodes.weight.shape == (36, 900)
    assert gine.nodes.weight.numel() == 32_400
    assert count(gine.edges) == 23_400
    assert count(gine.layers) == 810_900 + 1
    assert count(gine.sequence.gru) == 2_171_904
    assert count(gine.sequence.fc) == 80_541
    assert count(build_head("st_sgn", spec, 157, layer="cgconv").layers) == 3_241_800
    nn_conv = build_head("st_sgn", spec, 157, layer="nnconv", reducer="bigru")
    assert count(nn_conv.layers) == 810_900
    assert count(nn_conv.sequence.gru) == 1_778_688
    assert count(build_head("relation_matrix", spec, 157, reducer="max").sequence.linear) == 461_312


@pytest.mark.parametrize(("name", "options"), HEADS)
@pytest.mark.parametrize("reducer", REDUCERS)
def test_every_parameter_gets_a_gradient(name: str, options: dict[str, Any], reducer: str) -> None:
    head = _head(name, reducer=reducer, slice_seconds=3.0, **options).train()
    head(_batch()).pow(2).sum().backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("reducer", REDUCERS)
def test_a_clip_without_any_graph_gets_finite_logits(reducer: str) -> None:
    head, batch = _head(reducer=reducer, slice_seconds=2.0), _batch()
    others = head(batch)
    batch["graphs/count"][0] = -1
    torch.testing.assert_close(head(batch)[1:], others[1:])
    torch.testing.assert_close(head(batch)[0], head.sequence.fc.bias)
    batch["graphs/count"][:] = -1
    torch.testing.assert_close(head(batch), head.sequence.fc.bias.expand(B, -1))


@pytest.mark.parametrize(("name", "options"), HEADS)
@pytest.mark.parametrize("reducer", REDUCERS)
def test_a_batch_without_any_graph_still_gives_every_parameter_a_gradient(
    name: str, options: dict[str, Any], reducer: str
) -> None:
    """Zero, but of the classifier's bias: it may be one process's share of a batch, and the others wait for it."""
    head, batch = _head(name, reducer=reducer, slice_seconds=3.0, **options).train(), _batch()
    batch["graphs/count"][:] = -1
    batch["graphs/times"][:] = torch.nan
    head(batch).sum().backward()
    for parameter_name, parameter in head.named_parameters():
        expected = torch.full_like(parameter, B if parameter_name == "sequence.fc.bias" else 0)
        assert parameter.grad is not None, parameter_name
        assert torch.equal(parameter.grad, expected), parameter_name


def test_two_layers_need_the_objects_of_the_first() -> None:
    head, batch = _head(num_layers=2), _batch()
    head(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("number", [40, -1])
def test_an_unknown_object_class_is_named(number: int) -> None:
    with pytest.raises(HeadError, match=rf"graphs/objects has an object of class {number}; num_object_classes is 7"):
        _head()(_changed(_batch(), "objects", (0, 0, 0), number))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"person_class": 40}, "person_class: given 40, allowed: 0 to 6"),
        ({"hidden": 9, "reducer": "bigru"}, "hidden: given 9, allowed with `reducer: bigru`: even numbers"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        build_head("st_sgn", _spec(), CLASSES, num_object_classes=O, **options)


def test_missing_graphs_are_answered_with_the_command_that_makes_them() -> None:
    with pytest.raises(
        HeadError,
        match=r"Missing graphs/linked.* a section `graphs:`; then run `kinegraph extract CONFIG --stage graphs`",
    ):
        build_head("st_sgn", {name: shape for name, shape in _spec().items() if name != "graphs/linked"}, 3)


@pytest.mark.parametrize("name", ["st_sgn", "relation_matrix"])
def test_it_overfits_32_clips(name: str) -> None:
    batch = {key: torch.cat([_batch()[key] for _ in range(11)])[:32] for key in _batch()}
    batch["graphs/times"] = batch["graphs/times"][:1].expand(32, -1)
    labels = torch.randint(CLASSES, (32,))
    head = build_head(name, _spec(), CLASSES, num_object_classes=O, hidden=32, dropout=0.0)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(batch), labels).backward()
        optimizer.step()
    assert (head(batch).argmax(1) == labels).all()

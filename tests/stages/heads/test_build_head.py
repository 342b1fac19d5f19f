import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.heads.build import HEADS, build_head
from kinegraph.stages.heads.head import HeadError, spec_of_videos
from tests.stages.heads.conftest import Lively

Spec = dict[str, tuple[int, ...]]
HALF = {"regions/i3d/res5", "features/i3d/res5"}  # cached as float16
WITH_GRAPHS = {"st_sgn", "relation_matrix"}


@pytest.mark.parametrize("name", HEADS)
def test_logits_come_from_the_arrays_that_a_head_reads_and_no_others(
    name: str, spec: Spec, make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    head = build_head(name, spec, 7).eval()
    batch = {key: make_batch()[key] for key in head.reads}
    assert head(batch).shape == (3, 7)
    half = {key: x.half() if key in HALF else x.float() for key, x in batch.items()}
    half |= {key: x for key, x in batch.items() if not x.is_floating_point()}
    assert head(half).dtype == torch.float32


@pytest.mark.parametrize("name", HEADS)
def test_resolved_options_build_the_same_network_again(name: str, spec: Spec) -> None:
    head = build_head(name, spec, 3)
    again = build_head(head.name, spec, head.num_classes, **head.options)
    assert again.options == head.options
    assert again.reads == head.reads
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in head.state_dict().items()}
    if name not in WITH_GRAPHS:
        assert (head.options["backbone"], head.options["tap"]) == ("i3d", "res5")


@pytest.mark.parametrize("name", HEADS)
def test_every_head_takes_a_step_in_bfloat16(
    name: str, spec: Spec, make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    narrow = {"dim": 32} if name in ("trg", "conv_lstm") else {}  # bf16 is slow on many CPUs
    head = build_head(name, spec, 7, **narrow).train()
    batch = {key: x.float() if x.is_floating_point() else x for key, x in make_batch().items()}
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(batch)
    logits.float().logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_the_same_with_norms_of_several_gpus(
    name: str, spec: Spec, make_batch: Callable[..., dict[str, Tensor]], lively: Lively
) -> None:
    """The conversion keeps parameters and calls torch's own forward in place of a subclass's."""
    options = {"norm": "batch"} if name == "rstg" else {}
    head, batch = lively(build_head(name, spec, 7, **options)), make_batch()
    expected = head(batch)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    torch.testing.assert_close(converted(batch), expected)


def test_reads_follow_the_options(spec: Spec) -> None:
    regions, pooled, boxes, count = (
        "regions/i3d/res5", "features/i3d/res5_pooled", "proposals/boxes", "proposals/count",
    )  # fmt: skip
    assert set(build_head("avg_pool", spec, 2).reads) == {pooled}
    assert set(build_head("proposal_pool", spec, 2).reads) == {regions, count}
    assert set(build_head("proposal_pool", spec, 2, concat_global=True).reads) == {regions, count, pooled}
    assert set(build_head("strg", spec, 2, graphs="similarity").reads) == {regions, count, pooled}
    assert set(build_head("strg", spec, 2).reads) == {regions, count, pooled, boxes}
    assert set(build_head("trn", spec, 2).reads) == {pooled}
    for name in ("conv_lstm", "conv3d", "non_local", "trg", "atr"):
        assert set(build_head(name, spec, 2).reads) == {"features/i3d/res5"}


def test_several_arrays_need_a_choice(spec: Spec) -> None:
    two = spec | {"features/r50/res5_pooled": (5, 6), "features/i3d/res4_pooled": (5, 8)}
    with pytest.raises(HeadError, match="backbone=i3d tap=res5, backbone=r50 tap=res5, backbone=i3d tap=res4"):
        build_head("avg_pool", two, 2)
    assert build_head("avg_pool", two, 2, backbone="r50").reads == ("features/r50/res5_pooled",)
    assert build_head("avg_pool", two, 2, tap="res4").reads == ("features/i3d/res4_pooled",)
    # regions exist for one tap only: no choice is needed
    assert "features/i3d/res5_pooled" in build_head("strg", two, 2).reads


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        (
            "strg",
            "regions/i3d/res5",
            "needs i3d in `regions.backbones`; then run `kinegraph extract CONFIG --stage regions`",
        ),
        (
            "strg",
            "features/i3d/res5_pooled",
            r"a copy of i3d under another name in `backbones:`, as i3d_pooled, with `taps: \[res5\]` and "
            r"`store: \[pooled\]`, and its name in `regions.backbones`; .* --stage features --stage regions`",
        ),
        (
            "strg",
            "proposals/boxes",
            "needs a section `proposals:`; then run `kinegraph extract CONFIG --stage proposals`",
        ),
        ("trg", "features/i3d/res5", r"as i3d_maps, with `taps: \[res5\]` and `store: \[maps\]`; .*--stage features`"),
        ("proposal_pool", "proposals/count", "Missing proposals/count.*--stage proposals`"),
        (
            "lstm",
            "features/i3d/res5_pooled",
            "Missing features/i3d/res5_pooled.*Available: clips/crop, features/i3d/res5,",
        ),
    ],
)
def test_a_missing_array_is_named_with_the_command_that_makes_it(
    name: str, without: str, message: str, spec: Spec
) -> None:
    del spec[without]
    with pytest.raises(HeadError, match=message):
        build_head(name, spec, 2)


def test_missing_tracks_are_named_where_they_are_asked_for(spec: Spec) -> None:
    """What runs record of older tables stays: the option came later."""
    del spec["tracks/id"]
    assert "over" not in build_head("proposal_pool", spec, 2).options
    message = (
        "Missing tracks/id. The config needs a section `tracks:`; then run `kinegraph extract CONFIG --stage tracks`."
    )
    with pytest.raises(HeadError, match=re.escape(message)):
        build_head("proposal_pool", spec, 2, over="tracks")
    assert build_head("proposal_pool", spec | {"tracks/id": (5, 4)}, 2, over="tracks").options["over"] == "tracks"


def test_an_absent_backbone_is_named(spec: Spec) -> None:
    words = "Missing regions/slowfast/<tap> and features/slowfast/<tap>_pooled.* a new entry slowfast in `backbones:`"
    with pytest.raises(HeadError, match=f"^There is no backbone slowfast; cached are i3d. {words}"):
        build_head("strg", spec, 2, backbone="slowfast")
    with pytest.raises(HeadError, match=r"^Missing features/slowfast/<tap>_pooled"):
        build_head("lstm", {}, 2, backbone="slowfast")


def test_of_several_backbones_and_taps_none_is_guessed(spec: Spec) -> None:
    several = {"features/i3d/res5_pooled": (5, 6), "features/r50/res4_pooled": (5, 8)}
    with pytest.raises(HeadError, match=r"^Missing features/<backbone>/<tap>\. .* a new entry <backbone>"):
        build_head("trg", several, 2)
    with pytest.raises(HeadError, match=r"Missing features/r50/res4\. "):
        build_head("trg", several, 2, backbone="r50")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gcn", {}, "no head 'gcn'; there are: avg_pool, proposal_pool, mlp, lstm, .*strg"),
        ("lstm", {"width": 3}, "no option 'width'; there are: backbone, tap, hidden, convolutions, dim, dropout"),
        ("strg", {"graphs": "front"}, "option graphs is 'front': .*'joint', 'similarity', 'spatial_temporal'"),
        ("atr", {"num_reasoners": 4}, "option num_reasoners is 4: .*less than or equal to 3"),
        ("conv_lstm", {"kernel": 2}, "option kernel is 2: .*1, 3, 5 or 7"),
        ("trg", {"num_heads": 0}, "option num_heads is 0: .*greater than 0"),
        ("strg", {"dim": 0}, "option dim is 0: .*greater than 0"),
        ("lstm", {"dim": 256}, "dim: given 256, allowed: only with `convolutions`"),
    ],
)
def test_unknown_names_and_values_list_what_exists(
    name: str, options: dict[str, Any], message: str, spec: Spec
) -> None:
    with pytest.raises(HeadError, match=message):
        build_head(name, spec, 2, **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"proposals/count": (7,), "proposals/boxes": (7, 4, 4)}, "has 7 frames, regions/i3d/res5 has 5"),
        ({"proposals/count": (2,), "proposals/boxes": (2, 4, 4)}, "has 2 frames, regions/i3d/res5 has 5"),
        ({"proposals/boxes": (5, 9, 4)}, r"shape \(5, 9, 4\); \(5, 4, 4\) is needed"),
    ],
)
def test_boxes_must_fit_the_regions(changed: Spec, message: str, spec: Spec) -> None:
    with pytest.raises(HeadError, match=message):
        build_head("strg", spec | changed, 2)


def test_finer_boxes_are_taken_at_the_times_of_the_regions(
    spec: Spec, make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    head = build_head("strg", spec, 2, dim=8).double().eval()
    finer_spec = spec | {"proposals/count": (10,), "proposals/boxes": (10, 4, 4)}
    finer_head = build_head("strg", finer_spec, 2, dim=8).double().eval()
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    finer_head.load_state_dict(head.state_dict())
    batch, finer = make_batch(), make_batch(frames=10)
    batch["proposals/count"][:, 2] = 1
    for name in ("proposals/boxes", "proposals/count"):
        finer[name][:, ::2] = batch[name]
    assert torch.equal(head(batch), finer_head(batch | {k: v for k, v in finer.items() if k.startswith("proposals/")}))


VECTORS: Spec = {"features/vit/b11_pooled": (4, 8), "features/vit/b11_class": (4, 8), "features/vit/head": (6,)}


@pytest.mark.parametrize(("tap", "shape"), [("b11", (4, 8)), ("b11_class", (4, 8)), ("head", (6,))])
@pytest.mark.parametrize("name", ["avg_pool", "mlp", "lstm", "trn"])
def test_heads_on_pooled_features_read_class_tokens_and_the_output_head(
    name: str, tap: str, shape: tuple[int, ...]
) -> None:
    """An output of the whole clip counts as one frame, of which `trn` needs two."""
    if name == "trn" and tap == "head":
        with pytest.raises(HeadError, match="features/vit/head has 1 in a clip, and at least 2 are needed"):
            build_head(name, VECTORS, 3, tap=tap)
        return
    head = build_head(name, VECTORS, 3, tap=tap)
    (array,) = head.reads
    assert (array, head.options["tap"]) == (f"features/vit/{tap}" + "_pooled" * (tap == "b11"), tap)
    assert head(dict.fromkeys(head.reads, torch.ones(2, *shape))).shape == (2, 3)
    assert build_head(name, VECTORS, 3, **head.options).reads == head.reads
    assert build_head(name, {array: shape}, 3).reads == head.reads


def test_of_a_map_and_its_class_token_none_is_guessed() -> None:
    with pytest.raises(HeadError, match="backbone=vit tap=b11, backbone=vit tap=b11_class, backbone=vit tap=head"):
        build_head("avg_pool", VECTORS, 3)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("avg_pool", {"tap": "b9_class"}, r"Missing features/vit/b9_class\..*`taps: \[b9\]` and `tokens: class`"),
        ("trg", {}, r"Missing features/vit/<tap>\..*vit_maps, with `taps: \[<tap>\]` and `store: \[maps\]`"),
    ],
)
def test_a_missing_class_token_is_named_with_the_options_that_make_it(
    name: str, options: dict[str, str], told: str
) -> None:
    vectors = {name: shape for name, shape in VECTORS.items() if not name.endswith("_pooled")}
    with pytest.raises(HeadError, match=told):
        build_head(name, vectors, 3, **options)


def test_whole_videos_have_sequences_of_every_kind_of_vector() -> None:
    assert spec_of_videos(VECTORS | {"features/vit/b11": (4, 8, 2, 2)}) == {
        "features/vit/b11_pooled": (0, 8),
        "features/vit/b11_class": (0, 8),
        "features/vit/head": (0, 6),
    }

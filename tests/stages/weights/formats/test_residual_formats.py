"""The formats of the ResNet-3D family: every name, values, what is left out, and the wrong file."""

import pickle
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state
from kinegraph.stages.weights.formats.caffe2 import CAFFE2
from kinegraph.stages.weights.formats.convert import PLAIN, convert
from kinegraph.stages.weights.formats.pytorchvideo import POOLED, UNPOOLED
from kinegraph.stages.weights.formats.slowfast import SLOWFAST
from kinegraph.stages.weights.load import load_weights
from tests.stages.weights.formats.published import CLASSIFIERS, tensors

FORMATS = {"slowfast": SLOWFAST, "caffe2": CAFFE2, "pytorchvideo": UNPOOLED, "pytorchvideo_pooled": POOLED}
CASES = [
    ("slowfast", "nonlocal_i3d_r50"),
    ("caffe2", "nonlocal_i3d_r50"),
    ("pytorchvideo", "slowonly_r50"),
    ("pytorchvideo_pooled", "c2d_r50"),
]
CUT = "res3"  # the first tap above a pool, a shortcut with stride and non-local blocks; the files stay small

State = dict[str, Tensor]

# Of what fits before an error, copied to a network that has shapes and no bytes.
pytestmark = pytest.mark.filterwarnings("ignore:.*is a no-op")


@cache
def shapes(model: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in untrained(model).state_dict().items()}


def published_state(style: str, model: str, state: State) -> State:
    """The tensors of `state` in a file's names; of the stages above, as of all files, one key each."""
    names = tensors(style, non_local=model.startswith("nonlocal"))
    found = {theirs: state[ours] for ours, theirs in names.items() if ours in state}
    for ours in ("res4.0.conv1.weight", "res5.0.conv1.weight"):
        found[names[ours]] = torch.zeros(1).expand(shapes(model)[ours])
    return found | dict(zip(CLASSIFIERS[style], (torch.zeros(400, 8), torch.zeros(400)), strict=True))


def write(path: Path, style: str, content: State) -> Path:
    if style != "caffe2":
        torch.save({"model_state": content, "epoch": 3}, path)
        return path
    arrays = {key: tensor.numpy() for key, tensor in content.items()}
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    return path


@pytest.fixture(scope="module")
def networks() -> dict[str, Backbone]:
    """Random weights up to res3, with vectors that all differ."""
    generator, found = torch.Generator().manual_seed(0), {}
    for model in ("nonlocal_i3d_r50", "slowonly_r50", "c2d_r50"):
        found[model] = build_backbone(model, "random:1", [CUT])
        for tensor in found[model].state_dict().values():
            if tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
    return found


@pytest.mark.parametrize(("style", "model"), CASES)
def test_every_tensor_of_the_network_has_its_published_name(style: str, model: str) -> None:
    names = tensors(style, non_local=model.startswith("nonlocal"))
    wanted = {name for name in shapes(model) if not name.endswith("num_batches_tracked")}
    assert names.keys() == wanted
    known = FORMATS[style]
    assert {ours: known.to_file(ours) for ours in wanted} == names
    assert {theirs: known.to_kinegraph(theirs) for theirs in names.values()} == {v: k for k, v in names.items()}


@pytest.mark.parametrize(("style", "model"), CASES)
def test_what_was_written_under_published_names_gives_the_same_maps(
    tmp_path: Path, networks: dict[str, Backbone], style: str, model: str
) -> None:
    written = networks[model]
    content = published_state(style, model, written.state_dict())
    path = write(tmp_path / ("file.pkl" if style == "caffe2" else "file.pyth"), style, content)
    clips = torch.linspace(-2, 2, 3 * 2 * 32 * 32).sin().reshape(1, 3, 2, 32, 32)
    assert torch.equal(build_backbone(model, str(path), [CUT])(clips)[CUT], written(clips)[CUT])


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_the_format_is_told_by_the_keys(tmp_path: Path, style: str, prefix: str) -> None:
    content = {prefix + key: torch.zeros(3) for key in [*tensors(style).values(), *CLASSIFIERS[style]]}
    torch.save({"model_state": content}, tmp_path / "weights.bin")
    converted = convert(read_state(tmp_path / "weights.bin"))
    assert converted.format is FORMATS[style]
    assert converted.ignored == dict.fromkeys(CLASSIFIERS[style], "classifier")
    assert (converted.unknown, converted.classes) == ((), 3)
    assert converted.state.keys() == tensors(style).keys()


def test_names_of_nobody_are_taken_as_ours() -> None:
    converted = convert({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(7, 2)})
    assert (converted.format, [*converted.state], converted.classes) == (PLAIN, ["conv1.weight"], 7)


def test_what_training_left_in_a_caffe2_file_is_left_out(tmp_path: Path, networks: dict[str, Backbone]) -> None:
    content = published_state("caffe2", "c2d_r50", networks["c2d_r50"].state_dict())
    rest = ["conv1_w_momentum", "res_conv1_bn_s_momentum", "pred_w_momentum", "lr", "model_iter"]
    path = write(tmp_path / "file.pkl", "caffe2", content | {key: torch.zeros(1) for key in rest})
    build_backbone("c2d_r50", str(path), [CUT])
    assert convert(read_state(path)).ignored.keys() == {*rest, "pred_w", "pred_b"}


def test_norms_folded_into_scale_and_shift_are_exactly_that(tmp_path: Path, networks: dict[str, Backbone]) -> None:
    state = networks["nonlocal_i3d_r50"].state_dict()
    content = published_state("caffe2", "nonlocal_i3d_r50", state)
    affine = {key: tensor for key, tensor in content.items() if not key.endswith(("_rm", "_riv"))}
    assert len(content) - len(affine) > 40
    network = build_backbone("nonlocal_i3d_r50", str(write(tmp_path / "file.pkl", "caffe2", affine)), [CUT])
    x = torch.randn(2, 512, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    for name, channels in (("bn1", 64), ("res3.0.downsample.1", 512), ("res3.after.1.norm", 512), ("res2.2.bn3", 256)):
        scale, shift = (state[f"{name}.{leaf}"].view(1, -1, 1, 1, 1) for leaf in ("weight", "bias"))
        part = x[:, :channels]
        torch.testing.assert_close(network.get_submodule(name)(part), scale * part + shift, rtol=1e-6, atol=1e-6)


def test_folded_networks_were_fine_tuned_without_norms_after_attention(
    tmp_path: Path, networks: dict[str, Backbone]
) -> None:
    content = published_state("caffe2", "nonlocal_i3d_r50", networks["nonlocal_i3d_r50"].state_dict())
    affine = {key: x for key, x in content.items() if not key.endswith(("_rm", "_riv")) and "nonlocal" not in key}
    attention = {key: x for key, x in content.items() if "nonlocal" in key and "_bn_" not in key}
    assert len(attention) == 2 * 8
    path = write(tmp_path / "file.pkl", "caffe2", affine | attention)
    block = build_backbone("nonlocal_i3d_r50", str(path), [CUT]).get_submodule("res3.after.3")
    x = torch.randn(1, 512, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    found = block(x)
    block.norm = nn.Identity()
    torch.testing.assert_close(found, block(x), rtol=1e-6, atol=1e-6)
    partly = affine | attention | {"nonlocal_conv3_1_bn_s": torch.ones(512), "nonlocal_conv3_1_bn_b": torch.ones(512)}
    with pytest.raises(
        WeightsError, match=r"in the network only: res3\.after\.3\.norm\.weight \(nonlocal_conv3_3_bn_s"
    ):
        build_backbone("nonlocal_i3d_r50", str(write(tmp_path / "file.pkl", "caffe2", partly)), [CUT])


@pytest.mark.parametrize("lost", ["res2_0_branch2a_bn_rm", "res3_1_branch2c_bn_riv", "nonlocal_conv3_1_bn_rm"])
def test_a_lost_statistic_is_no_folded_norm(tmp_path: Path, networks: dict[str, Backbone], lost: str) -> None:
    content = published_state("caffe2", "nonlocal_i3d_r50", networks["nonlocal_i3d_r50"].state_dict())
    del content[lost]
    with pytest.raises(WeightsError, match=rf"in the network only: \S+\.running_(mean|var) \({lost}\)$"):
        build_backbone("nonlocal_i3d_r50", str(write(tmp_path / "file.pkl", "caffe2", content)), [CUT])


def load_error(path: Path, model: str) -> str:
    with torch.device("meta"):
        network = untrained(model)
    with pytest.raises(WeightsError) as caught:
        load_weights(network, str(path), {}, model=model)
    return str(caught.value)


def full_file(path: Path, style: str, model: str) -> Path:
    """All keys with their shapes, and no bytes behind them."""
    names = tensors(style, non_local=model.startswith("nonlocal"))
    content = {theirs: torch.zeros(1).expand(shapes(model)[ours]) for ours, theirs in names.items()}
    return write(path, style, content)


@pytest.mark.parametrize(
    ("style", "trained", "model", "parts"),
    [
        ("slowfast", "i3d_r50", "c2d_r50", ["SlowFast's names", "I3D-R50", "spans 5 frames, that of this network 1"]),
        ("pytorchvideo", "slowonly_r50", "i3d_r50", ["without a pool", "looks like SlowOnly-R50", "spans 1 frame,"]),
        ("pytorchvideo_pooled", "i3d_r50", "i3d_r101", ["I3D-R50", "res4.6.bn1.bias (blocks.4.res_blocks.6."]),
        ("slowfast", "nonlocal_i3d_r50", "i3d_r50", ["non-local I3D-R50", "conv_g.bias (res3.after.1.g.bias)"]),
        ("slowfast", "i3d_r50", "nonlocal_i3d_r50", ["res3.after.1.g.bias (s3.pathway0_nonlocal1.conv_g.bias)"]),
    ],
)
def test_another_network_is_named_with_both_names_of_what_does_not_fit(
    tmp_path: Path, style: str, trained: str, model: str, parts: list[str]
) -> None:
    told = load_error(full_file(tmp_path / "file.pyth", style, trained), model)
    assert f"file.pyth does not belong to {model}: it has" in told
    for part in parts:
        assert part in told


def test_keys_without_a_meaning_are_named(tmp_path: Path) -> None:
    path = full_file(tmp_path / "file.pyth", "slowfast", "slowonly_r50")
    content = torch.load(path)["model_state"]
    torch.save(content | {"s1.pathway0_stem.extra.weight": torch.zeros(8)}, path)
    assert re.search(r"in the file only: s1\.pathway0_stem\.extra\.weight$", load_error(path, "slowonly_r50"), re.M)


def test_an_image_network_in_slowfasts_names_fills_torchvisions(tmp_path: Path) -> None:
    state = build_backbone("resnet50", "random:3", [CUT]).state_dict()
    ours = {re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name): x for name, x in state.items()}
    content = published_state("slowfast", "c2d_r50", {k: x[:, :, None] if x.ndim == 4 else x for k, x in ours.items()})
    path = write(tmp_path / "file.pyth", "slowfast", content)
    found = build_backbone("resnet50", str(path), [CUT]).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_another_network_is_noticed_above_the_cut(tmp_path: Path) -> None:
    path = full_file(tmp_path / "file.pyth", "slowfast", "slowonly_r50")
    with pytest.raises(WeightsError, match=r"does not belong to c2d_r50: .* looks like SlowOnly-R50\n"):
        build_backbone("c2d_r50", str(path), ["res3"])  # up to res3 they have the same shapes

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights import load as module
from kinegraph.stages.weights.load import load_weights, locate, weights_digest
from kinegraph.stages.weights.random import drawing
from kinegraph.stages.weights.registry import BACKBONE_WEIGHTS
from kinegraph.stages.weights.sources import WeightSource


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return build_backbone("resnet18", "random:7", ["res2"]).state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pickled_checkpoints_are_read(
    tmp_path: Path, state: dict[str, Tensor], wrapper: str | None, prefix: str
) -> None:
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "file.pyth")
    network = build_backbone("resnet18", str(tmp_path / "file.pyth"), ["res2"])
    assert same(network.state_dict(), state)


def test_safetensors_are_read_and_may_be_half_precision(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "file.safetensors"
    save_file({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, path)
    loaded = build_backbone("resnet18", str(path), ["res2"]).state_dict()
    assert loaded["conv1.weight"].dtype == torch.float32
    assert torch.equal(loaded["conv1.weight"], state["conv1.weight"].half().float())


def test_a_safetensors_file_is_mapped_and_not_copied(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "file.safetensors")
    network = build_backbone("resnet18", str(tmp_path / "file.safetensors"), ["res2"])
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "file.safetensors" in line]
    mapped = [range(*(int(address, 16) for address in words[0].split("-"))) for words in maps]
    assert all(any(x.data_ptr() in part for part in mapped) for x in network.parameters())
    with torch.no_grad():
        next(network.parameters()).fill_(7)  # a network that is trained does not write to the file
    assert same(build_backbone("resnet18", str(tmp_path / "file.safetensors"), ["res2"]).state_dict(), state)


def test_tensors_that_share_memory_in_the_file_do_not_share_it_in_the_network(tmp_path: Path) -> None:
    both = torch.arange(8.0)
    shared = both[:4].view(2, 2)
    torch.save({"0.weight": shared, "1.weight": shared, "2.weight": both[4:].view(2, 2).T}, tmp_path / "file.pth")
    network = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    load_weights(network, str(tmp_path / "file.pth"), {})
    weights = list(network.parameters())
    assert torch.equal(weights[2], both[4:].view(2, 2).T)
    assert all(x.is_contiguous() and x.untyped_storage().nbytes() == 16 for x in weights)
    assert len({x.data_ptr() for x in weights}) == 3


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("damage", [lambda x: x.to_sparse(), lambda x: x.to("meta")], ids=["sparse", "meta"])
def test_tensors_without_values_are_refused(tmp_path: Path, damage: Any) -> None:
    torch.save({"weight": damage(torch.ones(2, 2))}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="weight does not have all its values"):
        load_weights(nn.Linear(2, 2, bias=False), str(tmp_path / "file.pth"), {})


@pytest.mark.parametrize("weights", ["file.pth", "random:0", "inflate:file.pth"])
def test_layers_draw_weights_only_where_they_may_stay(weights: str) -> None:
    before = torch.random.get_rng_state()
    with drawing(weights):
        nn.Linear(4, 4)
        is_drawn = not torch.equal(torch.random.get_rng_state(), before)
        cut = nn.init.trunc_normal_(torch.full((64,), torch.nan))
    assert is_drawn == (weights != "file.pth")
    assert 0.1 < float(cut.std()) < 2  # torch draws these anyway: some of its methods draw until the values fit
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_sha256_of_a_file_is_computed_once_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(b"a")
    first, computed = weights_digest(nn.Identity(), str(path), {}), module._sha256_of.cache_info().misses
    assert weights_digest(nn.Identity(), str(path), {}) == first == hashlib.sha256(b"a").hexdigest()
    assert module._sha256_of.cache_info().misses == computed
    path.write_bytes(b"bb")
    assert weights_digest(nn.Identity(), str(path), {}) == hashlib.sha256(b"bb").hexdigest()


def test_classifier_and_layers_above_the_cut_are_left_out(tmp_path: Path, state: dict[str, Tensor]) -> None:
    extra = {"fc.weight": torch.ones(2), "fc.bias": torch.ones(2), "layer4.1.bn2.weight": torch.ones(512)}
    torch.save(state | extra, tmp_path / "file.pth")
    assert same(build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"]).state_dict(), state)


def test_layers_above_the_cut_have_to_fit_all_the_same(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state | {"layer4.1.bn2.weight": torch.ones(2048)}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"of another shape: layer4\.1\.bn2\.weight \[2048\], here \[512\]"):
        build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"])


def test_leftover_and_missing_keys_are_listed_together(tmp_path: Path, state: dict[str, Tensor]) -> None:
    wrong = {name: tensor for name, tensor in state.items() if name != "layer1.0.conv1.weight"}
    torch.save(wrong | {"layer9.weight": torch.ones(1)}, tmp_path / "file.pth")
    with pytest.raises(
        WeightsError, match=r"in the file only: layer9\.weight\n.*network only: layer1\.0\.conv1\.weight"
    ):
        build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"])


def test_another_shape_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state | {"bn1.weight": torch.ones(63)}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"bn1\.weight"):
        build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"])


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def test_files_are_read_without_running_code(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Trap(tmp_path / "ran")}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"file\.pth: refused: the file asks for posix\.mkdir, .* are read$"):
        build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        build_backbone("resnet18", str(tmp_path / name), ["res2"])


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="expected a state dict"):
        build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"])


@pytest.mark.parametrize("weights", ["random:", "random:-1", "random:x", "random"])
def test_a_seed_is_a_whole_number(weights: str) -> None:
    with pytest.raises(WeightsError, match="random:<seed>"):
        build_backbone("resnet18", weights, ["res2"])


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"imagenet1k_v1, imagenet1k_v2, .*, random:<seed>"):
        build_backbone("resnet50", "imagenet", ["res2"])


@pytest.fixture
def public(tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> WeightSource:
    """A public file, served from a folder; torch hub's own folder is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "web").mkdir()
    path = tmp_path / "web" / "tiny.pth"
    torch.save(state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return WeightSource(url=path.as_uri(), file_name="tiny.pth", sha256=sha256[:8], licence="none")


def test_public_weights_are_downloaded_once(tmp_path: Path, state: dict[str, Tensor], public: WeightSource) -> None:
    network = build_backbone("resnet18", "random:0", ["res2"])
    load_weights(network, "tiny", {"tiny": public})
    (tmp_path / "web" / "tiny.pth").unlink()
    load_weights(network, "tiny", {"tiny": public})
    assert same(network.state_dict(), state)
    cached = tmp_path / "home" / "hub" / "checkpoints" / "tiny.pth"
    assert weights_digest(network, "tiny", {"tiny": public}) == hashlib.sha256(cached.read_bytes()).hexdigest()


def test_a_failed_download_says_what_to_put_where(tmp_path: Path, public: WeightSource) -> None:
    (tmp_path / "web" / "tiny.pth").unlink()
    with pytest.raises(WeightsError) as caught:
        locate("tiny", {"tiny": public})
    folder = tmp_path / "home" / "hub" / "checkpoints"
    for part in (public.url, public.file_name, public.sha256, str(folder)):
        assert str(part) in str(caught.value)


def test_a_folder_for_downloads_that_cannot_be_made_is_told_the_same_way(tmp_path: Path, public: WeightSource) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(WeightsError, match=rf"put the file there into the folder {tmp_path}/home/hub.*TORCH_HOME"):
        locate("tiny", {"tiny": public})


def test_a_download_with_other_content_is_not_kept(tmp_path: Path, public: WeightSource) -> None:
    (tmp_path / "web" / "tiny.pth").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="invalid hash"):
        locate("tiny", {"tiny": public})
    assert list((tmp_path / "home" / "hub" / "checkpoints").iterdir()) == []


def test_a_damaged_cached_file_is_noticed(tmp_path: Path, public: WeightSource) -> None:
    locate("tiny", {"tiny": public}).write_bytes(b"damaged")
    network = build_backbone("resnet18", "random:0", ["res2"])
    with pytest.raises(WeightsError, match="delete the file"):
        load_weights(network, "tiny", {"tiny": public})


def test_shipped_weights_lie_in_the_package(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAGES_FOLDER", tmp_path)
    save_file(state, tmp_path / "tiny.safetensors")
    sha256 = hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()
    source = WeightSource(path="tiny.safetensors", file_name="tiny.safetensors", sha256=sha256, licence="Apache-2.0")
    network = build_backbone("resnet18", "random:0", ["res2"])
    load_weights(network, "shipped", {"shipped": source})
    assert same(network.state_dict(), state)
    assert weights_digest(network, "shipped", {"shipped": source}) == sha256


def test_the_digest_of_random_weights_covers_names_types_shapes_and_values() -> None:
    def network(name: str, value: Tensor) -> nn.Module:
        return nn.ParameterDict({name: nn.Parameter(value, requires_grad=False)})

    zeros = torch.zeros(2, 4)
    variants = [("a", zeros), ("b", zeros), ("a", zeros.int()), ("a", zeros.T), ("a", zeros + 1)]
    digests = [weights_digest(network(name, value), "random:0", {}) for name, value in variants]
    assert len(set(digests)) == len(variants)
    assert digests[0] == weights_digest(network("a", zeros.clone()), "random:0", {})


def without_digest(public: WeightSource, **known: Any) -> dict[str, WeightSource]:
    return {"tiny": replace(public, sha256="", **known)}


def test_a_file_without_published_digest_is_taken_as_it_is(state: dict[str, Tensor], public: WeightSource) -> None:
    network = build_backbone("resnet18", "random:0", ["res2"])
    load_weights(network, "tiny", without_digest(public))
    assert same(network.state_dict(), state)


def test_a_failed_download_says_that_no_digest_is_known(tmp_path: Path, public: WeightSource) -> None:
    (tmp_path / "web" / "tiny.pth").unlink()
    with pytest.raises(WeightsError, match=r"tiny\.pth \(its sha256 is not published\)"):
        locate("tiny", without_digest(public))


def test_a_download_that_was_cut_off_is_named(tmp_path: Path, public: WeightSource) -> None:
    path = tmp_path / "web" / "tiny.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    network = build_backbone("resnet18", "random:0", ["res2"])
    with pytest.raises(WeightsError, match=r"checkpoints/tiny\.pth: cannot be read .*delete it and try again"):
        load_weights(network, "tiny", without_digest(public))


def test_a_local_file_of_a_public_name_has_to_be_that_file(tmp_path: Path, public: WeightSource) -> None:
    local = tmp_path / "elsewhere" / "tiny.pth"
    local.parent.mkdir()
    torch.save({"fc.weight": torch.zeros(10, 2)}, local)
    network = build_backbone("resnet18", "random:0", ["res2"])
    with pytest.raises(WeightsError, match=r"elsewhere/tiny\.pth: sha256 is .* or rename it"):
        load_weights(network, str(local), {"tiny": public})
    with pytest.raises(WeightsError, match=r"has 10 classes, the public tiny\.pth has 400; rename it"):
        load_weights(network, str(local), without_digest(public, classes=400))


def test_public_files_of_one_name_are_told_apart_by_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "SLOW_8x8_R50.pyth"
    torch.save({"blocks.2.res_blocks.0.x": torch.zeros(1), "blocks.5.proj.bias": torch.zeros(174)}, path)
    with pytest.raises(WeightsError, match=r"has 174 classes, .* has 400; rename it to ssv2_SLOW_8x8_R50\.pyth if"):
        load_weights(nn.Module(), str(path), BACKBONE_WEIGHTS["slowonly_r50"])


def test_a_local_file_of_a_public_name_runs_in_the_network_it_was_trained_in(tmp_path: Path) -> None:
    path = tmp_path / "i3d_baseline_32x2_IN_pretrain_400k.pkl"
    stem = build_backbone("i3d_r50", "random:0", ["stem"]).state_dict()
    path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in stem.items()}}))
    clips = torch.zeros(1, 3, 32, 64, 64)
    assert build_backbone("i3d_r50", str(path), ["stem"])(clips)["stem"].shape == (1, 64, 8, 15, 15)
    papers = build_backbone("i3d_r50", str(path), ["stem"], geometry="paper")
    assert papers(clips)["stem"].shape == (1, 64, 32, 16, 16)

from pathlib import Path

import pytest
import torch

from kinegraph.stages.backbones.build import backbone_digest, build_from_options
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.compiling import require_compiler
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.errors import UsageError


@pytest.mark.parametrize(
    ("model", "weights", "options", "normalised_as"),
    [
        ("tiny_i3d", "shipped", {}, "tiny_i3d"),
        ("i3d_r50", "inflate:random:0", {"res5_stride": 2}, "resnet50"),
        ("inception_v3", "random:0", {}, "inception_v3"),
    ],
)
def test_maps_are_those_of_the_network_on_normalised_pixels(
    model: str, weights: str, options: dict[str, int | str], normalised_as: str
) -> None:
    """Folding batch norms comes after the digest, and changes rounding only."""
    top, size = entry(model).taps[-1].name, 107
    asked = BackboneOptions(model=model, weights=weights, taps=(top,), options=options, precision="fp32")
    extractor = FeatureExtractor(asked, torch.device("cpu"))
    network = build_from_options(asked)
    assert extractor.digest == backbone_digest(network, entry(model, options), weights)
    pixels = torch.randint(256, (1, 2, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expects = entry(normalised_as)
    clip = ((pixels / 255 - torch.tensor(expects.mean)) / torch.tensor(expects.std)).permute(0, 4, 1, 2, 3)
    found, expected = extractor.maps(pixels)[top], network(clip)[top].transpose(1, 2)
    assert found.shape[1:] == entry(model, options).tap(top).shape(2, size)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=float(1e-4 * expected.std()))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch 2.11's own
@pytest.mark.compiler
def test_compiled_maps_are_the_others_to_the_rounding_of_bf16() -> None:
    try:
        require_compiler(torch.device("cpu"))
    except UsageError as error:
        pytest.skip(str(error))
    asked = BackboneOptions(model="tiny_sync_cnn", weights="shipped", taps=("block3",))
    pixels = torch.randint(256, (1, 4, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plain, compiled = (
        FeatureExtractor(asked, torch.device("cpu"), compiled=on).maps(pixels)["block3"].float() for on in (False, True)
    )
    assert (compiled - plain).square().mean().sqrt() < 0.01 * plain.std()


def test_without_a_compiler_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before the network is made; the first batch would bring torch's own traceback."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    asked = BackboneOptions(model="tiny_sync_cnn", weights="shipped", taps=("block3",))
    with pytest.raises(UsageError, match=r"run\.compile needs .*g\+\+ is not on the PATH .*Python\.h is missing"):
        FeatureExtractor(asked, torch.device("cpu"), compiled=True)

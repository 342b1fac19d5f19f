from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import backbone_digest, build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.inflation import repeat_kernels
from kinegraph.stages.backbones.norms import norms_of, warn_of_gains_at_0
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import own_pixels, pixels_of
from kinegraph.stages.errors import WeightsError


@pytest.fixture(scope="module")
def flat() -> Backbone:
    return build_backbone("resnet50", "random:0", ["res5"])


def still(num_frames: int) -> Tensor:
    frame = torch.randn(1, 3, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    return frame.expand(-1, -1, num_frames, -1, -1)


def test_a_kernel_is_repeated_and_keeps_its_sum() -> None:
    kernel = torch.arange(12.0).view(3, 2, 1, 2)
    thick = repeat_kernels(kernel, torch.Size((3, 2, 5, 1, 2)))
    torch.testing.assert_close(thick.sum(2), kernel)
    assert torch.equal(thick[:, :, 0], thick[:, :, 4])
    assert repeat_kernels(torch.ones(3), torch.Size((3,))).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("model", "options", "num_frames"),
    [("c2d_r50", {}, 2), ("slowonly_r50", {}, 20), ("i3d_r50", {"res5_stride": 2}, 40)],
)
@torch.inference_mode()
def test_a_still_clip_gives_inside_what_its_frame_gives_in_2d(
    flat: Backbone, model: str, options: dict[str, Any], num_frames: int
) -> None:
    """The reach in time is 0 frames for C2D, 9 for SlowOnly and 5 + 2 * 6 for I3D to each side, padded with zeros."""
    frame = flat(still(1))["res5"][:, :, 0]
    maps = build_backbone(model, "inflate:random:0", ["res5"], **options)(still(num_frames))["res5"]
    inside = maps[:, :, maps.shape[2] // 2]
    torch.testing.assert_close(inside, frame, rtol=1e-5, atol=float(1e-5 * frame.std()))
    if model != "c2d_r50":
        assert (maps[:, :, 0] - frame).std() > 0.01 * frame.std()


def test_non_local_blocks_start_as_the_identity() -> None:
    plain = build_backbone("i3d_r50", "inflate:random:0", ["res3"])
    network = build_backbone("nonlocal_i3d_r50", "inflate:random:0", ["res3"])
    clip = torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(clip)["res3"], plain(clip)["res3"])


def test_frozen_norms_that_hold_non_local_blocks_at_the_identity_are_named(caplog: pytest.LogCaptureFixture) -> None:
    network = build_backbone("nonlocal_i3d_r50", "inflate:random:0", ["res3"])
    norms = norms_of(network)
    warn_of_gains_at_0(network, norms)
    [record] = caplog.records
    assert "2 frozen norms of the backbone keep their gain of 0" in record.getMessage()
    assert "`finetune.batch_norm: statistics` trains the gains" in record.getMessage()
    caplog.clear()
    warn_of_gains_at_0(build_backbone("i3d_r50", "inflate:random:0", ["res3"]), norms_of(network)[:10])
    assert not caplog.records


def test_tsm_takes_2d_weights_as_they_are(flat: Backbone) -> None:
    shifted = build_backbone("tsm_r50", "inflate:random:0", ["res5"]).state_dict()
    assert all(torch.equal(shifted[name], tensor) for name, tensor in flat.state_dict().items())


def test_identity_and_normalisation_are_those_of_what_was_inflated() -> None:
    known = entry("i3d_r50")
    digests = []
    for weights in ("inflate:random:0", "inflate:random:0", "inflate:random:1", "random:0"):
        digests.append(backbone_digest(build_backbone("i3d_r50", weights, ["stem"]), known, weights))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    options = BackboneOptions(model="i3d_r50", weights="inflate:imagenet1k_v1", taps=("stem",))
    assert pixels_of(options) == own_pixels(entry("resnet50"))
    assert pixels_of(options.model_copy(update={"weights": "random:0"})) == own_pixels(known)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("r2plus1d_18", "inflate:random:0", "r2plus1d_18 has no 2D network"),
        (
            "i3d_r50",
            "inflate:imagenet",
            r"'inflate:imagenet', from resnet50: weights 'imagenet' are neither .* imagenet1k_v1, .*random:<seed>$",
        ),
        (
            "i3d_r101",
            "imagenet",
            "'imagenet' are neither a file nor one of random:<seed>, inflate:<weights of resnet101>$",
        ),
    ],
)
def test_what_cannot_be_inflated_is_refused(model: str, weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_backbone(model, weights, ["stem"])

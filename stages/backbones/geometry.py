"""Strides and pools of a network of the ResNet-3D family, which fit the same weights but were not all trained alike."""

from collections.abc import Mapping

from torch import nn


def geometry(network: nn.Module) -> dict[str, int | str]:
    """What the submodules that are there (below a cut) say; empty for other networks."""
    modules = dict(network.named_modules())
    found: dict[str, int | str] = {}
    for name in ("conv1", "pool1", "pool2"):
        module, key = modules.get(name), name.replace("conv1", "stem") + "_time_stride"
        if isinstance(module, nn.Conv3d | nn.MaxPool3d):
            found[key] = _triple(module.stride)[0]
        elif name == "pool2" and module is not None:
            found[key] = 1
    if isinstance(pool1 := modules.get("pool1"), nn.MaxPool3d):
        found["pool1_padding"] = _triple(pool1.padding)[1]
    if isinstance(first := modules.get("res5.0.conv2"), nn.Conv3d):
        found["res5_stride"] = first.stride[1]
    if "res3.after.1.theta" in modules:
        found["res3_attention"] = "all frames"
    return found


def differences(network: nn.Module, trained: Mapping[str, int | str]) -> list[str]:
    """In which of these facts `network` is not what the weights were trained in."""
    ours = geometry(network)
    return [f"{key} {was} (here {ours[key]})" for key, was in trained.items() if key in ours and ours[key] != was]


def _triple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else value

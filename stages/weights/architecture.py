"""Recognises the network that a checkpoint comes from, such as I3D-R50, by the names and shapes of the tensors in the
checkpoint. Error messages about weights contain the name of the network.
"""

from collections.abc import Mapping

from torch import Tensor

# Blocks of each stage -> depth. The depth of (3, 4, 6, 3) is that of basic blocks.
DEPTHS: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34, (3, 4, 23, 3): 101}
# Frames that the first convolutions of stem, res2 and res4 span -> name.
FAMILIES: dict[tuple[int, ...], str] = {(1, 1, 1): "C2D", (1, 1, 3): "SlowOnly", (5, 3, 3): "I3D", (3, 1, 1): "CSN"}


def architecture(state: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the network to which the tensors `state` belong, such as "I3D-R50". Returns None for an
    unknown network.

    `state` is {kinegraph's name: tensor} with all tensors of the network.
    """
    prefixes = (
        ("res2", "res3", "res4", "res5") if "res2.0.conv1.weight" in state else ("layer1", "layer2", "layer3", "layer4")
    )
    stages = [_first_convolutions(state, prefix) for prefix in prefixes]
    depth = DEPTHS.get(tuple(len(stage) for stage in stages))
    if depth is None or "conv1.weight" not in state:
        return None
    if depth == 34 and f"{prefixes[0]}.0.conv3.weight" in state:
        depth = 50
    stem = state["conv1.weight"]
    if stem.ndim == 4:
        return f"ResNet-{depth}"
    spans = (stem.shape[2], *(max(conv.shape[2] for conv in stages[index]) for index in (0, 2)))
    family = FAMILIES.get(spans, f"3D ResNet (spans {spans})")
    return ("non-local " if any(".after." in name for name in state) else "") + f"{family}-R{depth}"


def _first_convolutions(state: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    return [x for name, x in state.items() if name.startswith(f"{prefix}.") and name.endswith(".conv1.weight")]

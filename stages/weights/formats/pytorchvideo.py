"""Defines the names of tensors in files of the package pytorchvideo (.pyth, under the key `model_state`).

pytorchvideo numbers the parts of a network. A pool after res2 has a number too, so the numbers of the parts after such
a pool are higher by 1.
"""

from kinegraph.stages.weights.formats.format import Format, with_leaves


def _layers(block_numbers: dict[int, int]) -> dict[str, str]:
    """Returns kinegraph's name -> pytorchvideo's name of each layer.

    `block_numbers` maps the number of a ResNet stage to pytorchvideo's number of the block (2 -> 1 for res2).
    """
    layers = {"conv1": "blocks.0.conv", "bn1": "blocks.0.norm"}
    for stage, block_number in block_numbers.items():
        ours, theirs = f"res{stage}.{{block}}", f"blocks.{block_number}.res_blocks.{{block}}"
        for index, letter in enumerate("abc", start=1):
            layers[f"{ours}.conv{index}"] = f"{theirs}.branch2.conv_{letter}"
            layers[f"{ours}.bn{index}"] = f"{theirs}.branch2.norm_{letter}"
        layers[f"{ours}.downsample.0"] = f"{theirs}.branch1_conv"
        layers[f"{ours}.downsample.1"] = f"{theirs}.branch1_norm"
    return layers


POOLED = Format(
    name="pytorchvideo's names, with a pool after res2",
    sign=r"blocks\.5\.res_blocks\..+",
    pairs=with_leaves(_layers({2: 1, 3: 3, 4: 4, 5: 5})),
    ignored={r"blocks\.6\.proj\..+": "classifier"},
)
UNPOOLED = Format(
    name="pytorchvideo's names, without a pool after res2",
    sign=r"blocks\.2\.res_blocks\..+",
    pairs=with_leaves(_layers({2: 1, 3: 2, 4: 3, 5: 4})),
    ignored={r"blocks\.5\.proj\..+": "classifier"},
)

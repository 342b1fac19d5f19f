"""Counts parameters and operations of usual networks of transformers, and prints them as a table of Markdown.

Networks are built without weights on the meta device. Attention is eager, because torch does not count products inside
fused attention. GMACs are half of what torch counts for one clip or image: convolutions, linear layers, attention.
"""

from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.backbones.transformers_families import FAMILIES
from kinegraph.stages.backbones.transformers_folder import describe_folder
from kinegraph.stages.backbones.transformers_network import TransformersNetwork, classes

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
CASES: tuple[tuple[str, str, int, int, dict[str, Any]], ...] = (  # name, family, frames, px, config
    ("VideoMAE-B", "videomae", 16, 224, {"use_mean_pooling": False}),
    ("VideoMAE-L", "videomae", 16, 224, LARGE | {"use_mean_pooling": False}),
    ("V-JEPA 2 L", "vjepa2", 16, 256, {}),
    ("TimeSformer-B", "timesformer", 8, 224, {}),
    ("ViViT-B 16x2", "vivit", 32, 224, {}),
    ("DINOv2 B", "dinov2", 1, 224, {"image_size": 518}),
    ("DINOv2 B at 518 px", "dinov2", 1, 518, {"image_size": 518}),
    ("DINOv3 B", "dinov3_vit", 1, 256, {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
                                       "num_register_tokens": 4}),
    ("CLIP B/16", "clip_vision_model", 1, 224, {"patch_size": 16}),
    ("SigLIP B/16", "siglip_vision_model", 1, 224, {}),
)  # fmt: skip


def count(model_type: str, num_frames: int, size: int, values: dict[str, Any]) -> tuple[float, float, int]:
    """Builds a network of the family `model_type` without weights and counts it, up to its last tap. Returns (millions
    of parameters, GMACs, number of patch tokens).

    The clip has `num_frames` frames of `size` x `size` px. `values` are those of the network's `config.json`.
    """
    folder = describe_folder(Path("config.json"), FAMILIES[model_type], values)
    network_class, config = classes(folder)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        network = TransformersNetwork(folder, network_class(config)).eval()
        network.cut(network.taps[-1:])
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            (maps,) = network(torch.empty(1, 3, num_frames, size, size)).values()
    num_params = sum(parameter.numel() for parameter in network.parameters())
    return num_params / 1e6, counter.get_total_flops() / 2e9, maps[0, 0].numel()


def main() -> None:
    print("| network | input | patch tokens | parameters | GMACs |\n|---|---|---|---|---|")
    for name, model_type, num_frames, size, values in CASES:
        num_params, gmacs, num_tokens = count(model_type, num_frames, size, values)
        form = f"{num_frames} frames of {size} px" if num_frames > 1 else f"{size} px"
        print(f"| {name} | {form} | {num_tokens:,} | {num_params:.1f} M | {gmacs:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Defines the rows of TRG (Zhang et al. 2019).

Frames are sampled sparsely, as in TSN. The scores of 2 (Something-Something) or 10 clips (Charades) are averaged.
Blocks come after the last three blocks of the network, each as wide as the block that it follows. ResNets are inflated
as in non-local networks. Inception networks are 2D. If the blocks do not know the order of frames, their mean over time
does not know it either.
"""

from collections.abc import Iterator
from typing import Any

from examples.papers.table import (
    FROZEN,
    MEAN_AP,
    TOP1_TOP5,
    TOP1_TOP5_V1,
    Keys,
    Row,
    clips_of,
    dataset,
    training,
    tuning,
)

TRG_NETWORKS = {  # file name -> model, weights, cached tap, the last three blocks above it
    "bn_inception": (
        "bn_inception",
        "imagenet1k",
        "inception_4d",
        ["inception_4e", "inception_5a", "inception_5b"],
    ),
    "inception_v3": ("inception_v3", "imagenet1k_v1", "mixed_6e", ["mixed_7a", "mixed_7b", "mixed_7c"]),
    "resnet50": ("i3d_r50", "inflate:imagenet1k_v1", "res4", ["res5"]),
    "resnet101": ("i3d_r101", "inflate:imagenet1k_v1", "res4", ["res5"]),
}
TRG_INFLATED = (
    "Inflated, as the paper says: pairs of frames are joined behind res2. Its FLOPs are those of the 2D network.",
)
TRG_OURS = (
    "Ours, as the paper gives none: the batch size, dropout (0.3) and the weights at the start (ImageNet).",
    "`train` jitters neither pixels nor frames in their segments, as they are cached. `finetune` does both.",
)
TRG_GRAPHS = (
    "Three graphs a block are inferred from figure 5. Relations are divided by sqrt(C H W): docs/papers.md says why.",
)
# Table 2 has figures of table 4's dense sampling for ResNet-50 with 16 and 32 frames.
TRG_DENSE = "Sampled densely: table 2's ResNet-50 with 16 and 32 frames has the figures of table 4's dense sampling."
TRG_DENSE_TOO = f"{TRG_DENSE} So these are probably dense, too."
TRG_CONTRADICTION = "Table 2 says 32.9 for this network with 8 frames, and figure 6 says 33.9."
DENSE: Keys = {"sampling": "dense", "fps": 6.0}  # stride 4 at the 24 fps of Charades
TRG_SGD: Keys = {"optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 5e-4, "schedule": "step", "gamma": 0.1}
TRG_BATCH, TRG_TUNING_BATCH = 64, 8
TRG_SUMMED = (
    "Eq. 13 adds the losses of the classes. `loss_reduction: sum` adds those of the clips, too. So the rate is that of",
    "the paper divided by the number of clips of a step, and the weight decay is that of the paper times this number.",
)


def _trg(network: str, num_frames: int, dataset_name: str, tail: Keys | None = None, **clips: Any) -> Keys:
    """Returns the keys of a config of the row. `tail` is the tail of the network, by default three TRG blocks as in the
    paper.
    """
    model, weights, _, _ = TRG_NETWORKS[network]
    tail = tail or _trg_tail(network)
    epochs: Keys = {"epochs": 100, "milestones": [50]}
    if dataset_name == "something_v2":
        epochs = {"epochs": 50, "milestones": [25]}
    entry: Keys = {"model": model, "weights": weights, "taps": [tail["from"]], "store": ["maps"]}
    if model.startswith("i3d"):
        entry["options"] = {"res5_stride": 2}
    sampling = clips or {"sampling": "uniform"}
    summed = dataset_name == "charades"
    recipe, tuned = (
        _trg_recipe(clips_a_step, summed=summed) | epochs for clips_a_step in (TRG_BATCH, TRG_TUNING_BATCH)
    )
    return {
        "cache": f"out/papers/{dataset_name}/{network}_{num_frames}{'_dense' if clips else ''}_{tail['from']}",
        **dataset(dataset_name),
        **clips_of(num_frames, 10 if dataset_name == "charades" else 2, **sampling),
        "backbones": {network: entry},
        **training("avg_pool", aggregate="mean", **recipe, options={"tail": tail}),
        **tuning(tuned, batch_norm="partial", views=_trg_views(network, sparse=not clips)),
    }


def _trg_recipe(batch_size: int, *, summed: bool) -> Keys:
    """Returns the keys of the paper's recipe. If `summed` is true, the loss is summed over the classes, as in eq.
    13.
    """
    if not summed:
        return TRG_SGD | {"batch_size": batch_size}
    rate, decay = TRG_SGD["learning_rate"] / batch_size, TRG_SGD["weight_decay"] * batch_size
    of_sum = {"loss_reduction": "sum", "learning_rate": rate, "weight_decay": decay}
    return TRG_SGD | of_sum | {"batch_size": batch_size}


def _trg_views(network: str, *, sparse: bool) -> Keys:
    """Returns the section `views`: random squares of TSN's sizes, 1 to 0.66 of the short side. If `sparse` is true,
    frames are drawn at random from sparse segments.
    """
    side = 299 if network == "inception_v3" else 224
    return {"short_side": [side, side * 32 // 21], **({"offsets": "random"} if sparse else {})}


def _trg_tail(network: str, **block: Any) -> Keys:
    """Returns a tail: the last three blocks of the network, each followed by a TRG block of the same width."""
    _, _, tap, places = TRG_NETWORKS[network]
    return {"from": tap, "blocks": [{"block": "trg", "after": [*places], **({"options": block} if block else {})}]}


def _pooled(network: str) -> Keys:
    """Returns the tail of `_trg_tail` without the TRG blocks."""
    return {"from": TRG_NETWORKS[network][2]}


TRG_TABLE_3: dict[str, tuple[str, Keys, str]] = {  # what, options of the blocks; 8 frames
    "t3": ("heads concatenated", {"aggregator": "concatenation"}, "48.5/77.4, 50.4/78.4, 50.6/77.6"),
    "t4": ("mean of the heads", {"aggregator": "mean"}, "49.3/78.2, 51.2/79.2, 51.9/79.5"),
    "t5": ("the full model", {}, "51.3/78.8, 52.5/80.6, 53.8/81.2"),
}
TRG_NO_GRAPH = {"bn_inception": "37.3/68.9", "inception_v3": "39.5/70.1", "resnet50": "46.7/74.1"}  # T1
TRG_CONV3D: dict[str, tuple[str, list[str], str]] = {  # T2: cached tap, the blocks with branches above it
    "bn_inception": ("conv2", [f"inception_{name}" for name in "3a 3b 3c 4a 4b 4c 4d 4e 5a 5b".split()], "42.4/73.2"),
    "inception_v3": ("stem", [f"mixed_{name}" for name in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()], "45.1/76.5"),
}
TRG_TABLE_1 = {
    "bn_inception": "51.3/78.8, 56.7/79.9, 58.3/86.2",
    "inception_v3": "52.5/80.6, 59.2/86.4, 61.3/91.4",
    "resnet50": "53.8/81.2, 59.8/87.4, 62.2/90.3",
}
TRG_TABLE_1_V1 = {
    "bn_inception": "38.5/68.4, 45.9/74.9, 47.5/80.2",
    "inception_v3": "41.3/73.4, 47.2/78.9, 49.7/85.3",
    "resnet50": "41.5/74.7, 48.1/80.4, 49.5/86.1",
}
TRG_TABLE_2 = {
    "bn_inception": "28.4/30.7/33.5",
    "inception_v3": "32.1/35.1/37.9",
    "resnet50": "32.9/35.8/38.4",
    "resnet101": "35.7/37.9/40.2",
}
TRG_TABLE_4 = {  # pooling, TRG; 16/32 frames
    ("bn_inception", "sparse"): ("30.4/31.6", "30.7/33.5"),
    ("resnet50", "sparse"): ("30.5/32.3", "34.1/36.8"),
    ("bn_inception", "dense"): ("30.1/31.3", "29.8/32.7"),
    ("resnet50", "dense"): ("31.9/33.8", "35.8/38.4"),
}
TRG_FIGURE_5 = {  # 1, 3, 6, 9, 12 heads
    ("bn_inception", "something_v2"): "49.7, 51.3, 52.4, 53.1, 53.3",
    ("inception_v3", "something_v2"): "50.2, 52.5, 53.7, 54.3, 54.7",
    ("bn_inception", "charades"): "27.2, 28.4, 29.6, 30.9, 31.3 (32.3 in the text)",
    ("inception_v3", "charades"): "30.3, 32.1, 33.7, 34.9, 35.2",
}
TRG_FIGURE_6: dict[tuple[str, str], tuple[str, list[str], str]] = {  # cached tap, blocks above it, mAP
    ("inception_v3", "bottom"): ("stem", ["mixed_5b", "mixed_5c", "mixed_5d"], "29.3"),
    ("inception_v3", "middle"): ("mixed_5d", ["mixed_6a", "mixed_6b", "mixed_6c"], "30.8"),
    ("inception_v3", "top"): ("mixed_6e", ["mixed_7a", "mixed_7b", "mixed_7c"], "32.1"),
    ("resnet50", "bottom"): ("stem", ["res2.0", "res2.1", "res2.2"], "30.9"),
    ("resnet50", "middle"): ("res2", ["res3.1", "res3.2", "res3.3"], "32.6"),
    ("resnet50", "top"): ("res4", ["res5"], "33.9"),
}


def _trg_row(
    name: str,
    about: str,
    published: str,
    base: Keys,
    keys: Keys | None = None,
    *notes: str,
    also: tuple[tuple[str, str], ...] = (),
) -> Row:
    table = name.partition("_")[0]
    about = f"{table[:-1]} {table[-1]}, {about}"
    summed = TRG_SUMMED if base["train"].get("loss_reduction") else ()
    graphs = TRG_GRAPHS if "'trg'" in str(base["train"]["options"]) else ()
    notes = (*notes, *(TRG_INFLATED if "resnet" in name else ()), *summed, FROZEN, *graphs, *TRG_OURS)
    return Row(
        paper="trg", name=name, about=about, published=published, base=base, keys=keys or {}, notes=notes, also=also
    )


def trg_rows() -> Iterator[Row]:
    yield from _trg_table_1()
    yield from _trg_table_2()
    yield from _trg_table_3()
    yield from _trg_table_4()
    yield from _trg_figures()


def _trg_table_1() -> Iterator[Row]:
    for kind, dataset_name, figures, ms_trn in (
        (TOP1_TOP5, "something_v2", TRG_TABLE_1, "48.8/77.3"),
        (TOP1_TOP5_V1, "something_v1", TRG_TABLE_1_V1, "34.4, top-1 alone"),
    ):
        version = "_v1" if dataset_name == "something_v1" else ""
        for network, of_network in figures.items():
            for num_frames, published in zip((8, 16, 32), of_network.split(", "), strict=True):
                base = _trg(network, num_frames, dataset_name)
                about = f"{network}, {num_frames} frames"
                yield _trg_row(f"table1_{network}_{num_frames}{version}", about, f"{kind} {published}", base)
        base = _trg("bn_inception", 8, dataset_name, {"from": "inception_5b"})
        keys: Keys = {"backbones.bn_inception.store": ["pooled"], "train.head": "trn", "train.options": None}
        keys |= {"cache": f"out/papers/{dataset_name}/bn_inception_8_pooled"}
        yield _trg_row(
            f"table1_ms_trn{version}", "MS-TRN, 8 frames", f"{kind} {ms_trn}", base, keys
        )  # fmt: skip


def _trg_table_2() -> Iterator[Row]:
    """Yields the rows of table 2 that are not rows of table 4."""
    for network, of_network in TRG_TABLE_2.items():
        is_dense = network.startswith("resnet")
        for num_frames, mean_ap in zip((8, 16, 32), of_network.split("/"), strict=True):
            if (network, "dense" if is_dense else "sparse") in TRG_TABLE_4 and num_frames > 8:
                continue
            base = _trg(network, num_frames, "charades", **(DENSE if is_dense else {}))
            notes = (TRG_DENSE_TOO,) if is_dense else ()
            about = f"{network}, {num_frames} frames"
            yield _trg_row(f"table2_{network}_{num_frames}", about, f"{MEAN_AP} {mean_ap}", base, {}, *notes)


def _trg_table_3() -> Iterator[Row]:
    for network, top1_top5 in TRG_NO_GRAPH.items():
        base = _trg(network, 8, "something_v2", _pooled(network))
        about = f"T1, {network}, 8 frames: no graph, average over time"
        yield _trg_row(f"table3_t1_{network}", about, f"{TOP1_TOP5} {top1_top5}", base)
    for network, (tap, places, top1_top5) in TRG_CONV3D.items():
        base = _trg(network, 8, "something_v2", {"from": tap, "blocks": [{"block": "conv3d", "in_branch": places}]})
        about = f"T2, {network}, 8 frames: 3D convolution after each branch; kernel and shortcut are ours, not given"
        yield _trg_row(f"table3_t2_{network}", about, f"{TOP1_TOP5} {top1_top5}", base)
    for name, (what, block, figures) in TRG_TABLE_3.items():
        for network, top1_top5 in zip(TRG_NO_GRAPH, figures.split(", "), strict=True):
            base = _trg(network, 8, "something_v2", _trg_tail(network, **block))
            about = f"{name.upper()}, {network}, 8 frames: {what}"
            yield _trg_row(f"table3_{name}_{network}", about, f"{TOP1_TOP5} {top1_top5}", base)


def _trg_table_4() -> Iterator[Row]:
    for (network, sampling), (pooled, graph) in TRG_TABLE_4.items():
        for place, num_frames in enumerate((16, 32)):
            clips = DENSE if sampling == "dense" else {}
            variants = {"pool": {"options": {"tail": _pooled(network)}}, "graph": {}}
            of_table_2 = TRG_TABLE_2[network].split("/")[place + 1]
            in_table_2 = of_table_2 == graph.split("/")[place]
            yield _trg_row(
                f"table4_{network}_{sampling}_{num_frames}",
                f"{network}, {sampling} sampling, {num_frames} frames; average pooling as a variant",
                f"{MEAN_AP} pooling {pooled.split('/')[place]}, TRG {graph.split('/')[place]}",
                _trg(network, num_frames, "charades", **clips),
                {"train.variants": variants},
                also=((f"table 2, {network}, {num_frames} frames (variant graph)", of_table_2),) if in_table_2 else (),
            )


def _trg_figures() -> Iterator[Row]:
    for (network, dataset_name), figures in TRG_FIGURE_5.items():
        charades = dataset_name == "charades"
        yield _trg_row(
            f"figure5_{network}{'_charades' if charades else ''}",
            f"{network}, 8 frames: 1, 3, 6, 9 and 12 heads as variants",
            f"{MEAN_AP if charades else 'Something-Something V2 top-1'} {figures}, read off a figure",
            _trg(network, 8, dataset_name),
            {
                "train.variants": {
                    f"heads_{n}": {"options": {"tail": _trg_tail(network, num_heads=n)}} for n in (1, 3, 6, 9, 12)
                }
            },
        )
    for (network, position), (tap, places, mean_ap) in TRG_FIGURE_6.items():
        yield _trg_row(
            f"figure6_{network}_{position}",
            f"{network}, 8 frames, blocks at the {position}",
            f"{MEAN_AP} {mean_ap}, read off a figure",
            _trg(
                network,
                8,
                "charades",
                {"from": tap, "blocks": [{"block": "trg", "after": places}]},
                **(DENSE if network == "resnet50" else {}),
            ),
            {},
            *((TRG_DENSE_TOO,) if network == "resnet50" else ()),
            *((TRG_CONTRADICTION,) if (network, position) == ("resnet50", "top") else ()),
        )

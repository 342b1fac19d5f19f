"""Writes the configs of this folder: one for each row of the papers' tables, `python examples/papers/generate.py`.

A row differs from its base by a few keys; columns of a row that share its cache are variants of training. Published
figures stand in the first lines of each file. Paths of data sets are to be set by `--set dataset.root=...`. Heads on
the cached maps of the last tap are trained alone; rows with blocks inside the network train it from the cached tap on.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
Keys = dict[str, Any]  # "section.key" -> value


@dataclass(frozen=True, kw_only=True)
class Row:
    """One config: `<paper>/<name>.yaml`, its base with `keys` changed, and what the paper reports for it."""

    paper: str
    name: str
    about: str
    published: str
    base: Keys
    keys: Keys = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return HERE / self.paper / f"{self.name}.yaml"

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {}
        run = f"runs/papers/{self.paper}/{self.name}"
        runs = {"train.run": run} | ({"finetune.run": f"{run}-tuned"} if "finetune" in self.base else {})
        for key, value in {**self.base, **self.keys, **runs}.items():
            *sections, last = key.split(".")
            place = document
            for section in sections:
                place = place.setdefault(section, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = copy.deepcopy(value)
        return document

    @property
    def text(self) -> str:
        lines = [
            f"{TITLES[self.paper]}: {self.about}.",
            f"Published: {self.published}.",
            *self.notes,
            "Made by examples/papers/generate.py.",
        ]
        body = yaml.safe_dump(self.document, sort_keys=False, default_flow_style=None, width=100)
        return "".join(f"# {line}\n" for line in lines) + body


TITLES = {
    "trg": "Temporal Reasoning Graph",
    "strg": "Videos as Space-Time Region Graphs",
    "atr": "Action-centric Temporal-relational Reasoning",
    "st_sgn": "Spatio-Temporal Scene Graph Network",
    "rstg": "Recurrent Space-time Graph Neural Networks",
}


def _dataset(name: str, annotations: str = "") -> Keys:
    return {"dataset": {"kind": "folder", "root": f"videos/{name}", "annotations": f"videos/{annotations or name}.csv"}}


def _clips(num_frames: int, per_video: int, **more: Any) -> Keys:
    return {"clips": {"num_frames": num_frames, "per_video": per_video, **more}}


def _train(head: str, *, aggregate: str, **more: Any) -> Keys:
    return {"train": {"head": head, "aggregate": aggregate, **more}}


# The networks of STRG and RSTG halve 32 frames once; those that the weights came from three times.
OWN = {"options": {"geometry": "paper"}}
BELOW = {"res2": "stem", "res3": "res2", "res4": "res3", "res5": "res4"}  # where a tail begins


# --- TRG: TSN's sparse sampling; scores averaged over 2 (Something-Something) or 10 clips (Charades); blocks after the
# network's last three, each as wide as what it follows: the formula as printed. ResNets are inflated as in non-local
# networks, as the paper says; Inception networks are 2D, and with blocks that know no order neither does their mean ---

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
TRG_SGD = {"optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 5e-4, "schedule": "step", "gamma": 0.1}


def _trg(network: str, num_frames: int, dataset: str, tail: Keys | None = None, **clips: Any) -> Keys:
    """Three blocks where the paper has them, or another tail."""
    model, weights, _, _ = TRG_NETWORKS[network]
    tail = tail or _trg_tail(network)
    epochs = {"epochs": 100, "milestones": [50]}
    if dataset == "something_v2":
        epochs = {"epochs": 50, "milestones": [25]}
    entry: Keys = {"model": model, "weights": weights, "taps": [tail["from"]], "store": ["maps"]}
    if model.startswith("i3d"):
        entry["options"] = {"res5_stride": 2}
    sampling = clips or {"sampling": "uniform"}
    return {
        "cache": f"out/papers/{dataset}/{network}_{num_frames}{'_dense' if clips else ''}_{tail['from']}",
        **_dataset(dataset),
        **_clips(num_frames, 10 if dataset == "charades" else 2, **sampling),
        "backbones": {network: entry},
        **_train("avg_pool", aggregate="mean", **TRG_SGD, **epochs, options={"tail": tail}),
    }


def _trg_tail(network: str, **block: Any) -> Keys:
    """The network's last three blocks, each followed by one of TRG, as wide as the network."""
    _, _, tap, places = TRG_NETWORKS[network]
    return {"from": tap, "blocks": [{"block": "trg", "after": [*places], **({"options": block} if block else {})}]}


def _pooled(network: str) -> Keys:
    """The same part of the network, without blocks."""
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
    ("resnet50", "top"): ("res4", ["res5.0", "res5.1", "res5.2"], "33.9"),
}
TOP1_TOP5, MEAN_AP = "Something-Something V2 top-1/top-5", "Charades mAP"
TOP1_TOP5_V1 = "Something-Something V1 top-1/top-5"


def _trg_row(name: str, about: str, published: str, base: Keys, keys: Keys | None = None) -> Row:
    table = name.partition("_")[0]
    about, notes = f"{table[:-1]} {table[-1]}, {about}", TRG_INFLATED if "resnet" in name else ()
    return Row(paper="trg", name=name, about=about, published=published, base=base, keys=keys or {}, notes=notes)


def trg_rows() -> Iterator[Row]:
    yield from _trg_tables_1_and_2()
    yield from _trg_table_3()
    yield from _trg_figures()
    for (network, sampling), (pooled, graph) in TRG_TABLE_4.items():
        for place, num_frames in enumerate((16, 32)):
            clips: Keys = {"sampling": "dense", "fps": 6.0} if sampling == "dense" else {}
            variants = {"pool": {"options": {"tail": _pooled(network)}}, "graph": {}}
            yield _trg_row(
                f"table4_{network}_{sampling}_{num_frames}",
                f"{network}, {sampling} sampling, {num_frames} frames; average pooling as a variant",
                f"{MEAN_AP} pooling {pooled.split('/')[place]}, TRG {graph.split('/')[place]}",
                _trg(network, num_frames, "charades", **clips),
                {"train.variants": variants},
            )


def _trg_tables_1_and_2() -> Iterator[Row]:
    for table, kind, dataset, separator, figures in (
        ("table1", TOP1_TOP5, "something_v2", ", ", TRG_TABLE_1),
        ("table1", TOP1_TOP5_V1, "something_v1", ", ", TRG_TABLE_1_V1),
        ("table2", MEAN_AP, "charades", "/", TRG_TABLE_2),
    ):
        for network, of_network in figures.items():
            for num_frames, published in zip((8, 16, 32), of_network.split(separator), strict=True):
                yield _trg_row(
                    f"{table}_{network}_{num_frames}{'_v1' if dataset == 'something_v1' else ''}",
                    f"{network}, {num_frames} frames",
                    f"{kind} {published}",
                    _trg(network, num_frames, dataset),
                )


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


def _trg_figures() -> Iterator[Row]:
    for (network, dataset), figures in TRG_FIGURE_5.items():
        charades = dataset == "charades"
        yield _trg_row(
            f"figure5_{network}{'_charades' if charades else ''}",
            f"{network}, 8 frames: 1, 3, 6, 9 and 12 heads as variants",
            f"{MEAN_AP if charades else 'Something-Something V2 top-1'} {figures}, read off a figure",
            _trg(network, 8, dataset),
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
            _trg(network, 8, "charades", {"from": tap, "blocks": [{"block": "trg", "after": places}]}),
        )


# --- STRG: 32 frames at 6 fps, boxes on every second; the largest score over 10 (Charades) or 2 clips ---

STRG_SGD = {
    "optimizer": "sgd",
    "learning_rate": 1.25e-3,
    "weight_decay": 1e-4,
    "batch_size": 8,
    "iterations": 100_000,
    "schedule": "step",
    "milestones": [90_000],
    "gamma": 0.1,
}
# The last stage of the paper: all layers, norms frozen, 30K iterations at a "reduced" rate, here a tenth.
STRG_JOINT = {
    "unfreeze": "all",
    "batch_norm": "frozen",
    "optimizer": "sgd",
    "learning_rate": 1.25e-4,
    "weight_decay": 1e-4,
    "batch_size": 8,
    "iterations": 30_000,
    "schedule": "constant",
    "aggregate": "max",
    "clips_per_pass": 2,
    "views": {"short_side": [256, 320]},
}
STRG_BACKBONES = {
    "i3d": ("i3d_r50", "nonlocal_net_32x2"),
    "nl_i3d": ("nonlocal_i3d_r50", "nonlocal_net_32x2"),
    "i3d_r101": ("i3d_r101", "random:0"),
    "nl_i3d_r101": ("nonlocal_i3d_r101", "random:0"),
}


def _strg(dataset: str, backbone: str = "i3d", top: int | None = None) -> Keys:
    model, weights = STRG_BACKBONES[backbone]
    charades = dataset == "charades"
    top = top or (50 if charades else 10)
    return {
        "cache": f"out/papers/{dataset}/{backbone}_{top}",
        **_dataset(dataset),
        **_clips(32, 10 if charades else 2, fps=6.0, sampling="dense"),
        "backbones": {backbone: {"model": model, "weights": weights, **OWN, "taps": ["res5"], "store": ["pooled"]}},
        "proposals": {"source": "detectron2-checkpoint", "weights": "rpn_R_50_FPN_1x", "every": 2, "top": top},
        "regions": {"backbones": [backbone]},
        **_train("strg", aggregate="max", **STRG_SGD),
        "finetune": copy.deepcopy(STRG_JOINT),
    }


# Open in the paper: the strides in time that lead from 128 frames to 16; here one pair of frames is joined.
STRG_R101 = (
    "; 64 frames of features where the paper has 16. Weights for this depth are not public: name a file of yours"
)
STRG_CACHED = ("Deviation: cached regions are projected; the paper projects maps first, as s4_charades_maps does.",)
STRG_STAGES = (
    "Stages: `kinegraph train`, then `kinegraph finetune` for joint training; the paper says `reduced` of its rate."
)
# id: what, head, options, Charades mAP, Something-Something V1 top-1/top-5
STRG_ROWS: dict[str, tuple[str, str, Keys, str, str | None]] = {
    "s0": ("I3D alone", "avg_pool", {}, "31.8", "41.6/72.2"),
    "s1": ("proposals and average pool, no graph", "proposal_pool", {"concat_global": True}, "32.1", None),
    "s2": ("spatial-temporal graphs", "strg", {"graphs": "spatial_temporal"}, "34.2", "42.8/74.7"),
    "s3": ("similarity graph", "strg", {"graphs": "similarity"}, "35.0", "42.7/74.6"),
    "s4": ("joint", "strg", {"graphs": "joint"}, "36.2", "43.3/75.1"),
    "s8": ("the three graphs summed in each layer (eq. 8)", "strg", {"graphs": "fused"}, "below S3", None),
}


def strg_rows() -> Iterator[Row]:
    for name, (about, head, options, charades, something) in STRG_ROWS.items():
        for dataset, figures in (("charades", charades), ("something_v1", something)):
            if figures is not None:
                keys: Keys = {"train.head": head, "train.options": options or None}
                yield _strg_row(f"{name}_{dataset}", f"{name.upper()}, {about}", figures, _strg(dataset), keys)
    for name in ("s1", "s4"):
        about, head, options, mean_ap, _ = STRG_ROWS[name]
        keys = {"train.head": head, "train.options": {**options, "regions_from": "maps"}, "regions": None}
        keys |= {"cache": "out/papers/charades/i3d_50_maps", "backbones.i3d.store": ["maps"]}
        about = f"{name.upper()}, {about}, regions of projected maps"
        yield _strg_row(f"{name}_charades_maps", about, mean_ap, _strg("charades"), keys)
    for dataset, alone, joint in (("charades", "33.5", "37.5"), ("something_v1", "44.4/76.0", "46.1/76.8")):
        base = _strg(dataset, "nl_i3d")
        pooled = {"train.head": "avg_pool"}
        yield _strg_row(f"s5_{dataset}", "S5, non-local I3D alone", alone, base, pooled)
        yield _strg_row(f"s6_{dataset}", "S6, non-local I3D, joint", joint, base, {})
    variants = {f"boxes_{n}": {"options": {"num_regions": n}} for n in (25, 50, 100)}
    base = _strg("charades", top=100)
    yield _strg_row(
        "s7_charades", "S7, 25, 50 and 100 boxes as variants", "35.9, 36.2, 36.1", base, {"train.variants": variants}
    )
    for backbone, prefix, about, alone, joint in (
        ("i3d_r101", "", "I3D-R101", "35.5", "39.1"),
        ("nl_i3d_r101", "nl_", "non-local I3D-R101", "37.5", "39.7"),
    ):
        base = _strg("charades", backbone) | _clips(128, 10, fps=24.0, sampling="dense")
        base |= {f"backbones.{backbone}.size": 288, "finetune.views.short_side": [329, 411]}  # 288 / 224 of 256, 320
        pooled = {"train.head": "avg_pool"}
        yield _strg_row(f"s9_charades_{prefix}i3d", f"S9, {about}{STRG_R101}", alone, base, pooled)
        yield _strg_row(f"s9_charades_{prefix}joint", f"S9, {about}, joint{STRG_R101}", joint, base, {})


def _strg_row(name: str, about: str, figures: str, base: Keys, keys: Keys) -> Row:
    kind = MEAN_AP if "charades" in name else TOP1_TOP5_V1
    cached = keys.get("train.head") != "avg_pool" and not name.endswith("_maps")
    published, notes = f"{kind} {figures}", (*(STRG_CACHED if cached else ()), STRG_STAGES)
    return Row(paper="strg", name=name, about=about, published=published, base=base, keys=keys, notes=notes)


# --- ST-SGN: graphs of the annotated frames; each row's reducers and slices are variants ---

ST_SGN_ADAMW = {  # stops after more than three epochs without a lower validation loss
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "batch_size": 50,
    "schedule": "constant",
    "metric": "loss",
    "patience": 4,
}
REDUCERS, SLICES = ("max", "mean", "gru", "bigru"), (2, 5, 10, 15)
ST_SGN_TOP1 = {
    "relation_matrix": ".1785 .2188 .2731 .2749",
    "cgconv_max": ".1905 .2191 .2339 .2381",
    "cgconv_mean": ".1966 .2144 .2601 .2574",
    "cgconv_person": ".1939 .2196 .2687 .2733",
    "nnconv_max": ".1966 .2168 .2027 .1886",
    "nnconv_mean": ".1971 .2183 .2638 .2477",
    "nnconv_person": ".1941 .2196 .2716 .2711",
    "gine_max": ".1882 .2103 .1824 .1940",
    "gine_mean": ".1944 .2141 .2480 .2510",
    "gine_person": ".2013 .2176 .2916 .2943",
}
ST_SGN_MAP = {  # per reducer: slices of 2, 5, 10, 15 s
    "relation_matrix": "best .683; the printed row is ambiguous",
    "cgconv_max": ".656 .659 .657 .658 | .648 .651 .650 .639 | .638 .668 .647 .626 | .638 .676 .654 .634",
    "cgconv_mean": ".644 .664 .662 .655 | .655 .655 .653 .644 | .668 .691 .685 .670 | .665 .682 .682 .677",
    "cgconv_person": ".658 .663 .660 .658 | .647 .654 .647 .642 | .671 .691 .690 .680 | .669 .691 .695 .693",
    "nnconv_max": ".656 .656 .660 .649 | .643 .646 .643 .631 | .625 .619 .550 .470 | .646 .615 .565 .487",
    "nnconv_mean": ".656 .662 .654 .646 | .643 .653 .644 .634 | .664 .683 .651 .591 | .664 .671 .662 .615",
    "nnconv_person": ".654 .659 .654 .651 | .649 .649 .646 .636 | .667 .693 .688 .675 | .672 .689 .691 .684",
    "gine_max": ".643 .649 .649 .639 | .650 .643 .626 .630 | .603 .582 .472 .385 | .549 .556 .512 .402",
    "gine_mean": ".655 .658 .653 .643 | .643 .648 .646 .628 | .664 .645 .606 .543 | .670 .661 .607 .555",
    "gine_person": ".657 .659 .656 .646 | .640 .652 .647 .638 | .678 .695 .693 .677 | .671 .700 .695 .676",
}


ST_SGN_LISTS = {  # task -> list of the data set, what it holds, graphs of an item at most, what varies in a config
    "intervals": (
        "action_genome_intervals",
        (
            "The csv has a line for each interval of Charades: path,label,split,start,end, of one label, in seconds;",
            "where two have the same bounds one ends a millisecond later.",
        ),
        64,
        "reducers",
    ),
    "videos": ("action_genome", (), 128, "reducers and slices"),
}


def st_sgn_rows() -> Iterator[Row]:
    for task, table in (("intervals", ST_SGN_TOP1), ("videos", ST_SGN_MAP)):
        for name, figures in table.items():
            head = "relation_matrix"
            options: Keys = {"mlp": task == "intervals"}
            if name != head:
                layer, readout = name.split("_")
                head, options = "st_sgn", {"layer": layer, "readout": readout}
            annotations, notes, max_frames, varied = ST_SGN_LISTS[task]
            graphs = {"source": "file", "files": "graphs/{stem}.json", "vocabulary": "action_genome"}
            base = {
                "cache": f"out/papers/action_genome/{task}",
                **_dataset("action_genome", annotations),
                "dataset.multi_label": task == "videos",
                **_clips(1, 1, sampling="uniform"),
                "graphs": graphs | {"max_frames": max_frames},
                **_train(head, aggregate="max", **ST_SGN_ADAMW, epochs=100),
            }
            yield Row(
                paper="st_sgn",
                name=f"{task}_{name}",
                about=f"table {1 if task == 'intervals' else 2}, {name}; {varied} as variants",
                published=f"{'top-1' if task == 'intervals' else 'mAP'} {figures} (max, mean, GRU, biGRU)",
                base=base,
                keys={"train.options": options, "train.variants": _st_sgn_variants(task, options)},
                notes=notes,
            )


def _st_sgn_variants(task: str, options: Keys) -> Keys:
    if task == "intervals":
        return {reducer: {"options": {**options, "reducer": reducer}} for reducer in REDUCERS}
    return {
        f"{reducer}_{seconds}s": {"options": {**options, "reducer": reducer, "slice_seconds": float(seconds)}}
        for reducer in REDUCERS
        for seconds in SLICES
    }


# --- ATR: 8 frames over the video, blocks before the shortcuts of residual blocks; one clip, one crop ---

ATR_SGD = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "epochs": 50,
    "schedule": "step",
    "milestones": [20, 40],
    "batch_size": 64,
}
ATR_BACKBONES = {
    "tsn": ("resnet50", "imagenet1k_v1"),
    "tsm": ("tsm_r50", "inflate:imagenet1k_v1"),
    "slowonly": ("slowonly_r50", "pytorchvideo_8x8"),
}
TESTED = {"size": 224, "resize_short": 256}  # as TSN and TSM are
SIM = {"locator": "none", "reasoner": "efficient"}


def _atr(places: str | list[str], block: Keys | None, backbone: str = "tsn", dataset: str = "something_v2") -> Keys:
    """Blocks in the branches of `places`; None: the network alone, trained from res3 on."""
    model, weights = ATR_BACKBONES[backbone]
    clips = _clips(8, 1, sampling="uniform")
    if dataset == "kinetics400":  # every eighth of 30 frames a second; nothing that was trained on these videos
        clips = _clips(8, 10, sampling="dense", fps=3.75, crops=["left", "center", "right"])
        weights = "imagenet1k_v1" if backbone == "tsn" else "inflate:imagenet1k_v1"
    first = places if isinstance(places, str) else places[0]
    tap = BELOW[first.partition(".")[0]]
    blocks = [] if block is None else [{"block": "atr", "in_branch": places, "options": block}]
    tail = {"from": tap, "batch_norm": "train", **({"blocks": blocks} if blocks else {})}
    return {
        "cache": f"out/papers/{dataset}/{backbone}_{tap}",
        **_dataset(dataset),
        **clips,
        "backbones": {backbone: {"model": model, "weights": weights, **TESTED, "taps": [tap], "store": ["maps"]}},
        **_train("avg_pool", aggregate="mean", **ATR_SGD, options={"dropout": 0.5, "tail": tail}),
    }


S3_5 = ["res3", "res4", "res5"]
ATR_ROWS: dict[str, tuple[str, str | list[str], Keys | None, str]] = {
    "a0": ("TSN-R50", S3_5, None, "27.5"),
    "a1": ("simplified ATR in the last block", "res5.2", SIM, "47.1"),
    "a2": ("ATR in the last block", "res5.2", {}, "50.3"),
    "a3_s5": ("ATR in stage 5", "res5", {}, "lost"),
    "a3_s4_5": ("ATR in stages 4 and 5", ["res4", "res5"], {}, "lost"),
    "a3_s3_5": ("ATR in stages 3 to 5", S3_5, {}, "59.6"),
    "a3_s2_5": ("ATR in stages 2 to 5", ["res2", *S3_5], {}, "lost"),
    "a4": (
        "graph reasoner, simplified",
        S3_5,
        {"locator": "none", "reasoner": "graph", "num_reasoners": 1},
        "47.7, inferred",
    ),
    "a5_x1": ("one efficient reasoner, simplified", S3_5, SIM | {"num_reasoners": 1}, "53.2"),
    "a5_x2": ("two efficient reasoners, simplified", S3_5, SIM | {"num_reasoners": 2}, "54.7"),
    "a5_x3": ("three efficient reasoners, simplified", S3_5, SIM | {"num_reasoners": 3}, "no further gain"),
    "a6_appearance": ("locator: appearance", S3_5, {"locator": "appearance", "distribution": "none"}, "lost"),
    "a6_motion": ("locator: motion", S3_5, {"locator": "motion", "distribution": "none"}, "lost"),
    "a6_both": ("locator: appearance and motion", S3_5, {"locator": "both", "distribution": "none"}, "lost, the best"),
    "a7_scaling": ("distribution: scaling", S3_5, {"distribution": "scaling"}, "58.9"),
    "a7_adding": ("distribution: adding", S3_5, {"distribution": "adding"}, "59.6"),
}


def atr_rows() -> Iterator[Row]:
    for name, (about, places, block, top1) in ATR_ROWS.items():
        published = f"Something-Something V2 top-1 {top1}"
        yield Row(paper="atr", name=name, about=about, published=published, base=_atr(places, block))
    for backbone in ATR_BACKBONES:
        for dataset in ("kinetics400", "something_v1", "something_v2"):
            for name, block in (("alone", None), ("atr", {})):
                of_table_3 = backbone == "tsn" and dataset == "something_v2"
                yield Row(
                    paper="atr",
                    name=f"a8_{backbone}_{dataset}_{name}",
                    about=f"table 5, {backbone} R50 on {dataset}{', ATR' if block is not None else ' alone'}",
                    published=f"top-1 {'27.5' if block is None else '59.6'}" if of_table_3 else "lost",
                    base=_atr(S3_5, block, backbone, dataset),
                )


# --- RSTG on Something-Something V1: 32 frames over the video; its rows on SyncMNIST are in examples/sync_mnist ---

RSTG_SGD = {"optimizer": "sgd", "learning_rate": 1e-4, "batch_size": 8, "epochs": 100, "schedule": "plateau"}
RSTG_GRAPH = {"attention": "tf_dot", "update": "scalewise"}
RSTG_PLACES = {  # where the released code puts it: places, top-1/top-5
    "res2": (["res2.1"], "46.9/76.8"),
    "res3": (["res3.2"], "47.7/77.8"),
    "res4": (["res4.4"], "48.4/78.1"),
    "res3_4": (["res3.2", "res4.4"], "49.2/78.8"),
}


def _rstg(backbone: str, tap: str, options: Keys, head: str) -> Keys:
    model, weights = {"i3d": ("i3d_r50", "nonlocal_net_32x2"), "c2d": ("c2d_r50", "nonlocal_net_32x2")}[backbone]
    return {
        "cache": f"out/papers/something_v1/{backbone}_32_{tap}",
        **_dataset("something_v1"),
        **_clips(32, 2, sampling="uniform", crops=["even_11"]),
        "backbones": {backbone: {"model": model, "weights": weights, **OWN, "taps": [tap], "store": ["maps"]}},
        **_train(head, aggregate="mean", **RSTG_SGD, options=options),
    }


def rstg_rows() -> Iterator[Row]:
    to_vec = {**RSTG_GRAPH, "residual": True, "readout": "mean"}
    note = "22 views, of 224 px as in the released script"
    for backbone, published in (("i3d", "47.7/77.9"), ("c2d", "no figure")):
        yield _rstg_row(f"table3_to_vec_{backbone}", "to-vec", note, published, _rstg(backbone, "res5", to_vec, "rstg"))
    for name, (places, published) in RSTG_PLACES.items():
        blocks = [{"block": "rstg", "after": places, "options": RSTG_GRAPH}]
        tap = BELOW[places[0].partition(".")[0]]
        base = _rstg("i3d", tap, {"tail": {"from": tap, "blocks": blocks}}, "avg_pool")
        yield _rstg_row(f"table3_to_map_{name}", f"to-map after {' and '.join(places)}", note, published, base)
    blocks = [{"block": "rstg", "after": RSTG_PLACES["res3_4"][0], "options": RSTG_GRAPH}]
    base = _rstg("c2d", "res2", {"tail": {"from": "res2", "blocks": blocks}}, "avg_pool")
    yield _rstg_row("table2_c2d", "C2D, to-map after res3.2 and res4.4", note, "42.8/73.6", base)


def _rstg_row(name: str, about: str, note: str, published: str, base: Keys) -> Row:
    published = f"Something-Something V1 top-1/top-5 {published}"
    return Row(paper="rstg", name=name, about=f"{name.split('_')[0]}, {about}; {note}", published=published, base=base)


def rows() -> list[Row]:
    return [*trg_rows(), *strg_rows(), *atr_rows(), *st_sgn_rows(), *rstg_rows()]


def main() -> None:
    for row in rows():
        row.path.parent.mkdir(exist_ok=True)
        row.path.write_text(row.text)
    print(f"{len(rows())} configs in {HERE}")


if __name__ == "__main__":
    main()

"""Defines the rows of STRG (Wang and Gupta 2018): 32 frames at 6 fps with boxes on every second frame.

The score of a video is the largest score of its 10 (Charades) or 2 clips.
"""

import copy
from collections.abc import Iterator

from examples.papers.table import MEAN_AP, OWN, TOP1_TOP5_V1, Keys, Row, clips_of, dataset, training

STRG_SGD: Keys = {
    "optimizer": "sgd",
    "learning_rate": 1.25e-3,
    "weight_decay": 1e-4,
    "batch_size": 8,
    "iterations": 100_000,
    "schedule": "step",
    "milestones": [90_000],
    "gamma": 0.1,
}
# The first stage of the paper, which is the whole training of networks alone.
STRG_FIRST: Keys = {key: STRG_SGD[key] for key in ("learning_rate", "iterations", "schedule", "milestones", "gamma")}
# The last stage: all layers, norms frozen, 30K iterations at a "reduced" rate, here a tenth.
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
    "val_split": None,
    "test_split": "val",
    "clips_per_pass": 2,
    "views": {"short_side": [256, 320]},
}
STRG_BACKBONES = {
    "i3d": ("i3d_r50", "nonlocal_net_32x4"),
    "nl_i3d": ("nonlocal_i3d_r50", "nonlocal_net_32x4"),
    "i3d_r101": ("i3d_r101", "inflate:imagenet1k_v1"),
    "nl_i3d_r101": ("nonlocal_i3d_r101", "inflate:imagenet1k_v1"),
}


def _strg(dataset_name: str, backbone: str = "i3d", top: int | None = None) -> Keys:
    model, weights = STRG_BACKBONES[backbone]
    options: Keys = OWN["options"] | (STRG_LONG if model.endswith("r101") else {})
    charades = dataset_name == "charades"
    top = top or (50 if charades else 10)
    network = {"model": model, "weights": weights, "options": options, "taps": ["res5"], "store": ["pooled"]}
    every = 8 if model.endswith("r101") else 2  # one map has the boxes of one frame
    return {
        "cache": f"out/papers/{dataset_name}/{backbone}_{top}",
        **dataset(dataset_name),
        **clips_of(32, 10 if charades else 2, fps=6.0, sampling="dense"),
        "backbones": {backbone: network},
        "proposals": {"source": "detectron2-checkpoint", "weights": "rpn_R_50_FPN_1x", "every": every, "top": top},
        "regions": {"backbones": [backbone]},
        **training("strg", aggregate="max", **STRG_SGD),
        "finetune": copy.deepcopy(STRG_JOINT),
    }


# The strides of the non-local paper's long clips: 128 frames become 16.
STRG_LONG = {"stem_time_stride": 2, "pool1_time_stride": 2}
STRG_R101 = (
    "Strides in time of the non-local paper's long clips: 128 frames become 16. 406 GMAC without non-local blocks (the "
    "paper: about 3 x R50).",
    "No Kinetics weights of this depth are public. These are ImageNet's, inflated, and Kinetics training matters.",
)
STRG_CACHED = ("Deviation: cached regions are projected; the paper projects maps first, as s4_charades_maps does.",)
STRG_STAGES = (
    "Stages of the paper: 1. the network alone is tuned (`finetune` of {}; its extract.yaml makes features).",
    "2. Graphs are trained on these features (`train`). 3. Both are trained (`finetune`, at a tenth of the rate: the",
    "paper says `reduced`). Without stage 1, `train` sees features of a network that does not know the data set.",
)
STRG_ALONE = (
    "`kinegraph train` trains the classifier alone on frozen features. `kinegraph finetune` from its run is the row of",
    "the paper: the whole network, 100K steps.",
)
STRG_GROUPS = (
    "The blocks of res3 see the whole clip, as in the non-local paper. In the file's training they saw groups of 4",
    "frames, as `backbones.nl_i3d.options.res3_attention_frames: 4` does.",
)
STRG_NEW_BLOCKS = (
    "ImageNet has no non-local blocks. New ones are the identity, so `train` scores what I3D-R101 without them scores.",
    "`finetune` trains the gains of norms. The paper freezes them, but a frozen gain of 0 would keep the blocks out.",
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
        for dataset_name, figures in (("charades", charades), ("something_v1", something)):
            if figures is not None:
                keys: Keys = {"train.head": head, "train.options": options or None}
                yield _strg_row(
                    f"{name}_{dataset_name}", f"{name.upper()}, {about}", figures, _strg(dataset_name), keys
                )
    for name in ("s1", "s2", "s3", "s4"):
        about, head, options, mean_ap, _ = STRG_ROWS[name]
        keys = {"train.head": head, "train.options": {**options, "regions_from": "maps"}, "regions": None}
        keys |= {"cache": "out/papers/charades/i3d_50_maps", "backbones.i3d.store": ["maps"]}
        about = f"{name.upper()}, {about}, regions of projected maps"
        yield _strg_row(f"{name}_charades_maps", about, mean_ap, _strg("charades"), keys)
    for dataset_name, alone, joint in (("charades", "33.5", "37.5"), ("something_v1", "44.4/76.0", "46.1/76.8")):
        base = _strg(dataset_name, "nl_i3d")
        pooled = {"train.head": "avg_pool"}
        yield _strg_row(f"s5_{dataset_name}", "S5, non-local I3D alone", alone, base, pooled)
        yield _strg_row(f"s6_{dataset_name}", "S6, non-local I3D, joint", joint, base, {})
    variants = {f"boxes_{n}": {"options": {"num_regions": n}} for n in (25, 50, 100)}
    base = _strg("charades", top=100)
    yield _strg_row(
        "s7_charades", "S7, 25, 50 and 100 boxes as variants", "35.9, 36.2, 36.1", base, {"train.variants": variants}
    )
    for backbone, prefix, about, alone, joint in (
        ("i3d_r101", "", "I3D-R101", "35.5", "39.1"),
        ("nl_i3d_r101", "nl_", "non-local I3D-R101", "37.5", "39.7"),
    ):
        base = _strg("charades", backbone) | clips_of(128, 10, fps=24.0, sampling="dense")
        base |= {f"backbones.{backbone}.size": 288, "finetune.views.short_side": [329, 411]}  # 288 / 224 of 256, 320
        pooled = {"train.head": "avg_pool"}
        yield _strg_row(f"s9_charades_{prefix}i3d", f"S9, {about}", alone, base, pooled)
        yield _strg_row(f"s9_charades_{prefix}joint", f"S9, {about}, joint", joint, base, {})


def _strg_row(name: str, about: str, figures: str, base: Keys, keys: Keys) -> Row:
    kind = MEAN_AP if "charades" in name else TOP1_TOP5_V1
    alone, deep, [network] = keys.get("train.head") == "avg_pool", name.startswith("s9"), base["backbones"]
    is_nonlocal = network.startswith("nl_")
    notes: tuple[str, ...] = () if alone or name.endswith("_maps") else STRG_CACHED
    notes += STRG_R101 if deep else ()
    notes += (STRG_NEW_BLOCKS if deep else STRG_GROUPS) if is_nonlocal else ()
    notes += STRG_ALONE if alone else tuple(line.format(_first_stage(name, network)) for line in STRG_STAGES)
    if alone:
        keys = keys | {f"finetune.{key}": value for key, value in STRG_FIRST.items()}
    if deep and is_nonlocal:
        keys = keys | {"finetune.batch_norm": "statistics"}
    return Row(paper="strg", name=name, about=about, published=f"{kind} {figures}", base=base, keys=keys, notes=notes)


def _first_stage(name: str, network: str) -> str:
    """Returns the name of the row that tunes `network` alone, on the data set of the row `name`."""
    of_network = {"i3d": "s0_{}", "nl_i3d": "s5_{}", "i3d_r101": "s9_{}_i3d", "nl_i3d_r101": "s9_{}_nl_i3d"}[network]
    return of_network.format("charades" if "charades" in name else "something_v1")

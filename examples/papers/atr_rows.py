"""Defines the rows of ATR (Liang et al. 2025): 8 frames over the video, blocks before the shortcuts of residual
blocks.
"""

from collections.abc import Iterator

from examples.papers.table import BELOW, FROZEN, Keys, Row, clips_of, dataset, training, tuning

ATR_SGD: Keys = {
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
ATR_OURS = "The recipe is TSM's, as the paper's appendix with rates, epochs and dropout is lost."
ATR_VIEWS = (
    "Trained on the views of the test, too. For squares of 224 px in training: a8_tsm_{}_atr, and its header's views."
)
ATR_SLOWONLY = "A guess: the paper does not name the file of SlowOnly. This is pytorchvideo's, of Kinetics-400."
ATR_IMAGENET = "Weights of ImageNet at the start are TSM's, too."
ATR_KINETICS = "A guess: every eighth of 30 frames a second (3.75 fps), as TSM takes them. So are crops of 224 px."
TESTED = {"size": 224, "resize_short": 256}  # as TSN and TSM are
SIM = {"locator": "none", "reasoner": "efficient"}


def _atr(
    places: str | list[str], block: Keys | None, backbone: str = "tsn", dataset_name: str = "something_v2"
) -> Keys:
    """Returns the keys of a config with ATR blocks in the branches of `places`. If `block` is None, the config has the
    network alone, trained from the tap below `places` on.
    """
    model, weights = ATR_BACKBONES[backbone]
    clips, offsets = clips_of(8, 1, sampling="uniform"), {"offsets": "random"}
    if dataset_name == "kinetics400":  # every eighth of 30 frames a second; nothing that was trained on these videos
        clips = clips_of(8, 10, sampling="dense", fps=3.75, crops=["left", "center", "right"])
        offsets = {}
        weights = "imagenet1k_v1" if backbone == "tsn" else "inflate:imagenet1k_v1"
    first = places if isinstance(places, str) else places[0]
    tap = BELOW[first.partition(".")[0]]
    blocks = [] if block is None else [{"block": "atr", "in_branch": places, "options": block}]
    tail = {"from": tap, "batch_norm": "train", **({"blocks": blocks} if blocks else {})}
    return {
        "cache": f"out/papers/{dataset_name}/{backbone}_{tap}",
        **dataset(dataset_name),
        **clips,
        "backbones": {backbone: {"model": model, "weights": weights, **TESTED, "taps": [tap], "store": ["maps"]}},
        **training("avg_pool", aggregate="mean", **ATR_SGD, options={"dropout": 0.5, "tail": tail}),
        **tuning(ATR_SGD, batch_norm="train", views={"short_side": [224, 341]} | offsets),
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
    "a7_adding": ("distribution: adding", S3_5, {}, "59.6"),
}


def atr_rows() -> Iterator[Row]:
    for name, (about, places, block, top1) in ATR_ROWS.items():
        published = f"Something-Something V2 top-1 {top1}"
        notes, base = (FROZEN, ATR_OURS, ATR_IMAGENET), _atr(places, block)
        yield Row(paper="atr", name=name, about=about, published=published, base=base, notes=notes)
    for backbone in ATR_BACKBONES:
        for dataset_name in ("kinetics400", "something_v1", "something_v2"):
            for name, block in (("alone", None), ("atr", {})):
                guessed = backbone == "slowonly" and dataset_name != "kinetics400"
                kinetics = (ATR_KINETICS,) if dataset_name == "kinetics400" else ()
                of_table_3 = backbone == "tsn" and dataset_name == "something_v2"
                yield Row(
                    paper="atr",
                    name=f"a8_{backbone}_{dataset_name}_{name}",
                    about=f"table 5, {backbone} R50 on {dataset_name}{', ATR' if block is not None else ' alone'}",
                    published=f"top-1 {'27.5' if block is None else '59.6'}" if of_table_3 else "lost",
                    base=_atr(S3_5, block, backbone, dataset_name),
                    notes=(FROZEN, ATR_OURS, ATR_SLOWONLY if guessed else ATR_IMAGENET, *kinetics),
                )
    for dataset_name, version, figure in (("something_v1", "V1", "53.9"), ("something_v2", "V2", "65.4")):
        base = _atr(S3_5, {}, "tsm", dataset_name)
        base |= clips_of(8, 2, sampling="uniform", crops=["left", "center", "right"])
        keys: Keys = {
            "cache": f"out/papers/{dataset_name}/tsm_res2_6_views",
            "backbones.tsm.size": 256,
            "finetune.views.short_side": [256, 390],
        }
        yield Row(
            paper="atr",
            name=f"table6_tsm_{dataset_name}",
            about=f"table 6, TSM R50 + ATR on {dataset_name}, 2 clips x 3 crops of 256 px",
            published=f"Something-Something {version} top-1 {figure}, inferred from the text; the table is lost",
            base=base,
            keys=keys,
            notes=(ATR_VIEWS.format(dataset_name), FROZEN, ATR_OURS, ATR_IMAGENET),
        )

"""Defines the rows of RSTG (Nicolicioiu et al. 2019) on Something-Something V1: 32 frames over the video.

The rows on SyncMNIST are in examples/sync_mnist.
"""

from collections.abc import Iterator

from examples.papers.table import BELOW, FROZEN, OWN, TOP1_TOP5_V1, Keys, Row, clips_of, dataset, training, tuning

RSTG_VIEWS = "22 views of 224 px as in the released script; paper and README say 256."
RSTG_SGD: Keys = {
    "optimizer": "sgd",
    "learning_rate": 1e-4,
    "loss_reduction": "sum",
    "batch_size": 8,
    "epochs": 100,
    "schedule": "plateau",
}
RSTG_OURS = "The loss is summed over the clips of a step, as released. Ours: 8 clips a step; the paper has 2 a GPU."
RSTG_SCHEDULE = "A guess: 100 epochs and the plateau. They are those of SyncMNIST."
RSTG_FILE = "A guess: the file of weights. Those of 8x8 and of 32x4 have the strides of the released network."
RSTG_NORM = "Norms of the graph take their statistics frame by frame. As released, over the clip: `norm: layer_clip`."
# The released network has stem stride 1 in time and 16 frames out, as the files of 8x8 have.
RSTG_BACKBONES = {
    "c2d": ("c2d_r50", "nonlocal_net_8x8"),
    "i3d": ("i3d_r50", "nonlocal_net_8x8"),
    "nl_i3d": ("nonlocal_i3d_r50", "nonlocal_net_8x8"),
}
RSTG_GRAPH = {"attention": "tf_dot", "update": "scalewise"}
RSTG_PLACES = {  # where the released code puts it: places, top-1/top-5
    "res2": (["res2.1"], "46.9/76.8"),
    "res3": (["res3.2"], "47.7/77.8"),
    "res4": (["res4.4"], "48.4/78.1"),
    "res3_4": (["res3.2", "res4.4"], "49.2/78.8"),
}


def _rstg(backbone: str, tap: str, options: Keys, head: str) -> Keys:
    model, weights = RSTG_BACKBONES[backbone]
    return {
        "cache": f"out/papers/something_v1/{backbone}_32_{tap}",
        **dataset("something_v1"),
        **clips_of(32, 2, sampling="uniform", crops=["even_11"]),
        "backbones": {backbone: {"model": model, "weights": weights, **OWN, "taps": [tap], "store": ["maps"]}},
        **training(head, aggregate="mean", val_split="val", **RSTG_SGD, options=options),
        **tuning(RSTG_SGD | {"schedule": "constant"}, views={"short_side": [256, 256], "brightness": 0.1}),
    }


def rstg_rows() -> Iterator[Row]:
    to_vec = {**RSTG_GRAPH, "residual": True, "readout": "mean"}
    for backbone, table, published in (
        ("i3d", "table3", "47.7/77.9"),
        ("c2d", "table2", "42.8/73.6, which the released configs make with to-vec"),
    ):
        about = f"{backbone}, to-vec; readout: mean over time, attention: tf_dot, as released"
        yield _rstg_row(f"{table}_to_vec_{backbone}", about, published, _rstg(backbone, "res5", to_vec, "rstg"))
    for name, (places, published) in RSTG_PLACES.items():
        blocks = [{"block": "rstg", "after": places, "options": RSTG_GRAPH}]
        tap = BELOW[places[0].partition(".")[0]]
        base = _rstg("i3d", tap, {"tail": {"from": tap, "blocks": blocks}}, "avg_pool")
        also = (("table 2, I3D + RSTG", "49.2/78.8"),) if name == "res3_4" else ()
        yield _rstg_row(f"table3_to_map_{name}", f"to-map after {' and '.join(places)}", published, base, also)
    for backbone, published in (("c2d", "31.7/64.7"), ("i3d", "41.6/72.2"), ("nl_i3d", "44.4/76.0")):
        base = _rstg(backbone, "res5", {}, "avg_pool")
        entry = base["backbones"][backbone] | {"store": ["pooled"]}
        base |= {"backbones": {backbone: entry}, "cache": f"out/papers/something_v1/{backbone}_32_pooled"}
        yield _rstg_row(f"table2_{backbone}_alone", f"{backbone} alone, without a graph", published, base)


def _rstg_row(name: str, about: str, published: str, base: Keys, also: tuple[tuple[str, str], ...] = ()) -> Row:
    table = name.partition("_")[0]
    graph = () if name.endswith("_alone") else (RSTG_NORM,)
    return Row(
        paper="rstg",
        name=name,
        about=f"{table[:-1]} {table[-1]}, {about}",
        published=f"{TOP1_TOP5_V1} {published}",
        base=base,
        notes=(RSTG_VIEWS, RSTG_OURS, RSTG_SCHEDULE, RSTG_FILE, *graph, FROZEN),
        also=also,
    )

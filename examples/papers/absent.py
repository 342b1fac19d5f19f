"""Lists the rows of the papers' tables that have no config, and why. `generate.py` writes them to docs/papers.md."""

OTHERS_NETWORK = "a network of another paper, which kinegraph does not have"
TWO_STREAMS = "optical flow as a second stream"
INCEPTION_I3D = "a figure that the paper cites; `inception_i3d` is the network, without weights of this data set"
ANOTHERS_FIGURE = "a figure that the paper cites; the row of that paper is the config"

ABSENT: dict[str, dict[str, str]] = {
    "trg": {
        "table 1, C3D": OTHERS_NETWORK,
        "table 1, ECO and ECO ensemble": OTHERS_NETWORK,
        "table 1, TrajectoryNet": OTHERS_NETWORK,
        "table 1, I3D; I3D + GCN; NL I3D; NL I3D + GCN": f"{ANOTHERS_FIGURE}: STRG's s0, s4, s5 and s6 on V1",
        "table 2, two-stream, I3D and the others before TRG": f"{OTHERS_NETWORK}, or {TWO_STREAMS}",
        "table 3, T2 with ResNet-50": "the paper has no figure",
        "0.3 s per video": "`kinegraph evaluate` and `predict` print times of this machine, not of the paper's GPU",
    },
    "strg": {
        "Charades, two-stream; two-stream + LSTM; Asyn-TF": TWO_STREAMS,
        "Charades, MS-TRN": f"{ANOTHERS_FIGURE}: TRG's table1_ms_trn has the network, on Something-Something",
        "Charades, I3D (Inception)": INCEPTION_I3D,
        "Something-Something V1, C3D": OTHERS_NETWORK,
        "Something-Something V1, MS-TRN": f"{ANOTHERS_FIGURE}: TRG's table1_ms_trn_v1",
        "Something-Something V1, test": "the labels of the test split are not public",
        "error analysis by attributes": "`kinegraph evaluate --attributes` makes it from any run; no row of its own",
    },
    "atr": {
        "tables 5 and 6, methods of other papers": f"{OTHERS_NETWORK}; the bodies of both tables are lost",
        "analysis of the learned relations": "[ablations.md](ablations.md) has their divergence, on generated videos",
    },
    "st_sgn": {
        "oracle of Action Genome (.603)": f"{OTHERS_NETWORK}: long-term feature banks on boxes",
    },
    "rstg": {
        "table 2, TRN": f"{ANOTHERS_FIGURE}: TRG's table1_ms_trn_v1 is its multi-scale form",
        "table 2, MFNet, ECO-Lite, S3D-G": OTHERS_NETWORK,
        "table 2, I3D (Inception)": INCEPTION_I3D,
        "table 2, NL I3D + GCN": f"{ANOTHERS_FIGURE}: STRG's s6 on V1",
    },
}

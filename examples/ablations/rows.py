"""Defines the ablations, one for each paper: rows, which are variants of a config, and claims about the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ACCURACY = "test accuracy"
Figure = tuple[str, str]  # (row, name of a measure)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, in words and as pairs of figures. In each pair of `larger`, the first figure is the larger
    one.
    """

    text: str
    larger: tuple[tuple[Figure, Figure], ...]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The ablation of one paper. `rows` is {name of a variant of `config`: what the variant is}.

    `measures` is {name: what it measures} of measures besides the accuracy.
    """

    paper: str
    title: str
    config: Path
    rows: Mapping[str, str]
    claims: tuple[Claim, ...]
    measures: Mapping[str, str]


def _better(text: str, *pairs: tuple[str, str]) -> Claim:
    return Claim(text=text, larger=tuple(((first, ACCURACY), (second, ACCURACY)) for first, second in pairs))


IN_PAIR, IN_OTHERS, AREA = "mass in the pair", "mass in the others", "area of the pair"
DIVERGENCE, WINDOW = "divergence", "mass in three frames"
SAME, CHANCE = "same thing", "same thing by chance"
SAME_NEXT, CHANCE_NEXT = "same thing, next frame", "same thing, next frame, by chance"
TWINS, NO_TWINS = "accuracy with twins", "accuracy without twins"
INTERACTIONS = HERE / "interactions.yaml"

TRG = Ablation(
    paper="trg",
    title="Temporal Reasoning Graph",
    config=INTERACTIONS,
    rows={
        "trg_pool": "no graph: mean of the features over time",
        "trg_heads_1": "1 graph",
        "trg_heads_3": "3 graphs, aggregated by attention",
        "trg_heads_6": "6 graphs",
        "trg_mean": "3 graphs, mean",
        "trg_concatenation": "3 graphs, concatenated",
    },
    claims=(
        _better("Graphs are better than a mean over time (table 3).", ("trg_heads_3", "trg_pool")),
        _better(
            "More graphs are better, from 1 to 3 to 6 (figure 5).",
            ("trg_heads_3", "trg_heads_1"),
            ("trg_heads_6", "trg_heads_3"),
        ),
        _better(
            "Attention aggregates better than a mean, and a mean better than concatenation (table 3).",
            ("trg_heads_3", "trg_mean"),
            ("trg_mean", "trg_concatenation"),
        ),
    ),
    measures={},
)
ATR = Ablation(
    paper="atr",
    title="Action-centric Temporal-relational Reasoning",
    config=INTERACTIONS,
    rows={
        "atr_sim": "no locator: mean over positions",
        "atr_appearance": "locator: appearance",
        "atr_motion": "locator: motion",
        "atr_both": "locator: both; efficient reasoner; adding",
        "atr_scaling": "both; efficient reasoner; scaling",
        "atr_graph": "both; graph reasoner; adding",
    },
    claims=(
        _better("A located action is better than a mean over positions.", ("atr_both", "atr_sim")),
        _better(
            "Motion and appearance together locate better than either.",
            ("atr_both", "atr_motion"),
            ("atr_both", "atr_appearance"),
        ),
        _better("The efficient reasoner is better than the graph reasoner.", ("atr_both", "atr_graph")),
        _better("Adding is better than scaling.", ("atr_both", "atr_scaling")),
        Claim(
            text="The locator finds the action: more of its mass lies in the boxes of the two things that interact "
            "than in those of the two others.",
            larger=((("atr_both", IN_PAIR), ("atr_both", IN_OTHERS)),),
        ),
    ),
    measures={
        IN_PAIR: "the part of the locator's softmax over positions that lies in the true boxes of the two things that "
        "interact",
        IN_OTHERS: "the same for the two other things, which are as large",
        AREA: "the part of the picture that the boxes of the pair cover: the mass of a locator that is the same "
        "everywhere",
        DIVERGENCE: "Jensen-Shannon divergence in bits between the rows of the graph reasoner's mean matrix, each row "
        "cut to the frames t - 1, t, t + 1: the mean over all pairs of rows and reasoners. 0: one row for all frames, "
        "as the efficient reasoner has; at most 1",
        WINDOW: "the part of a row's weights that lies on these three of the 8 frames; 0.375 if all weigh the same",
    },
)
STRG = Ablation(
    paper="strg",
    title="Videos as Space-Time Region Graphs",
    config=INTERACTIONS,
    rows={
        "strg_pool": "4 boxes, no graph",
        "strg_similarity": "4 boxes, similarity graph",
        "strg_spatial_temporal": "4 boxes, spatial-temporal graphs",
        "strg_joint": "4 boxes, both",
        "strg_boxes_2": "2 boxes, both",
        "strg_boxes_8": "8 boxes, both",
    },
    claims=(
        _better(
            "Graphs are better than a mean of the regions (table 3).",
            ("strg_similarity", "strg_pool"),
            ("strg_spatial_temporal", "strg_pool"),
        ),
        _better(
            "Both graphs together are better than either (table 3).",
            ("strg_joint", "strg_similarity"),
            ("strg_joint", "strg_spatial_temporal"),
        ),
        _better(
            "The middle number of boxes is best (table 2). A video here has 4 things.",
            ("strg_joint", "strg_boxes_2"),
            ("strg_joint", "strg_boxes_8"),
        ),
        Claim(
            text="Similar regions are the same thing in other frames, or things that go together: the strongest "
            "neighbour of a box is the same thing more often than by chance.",
            larger=((("strg_similarity", SAME), ("strg_similarity", CHANCE)),),
        ),
    ),
    measures={
        SAME: "boxes whose strongest neighbour in another frame, by the trained similarity graph, is the same thing. "
        "A box is the thing that it overlaps with an IoU of at least 0.5; other boxes are left out",
        CHANCE: "the same for a random box of another frame",
        SAME_NEXT: "boxes whose strongest neighbour in the next frame, by the graph of overlapping boxes, is the same "
        "thing",
        CHANCE_NEXT: "the same for a random box of the next frame",
    },
)
ST_SGN = Ablation(
    paper="st_sgn",
    title="Spatio-Temporal Scene Graph Network",
    config=INTERACTIONS,
    rows={
        "st_sgn_matrix": "relation matrix, biGRU",
        "st_sgn_gine": "GINE, biGRU",
        "st_sgn_cgconv": "CGConv, biGRU",
        "st_sgn_nnconv": "NNConv, biGRU",
        "st_sgn_gru": "GINE, GRU",
        "st_sgn_mean": "GINE, mean over time",
        "st_sgn_max": "GINE, maximum over time",
        "st_sgn_half_seconds": "GINE, biGRU, slices of 0.5 s",
        "st_sgn_seconds": "GINE, biGRU, slices of 1 s (others: the whole 2 s)",
    },
    claims=(
        _better("A graph network is better than the relation matrix (table 1).", ("st_sgn_gine", "st_sgn_matrix")),
        _better(
            "GINE is better than the other graph networks (table 1).",
            ("st_sgn_gine", "st_sgn_cgconv"),
            ("st_sgn_gine", "st_sgn_nnconv"),
        ),
        _better(
            "Recurrent reducers are better than a mean or a maximum over time (table 1).",
            ("st_sgn_gru", "st_sgn_mean"),
            ("st_sgn_gru", "st_sgn_max"),
            ("st_sgn_gine", "st_sgn_mean"),
            ("st_sgn_gine", "st_sgn_max"),
        ),
        _better(
            "Slices of a middle length are best (table 2: 5 s of 2, 5, 10 and 15 s).",
            ("st_sgn_seconds", "st_sgn_half_seconds"),
            ("st_sgn_seconds", "st_sgn_gine"),
        ),
        Claim(
            text="The relation matrix merges two instances of one class, and a graph does not: with twins the graph "
            "is better.",
            larger=((("st_sgn_gine", TWINS), ("st_sgn_matrix", TWINS)),),
        ),
    ),
    measures={
        TWINS: "accuracy on test videos in which two of the three objects bear the same digit, so that their "
        "relations share a row of the relation matrix",
        NO_TWINS: "accuracy on the other test videos",
    },
)
RSTG = Ablation(
    paper="rstg",
    title="Recurrent Space-time Graph Neural Networks",
    config=INTERACTIONS,
    rows={
        "rstg_space_only": "space alone: a mean in place of time stages",
        "rstg_time_only": "time alone: no messages",
        "rstg_homogeneous": "homogeneous",
        "rstg_one_temp": "1-temp: one time stage at the end",
        "rstg_all_temp": "all-temp: time and space by turns",
        "rstg_positional": "positional all-temp",
    },
    claims=(
        _better(
            "Space alone is the worst (table 1).",
            ("rstg_time_only", "rstg_space_only"),
            ("rstg_homogeneous", "rstg_space_only"),
            ("rstg_one_temp", "rstg_space_only"),
            ("rstg_all_temp", "rstg_space_only"),
        ),
        _better(
            "Time and space by turns are better than time at the end (table 1).", ("rstg_all_temp", "rstg_one_temp")
        ),
        _better("Time and space are better than time alone (table 1).", ("rstg_all_temp", "rstg_time_only")),
        _better("Positional all-temp is the best (table 1).", ("rstg_positional", "rstg_all_temp")),
    ),
    measures={},
)
TRANSFER = Ablation(
    paper="rstg_transfer",
    title="Recurrent Space-time Graphs: transfer",
    config=HERE / "few_interactions.yaml",
    rows={
        "rstg_fresh": "positional all-temp, 5 epochs of 150 other videos, from fresh weights",
        "rstg_started": "the same, from the run `rstg_positional` with seed 0 (`train.start_from`)",
    },
    claims=(
        _better(
            "A graph that starts from a trained one needs far fewer steps (figure of 3SyncMNIST and 5SyncMNIST; here "
            "both tasks are the same, and the second has few videos).",
            ("rstg_started", "rstg_fresh"),
        ),
    ),
    measures={},
)
ABLATIONS = (TRG, ATR, STRG, ST_SGN, RSTG, TRANSFER)

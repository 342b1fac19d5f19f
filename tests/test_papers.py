"""docs/papers.md against the rows of the papers' tables, as they were counted by hand, and spot tests of configs."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.papers import generate
from examples.papers.absent import ABSENT
from examples.papers.table import TITLES

EXAMPLES = Path(generate.__file__).parents[1]
NETWORKS = ("bn_inception", "inception_v3", "resnet50")
SAME = {  # rows that are the config of another row
    "trg": {
        **{f"table 3, T5, {network}, 8 frames": f"table1_{network}_8" for network in NETWORKS},
        "figure 6, inception_v3, 8 frames, blocks at the top": "table2_inception_v3_8",
        "figure 6, resnet50, 8 frames, blocks at the top": "table2_resnet50_8",
        "table 2, bn_inception, 16 frames": "table4_bn_inception_sparse_16",
        "table 2, bn_inception, 32 frames": "table4_bn_inception_sparse_32",
        "table 2, resnet50, 16 frames": "table4_resnet50_dense_16",
        "table 2, resnet50, 32 frames": "table4_resnet50_dense_32",
    },
    "atr": {
        "distribution: adding": "a3_s3_5",
        "table 5, tsn R50 on something_v2 alone": "a0",
        "table 5, tsn R50 on something_v2, ATR": "a3_s3_5",
    },
    "rstg": {"table 2, I3D + RSTG": "table3_to_map_res3_4"},
    "strg": {},
    "st_sgn": {},
}
ROWS: dict[str, set[str]] = {
    "trg": {
        *(f"table1_{network}_{frames}{v}" for network in NETWORKS for frames in (8, 16, 32) for v in ("", "_v1")),
        *("table1_ms_trn", "table1_ms_trn_v1", "table2_bn_inception_8"),
        *(f"table2_inception_v3_{frames}" for frames in (8, 16, 32)),
        *("table2_resnet50_8", *(f"table2_resnet101_{frames}" for frames in (8, 16, 32))),
        *(f"table3_{row}_{network}" for row in ("t1", "t3", "t4") for network in NETWORKS),
        *("table3_t2_bn_inception", "table3_t2_inception_v3"),
        *(
            f"table4_{network}_{sampling}_{frames}"
            for network, sampling, frames in product(("bn_inception", "resnet50"), ("sparse", "dense"), (16, 32))
        ),
        *(f"figure5_{network}{data}" for network in NETWORKS[:2] for data in ("", "_charades")),
        *(f"figure6_{network}_{place}" for network in NETWORKS[1:] for place in ("bottom", "middle")),
    },
    "strg": {
        *(f"s{row}_charades" for row in range(9)),
        *(f"s{row}_something_v1" for row in (0, 2, 3, 4, 5, 6)),
        *(f"s{row}_charades_maps" for row in (1, 2, 3, 4)),
        *(f"s9_charades_{row}" for row in ("i3d", "joint", "nl_i3d", "nl_joint")),
    },
    "atr": {
        *("a0", "a1", "a2", "a3_s5", "a3_s4_5", "a3_s3_5", "a3_s2_5", "a4", "a5_x1", "a5_x2", "a5_x3"),
        *("a6_appearance", "a6_motion", "a6_both", "a7_scaling"),
        *(
            f"a8_{network}_{data}_{row}"
            for network, data, row in product(
                ("tsn", "tsm", "slowonly"), ("kinetics400", "something_v1", "something_v2"), ("alone", "atr")
            )
            if (network, data) != ("tsn", "something_v2")
        ),
        *("table6_tsm_something_v1", "table6_tsm_something_v2"),
    },
    "st_sgn": {
        f"{task}_{row}"
        for task in ("intervals", "videos")
        for row in ("relation_matrix", *map("_".join, product(("cgconv", "nnconv", "gine"), ("max", "mean", "person"))))
    },
    "rstg": {
        *("table2_c2d_alone", "table2_i3d_alone", "table2_nl_i3d_alone", "table2_to_vec_c2d", "table3_to_vec_i3d"),
        *(f"table3_to_map_{place}" for place in ("res2", "res3", "res4", "res3_4")),
    },
}


def document(paper: str, name: str) -> Any:
    return yaml.safe_load((EXAMPLES / "papers" / paper / f"{name}.yaml").read_text())


def header(paper: str, name: str) -> str:
    """Returns the comment at the head of a config, on one line."""
    lines = (EXAMPLES / "papers" / paper / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The part of the page about each paper."""
    text = generate.PAGE.read_text(encoding="utf-8").partition("## Every row of every table")[2]
    titles = "|".join(map(re.escape, TITLES.values()))
    _, *parts = re.split(rf"(?m)^### ({titles})$", text)
    of_title = dict(zip(parts[::2], parts[1::2], strict=True))
    return {paper: of_title[title] for paper, title in TITLES.items()}


def test_the_page_is_up_to_date() -> None:
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run `python -m examples.papers.generate`"


@pytest.mark.parametrize("paper", TITLES)
def test_no_row_is_lost(paper: str, sections: dict[str, str]) -> None:
    section = sections[paper]
    assert set(re.findall(rf"\(\.\./examples/papers/{paper}/(\w+)\.yaml\)", section)) == ROWS[paper]
    lines = section.splitlines()
    for row, config in SAME[paper].items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"| {row}") and line.endswith("| the same |"))
        owner = next(line for line in reversed(lines[:at]) if not line.endswith("| the same |"))
        assert f"/{config}.yaml" in owner
    assert sum(line.endswith("| the same |") for line in lines) == len(SAME[paper])
    for row, why in ABSENT[paper].items():
        assert f"| {row} | {why} |" in section


def test_the_protocol_is_that_of_the_tables() -> None:
    """Validation is scored. It chooses an epoch only where the paper's recipe looks at it."""
    for row in generate.rows():
        train = row.document["train"]
        assert train["test_split"] == "val", row.path
        looks = row.paper in ("st_sgn", "rstg")
        assert train["val_split"] == ("val" if looks else None), row.path
        assert row.document.get("finetune", {"val_split": None})["val_split"] is None, row.path
        assert "Scored on the split val" in row.text, row.path
        assert ("looks at val" in row.text) == looks, row.path


def test_strg_starts_from_long_clips() -> None:
    """The files of 32x4 are those that non-local networks trained on about 5 seconds, with frozen norms."""
    assert document("strg", "s4_charades")["backbones"]["i3d"]["weights"] == "nonlocal_net_32x4"
    assert document("strg", "s6_something_v1")["backbones"]["nl_i3d"]["weights"] == "nonlocal_net_32x4"
    deep = document("strg", "s9_charades_joint")
    assert deep["clips"]["num_frames"] == 128
    assert deep["proposals"]["every"] == 8
    assert deep["backbones"]["i3d_r101"]["options"] == {
        "geometry": "paper", "stem_time_stride": 2, "pool1_time_stride": 2
    }  # fmt: skip
    assert "406 GMAC" in (EXAMPLES / "papers/strg/s9_charades_joint.yaml").read_text()


def test_table_2_of_trg_is_dense_for_resnets() -> None:
    for name in ("table2_resnet50_8", "table2_resnet101_32"):
        assert document("trg", name)["clips"] == {"num_frames": int(name.rpartition("_")[2]), "per_video": 10,
                                                  "sampling": "dense", "fps": 6.0}  # fmt: skip
    assert document("trg", "table2_inception_v3_8")["clips"]["sampling"] == "uniform"
    text = (EXAMPLES / "papers/trg/table2_resnet50_8.yaml").read_text()
    assert "Table 2 says 32.9" in text
    assert "figure 6 says 33.9" in text


def test_losses_are_summed_where_the_papers_sum_them() -> None:
    """TRG's eq. 13 sums over classes, and its rate is that of a mean over clips. RSTG's release sums over clips."""
    for section, clips in (("train", 64), ("finetune", 8)):
        recipe = document("trg", "table2_resnet50_8")[section]
        assert (recipe["loss_reduction"], recipe["batch_size"]) == ("sum", clips)
        assert recipe["learning_rate"] * clips == pytest.approx(1e-3)
        assert recipe["weight_decay"] / clips == pytest.approx(5e-4)
        assert "loss_reduction" not in document("trg", "table1_resnet50_8")[section]
        assert document("rstg", "table3_to_vec_i3d")[section]["loss_reduction"] == "sum"


def test_the_whole_network_is_tuned_beside_the_frozen_one() -> None:
    for row in generate.rows():
        if row.paper != "st_sgn":
            assert row.document["finetune"]["unfreeze"] == "all", row.path
            assert row.paper == "strg" or "Below the cached tap all is frozen" in row.text, row.path
    assert document("trg", "table1_resnet50_8")["finetune"]["views"] == {"short_side": [224, 341], "offsets": "random"}
    assert "offsets" not in document("trg", "table2_resnet50_8")["finetune"]["views"], "dense clips have no segments"


def test_views_of_the_tests_are_larger_and_of_the_same_networks() -> None:
    views = document("views", "rstg_something_v1")
    assert views["clips"] == document("rstg", "table3_to_map_res3_4")["clips"]
    assert views["backbones"]["i3d"] == document("rstg", "table3_to_map_res3_4")["backbones"]["i3d"] | {"size": 256}
    assert document("views", "strg_charades")["clips"]["crops"] == ["left", "center", "right"]


def test_headers_have_the_command_for_views_of_their_own_frames_and_network() -> None:
    """Views of another number of frames, or smaller than the squares of the training, would be refused or unfair."""
    for row in generate.rows():
        if "kinegraph evaluate RUN --cache" in row.text:
            assert f"--set cache={row.document['cache']}_views" in row.text, row.path
    text = header("trg", "table4_resnet50_dense_32")
    assert "Views of the paper's test: 30 views of 256 px." in text
    assert "--set 'clips.crops=[left, center, right]' --set 'backbones.resnet50.size=256'" in text
    for paper, name, side in (("trg", "table2_inception_v3_8", 299), ("strg", "s9_charades_joint", 288)):
        assert f"30 views of {side} px" in header(paper, name)
        assert "size=" not in header(paper, name)
    assert "The paper's accurate protocol: 6 views of 256 px." in header("atr", "a3_s3_5")
    assert "Cached maps: 144.0 TB" in header("views", "rstg_something_v1")


def test_stages_of_strg() -> None:
    """The first stage trains a network alone, 100K steps at the full rate. The last trains both, 30K at a tenth."""
    for name in sorted(ROWS["strg"]):
        tuning, text = document("strg", name)["finetune"], header("strg", name)
        alone = name.startswith(("s0", "s5")) or name in ("s9_charades_i3d", "s9_charades_nl_i3d")
        assert (tuning["iterations"], tuning["learning_rate"]) == ((100_000, 1.25e-3) if alone else (30_000, 1.25e-4))
        assert tuning.get("milestones") == ([90_000] if alone else None)
        assert ("Without stage 1" in text) == (not alone), name
        gains = name in ("s9_charades_nl_i3d", "s9_charades_nl_joint")  # new non-local blocks have gains of 0
        assert tuning["batch_norm"] == ("statistics" if gains else "frozen"), name
        assert ("a frozen gain of 0" in text) == gains
    for name, first in (("s4_something_v1", "s0_something_v1"), ("s6_charades", "s5_charades"),
                        ("s9_charades_nl_joint", "s9_charades_nl_i3d")):  # fmt: skip
        assert f"(`finetune` of {first};" in header("strg", name)


def test_headers_say_what_is_a_guess() -> None:
    for place in ("bottom", "middle"):
        assert "probably dense" in header("trg", f"figure6_resnet50_{place}")
        assert "probably dense" not in header("trg", f"figure6_inception_v3_{place}")
    assert "dropout (0.3) and the weights" in header("trg", "table1_resnet50_8")
    assert "inferred from figure 5" not in header("trg", "table3_t1_resnet50")
    assert "layer_clip" in header("rstg", "table3_to_map_res3_4")
    assert "one view of an interval" in header("st_sgn", "intervals_gine_person")
    assert "lie in the whole frame" in header("strg", "s4_charades")
    assert "lie in the whole frame" not in header("rstg", "table3_to_map_res3_4")


def test_st_sgn_reads_action_genome_as_it_is_shipped() -> None:
    for task, labels in (("intervals", "interval"), ("videos", "video")):
        found = document("st_sgn", f"{task}_gine_person")
        assert (found["dataset"]["kind"], found["dataset"]["labels"]) == ("action_genome", labels)
        assert (found["clips"]["sampling"], found["graphs"]) == ("annotated", {"source": "action_genome"})


def test_rstg_keeps_16_frames() -> None:
    for name in ("table3_to_vec_i3d", "table2_nl_i3d_alone", "table2_to_vec_c2d"):
        [backbone] = document("rstg", name)["backbones"].values()
        assert backbone["weights"] == "nonlocal_net_8x8"
    assert document("rstg", "table2_to_vec_c2d")["train"]["head"] == "rstg"


def test_headers_say_the_disk_that_maps_need() -> None:
    text = (EXAMPLES / "papers/atr/a8_tsn_kinetics400_atr.yaml").read_text()
    assert "Cached maps: 102.7 TB in float16, for 266,440 videos of 30 views." in text
    assert "they are 3.4 TB" in text
    assert "A guess" in (EXAMPLES / "papers/atr/a8_slowonly_something_v2_atr.yaml").read_text()

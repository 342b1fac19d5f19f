"""What train says of heads that the cache or the config does not fit, and of options that a head does not get."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.results import read_results
from tests.caches import write_config
from tests.conftest import six_videos, tiny_stages

Command = Callable[..., Any]
RECIPE = {"head": "strg", "epochs": 1, "val_split": None, "test_split": "train"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two backbones on six videos, indexed."""
    root = tmp_path_factory.mktemp("advice")
    found = tiny_stages(root / "cache", six_videos(root / "videos"))
    tiny = found["backbones"]["tiny"] | {"store": ["pooled"]}
    found |= {"backbones": {"tiny": tiny, "other": tiny | {"weights": "random:1"}}}
    found["run"] |= {"executor": "inline"}
    index(check_config(found, "test"))
    return found


def recipe_of(document: dict[str, Any], folder: Path, **train: Any) -> Path:
    return write_config(folder / "my.yaml", document | {"train": RECIPE | {"run": str(folder / "run")} | train})


def refused(trained: Any) -> str:
    assert (trained.exit_code, trained.stdout) == (2, "")
    told = str(trained.stderr).splitlines()[-1]
    assert told.startswith("error: ")
    return told.removeprefix("error: ")


@pytest.mark.parametrize(
    ("head", "options", "told"),
    [
        ("strg", {}, "strg: not extracted yet: {} lacks regions/tiny/res4, proposals/boxes, proposals/count, "),
        ("avg_pool", {"backbone": "other"}, "avg_pool: not extracted yet: {} lacks features/other/res4_pooled, "),
        ("avg_pool", {}, "avg_pool: Several arrays fit; choose one by backbone and tap in the options of train"),
        ("trg", {"backbone": "tiny"}, "trg: Missing features/tiny/res4. The config needs a copy of tiny under another"),
        ("st_sgn", {}, "st_sgn: Missing graphs/times and graphs/count and graphs/objects and graphs/linked and"),
        ("lstm", {"backbone": "tiny", "hiden": 3}, "lstm: Head lstm: there is no option 'hiden'; there are: backbone,"),
    ],
)
def test_before_extract(
    kinegraph: Command, document: dict[str, Any], tmp_path: Path, head: str, options: dict[str, Any], told: str
) -> None:
    """Advice is made from the config and the cache: what the config has it need not get."""
    config = recipe_of(document, tmp_path, head=head, options=options)
    words = refused(kinegraph("train", config))
    assert words.startswith(told.format(document["cache"]))
    assert "new entry" not in words
    if head in ("strg", "avg_pool", "trg"):
        assert "kinegraph extract CONFIG" in words


@pytest.mark.parametrize(
    ("given", "named"), [("my_heads.py:MyHead", "my_heads.py:MyHead"), ("mine.py", "file.py:Class")]
)
def test_a_head_of_ones_own_is_named_in_the_config(
    kinegraph: Command, document: dict[str, Any], tmp_path: Path, given: str, named: str
) -> None:
    words = refused(kinegraph("train", recipe_of(document, tmp_path), "--head", f"lstm,{given}"))
    assert words.startswith(
        f'--head {given}: a head of your own is named in the config, as `train: {{head: "{named}"}}`'
    )
    assert f"--set train.head={named} without --head" in words


def test_each_name_is_listed_once(kinegraph: Command, document: dict[str, Any], tmp_path: Path) -> None:
    config = recipe_of(document, tmp_path, variants={"lstm": {"head": "lstm"}, "mine": {"head": "lstm"}})
    listed = refused(kinegraph("train", config, "--head", "lstmm")).partition("there are: ")[2].split(", ")
    assert listed[:3] == ["lstm", "mine", "strg"]
    assert len(listed) == len({*listed})


def test_the_way_that_is_advised_for_a_head_of_ones_own(
    kinegraph: Command, document: dict[str, Any], tmp_path: Path
) -> None:
    """The file is relative to the config."""
    config = recipe_of(document, tmp_path)
    (tmp_path / "mine.py").write_text("x = (")
    words = refused(kinegraph("train", config, "--set", "train.head=mine.py:Mine"))
    assert words == f"{tmp_path}/mine.py, line 1: cannot be imported: SyntaxError: '(' was never closed."


def test_a_tail_before_extract(kinegraph: Command, document: dict[str, Any], tmp_path: Path) -> None:
    entry = document["backbones"]["tiny"] | {"model": "resnet18", "taps": ["res4"], "store": ["maps"]}
    changed = document | {"backbones": {"net": entry}, "regions": None}
    config = recipe_of(changed, tmp_path, head="avg_pool", options={"tail": {"from": "res4"}})
    told = f"avg_pool: not extracted yet: {document['cache']} lacks features/net/res4, which the config asks for. "
    assert refused(kinegraph("train", config)) == told + "Run `kinegraph extract CONFIG`."


def test_heads_get_the_options_that_they_know(
    kinegraph: Command, document: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extract(check_config(document, "test"))
    options = {"backbone": "tiny", "graphs": "similarity", "dim": 8, "dropout": 0.25, "hidden": 6}
    variants = {"mean": {"head": "avg_pool"}, "own": {"head": "avg_pool", "options": {"backbone": "other"}}}
    config = recipe_of(document, tmp_path, options=options, variants=variants)
    trained = kinegraph("train", config, "--head", "lstm,avg_pool,own")
    assert trained.exit_code == 0, trained.stderr
    assert [line.split()[0] for line in trained.stdout.splitlines()] == ["head", "lstm", "avg_pool", "own"]
    recipe = read_results(tmp_path / "run" / "lstm" / "seed0").recipe
    assert recipe.options == {"backbone": "tiny", "dropout": 0.25, "hidden": 6}
    told = [line for line in caplog.messages if "train.options" in line]
    words = "train.options are those of strg."
    advice = "Set its own options in a variant (train.variants)."
    assert told == [
        f"lstm: {words} lstm does not have: dim, graphs. {advice}",
        f"avg_pool: {words} avg_pool does not have: dim, graphs, hidden. {advice}",
    ]
    by_variant = kinegraph("train", config, "--head", "mean", "--set", f"train.run={tmp_path / 'other'}")
    assert f"mean: {words} avg_pool does not have: backbone, dim, dropout, graphs, hidden. {advice}" in caplog.messages
    assert refused(by_variant).startswith("mean: Several arrays fit; choose one by backbone and tap")

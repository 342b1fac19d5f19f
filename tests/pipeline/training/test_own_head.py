"""A head of one's own: trained, gone on with, evaluated; and what is said of one that does not fit."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import kinegraph
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.clusters.wanted_run import WantedRun
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs, wanted_runs
from kinegraph.pipeline.training.trainable import build_for
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.training.checkpoint import RunError, RunExists, load_record
from kinegraph.stages.training.state import StateError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "own_head.md"
CODE = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)
SPEC = {"regions/tiny/res4": (4, 5, 6)}


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    """The page's code, beside the config."""
    assert CODE is not None
    path = tmp_path / "my_heads.py"
    path.write_text(CODE[1])
    return path


@pytest.fixture
def trainable(whole: Cache, head_file: Path) -> Callable[..., Config]:
    """A config that trains it on the `whole` cache, as the page writes it."""
    path = head_file.with_name("own.yaml")
    train = {"head": "my_heads.py:MyHead", "options": {"dim": 8}, "epochs": 2, "val_split": None}
    path.write_text(yaml.safe_dump({"cache": whole.root, "run": {"device": "cpu", "threads": 1}, "train": train}))

    def loaded(run: str = "run", *overrides: str) -> Config:
        return load_config(path, [f"train.run={head_file.parent / run}", *overrides])

    return loaded


def test_the_page_is_short_and_its_head_trains_and_scores(
    trainable: Callable[..., Config], head_file: Path, tmp_path: Path
) -> None:
    assert len(PAGE.read_text().splitlines()) < 50
    runs = kinegraph.train(trainable(), seeds=2)
    assert [run.folder for run in runs] == [tmp_path / "run" / "MyHead" / f"seed{seed}" for seed in (0, 1)]
    record = load_record(runs[0].folder)
    assert re.fullmatch(r"my_heads\.py:MyHead@[0-9a-f]{64}", record.head)
    assert record.train.head == record.head
    assert record.options == {"array": "regions/tiny/res4", "dim": 8}
    head_file.unlink()
    scores = kinegraph.evaluate(runs[1].folder, split="train", allow_code=True)
    assert 0 <= scores.result.metrics["top1"] <= 1
    assert kinegraph.metrics.topk(torch.eye(3), torch.arange(3), (1,)) == {"top1": 1.0}


def test_code_of_a_run_is_run_only_on_request_and_only_as_trained(trainable: Callable[..., Config]) -> None:
    (run,) = train_runs(trainable())
    with pytest.raises(RunError, match=r"code came with the run in .*head\.py.*--allow-code"):
        evaluate_run(run.folder, split="train")
    copy = run.folder / "head.py"
    copy.write_text(copy.read_text() + "\n# changed\n")
    with pytest.raises(RunError, match=r"has sha256 .*, the run was trained with .*\. The file was changed since"):
        evaluate_run(run.folder, split="train", allow_code=True)


def test_other_code_is_another_recipe(trainable: Callable[..., Config], head_file: Path) -> None:
    """A finished run and one that was cut off are refused, not mixed with it."""

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    train_runs(trainable("table"), seeds=2)
    with pytest.raises(Stopped):
        train_runs(trainable("half", "train.checkpoint_steps=1", "train.batch_size=2"), on_epoch=stop)
    assert (head_file.with_name("half") / "state.pt").exists()
    before = head_file.read_text()
    head_file.write_text(before + "\n# changed\n")
    with pytest.raises(RunExists, match=r"another recipe or other clips \(head: 'my_heads\.py:MyHead@"):
        train_runs(trainable("table"), seeds=3)
    with pytest.raises(StateError, match=r"the beginning of another run \(head: 'my_heads\.py:MyHead@"):
        train_runs(trainable("half", "train.checkpoint_steps=1", "train.batch_size=2"))
    head_file.write_text(before)
    train_runs(trainable("half", "train.checkpoint_steps=1", "train.batch_size=2"))


def test_the_code_travels_with_the_run(trainable: Callable[..., Config], head_file: Path, whole: Cache) -> None:
    """As a cluster's tasks get it: plain values, on a machine without the file."""
    config = trainable()
    (run,) = wanted_runs(config, [], 1)
    there = WantedRun.model_validate_json(run.model_dump_json())
    head_file.unlink()
    head = build_for(whole, there.options, there.code)
    assert head.name == run.options.head
    batch = kinegraph.CachedClips(whole, head.reads).batch([0, 1])
    assert batch["regions/tiny/res4"].dtype == torch.float16
    assert head(batch).shape == (2, 2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("class MyHead", "class Other", r"MyHead is not there\. Heads in this file: Other\. Name it in train\."),
        ("class MyHead(Head)", "class MyHead", r"is no subclass of kinegraph.Head\. No head is there\. docs/own_h"),
        ("import torch\n", "import torch, mine\n", "line 1: cannot be imported: ModuleNotFoundError: .* no file besi"),
        ("import torch\n", "import torch\nexit(3)\n", r"line 2: cannot be imported: SystemExit: 3\.$"),
        ("import torch\n", "import torch\n\0", "cannot be imported: SyntaxError: source code .* null bytes"),
        ("def forward(", "def forward ! (", r"line 22: cannot be imported: SyntaxError: expected '\('\.$"),
        ("spec, num_classes, options):", "spec):", r"py: MyHead\(spec, .* raised TypeError: .*own_head"),
        ("super().__init__()", "super().__init__(); {}['a']", r"line 15: MyHead\(.* raised KeyError: 'a'\. Cached are"),
        ("super().__init__()", "super().__init__(); exit()", r"line 15: MyHead\(.* raised SystemExit: .*docs/own_head"),
        ("(options.array,)", "()", r"reads is \(\); set it to the names of the arrays"),
        ("(options.array,)", "('maps',)", "MyHead reads maps, which is not cached. Cached are: regions/tiny/res4"),
        (".mean((1, 2))", ".mean(1)", r"returns \[2, 5, 3\] for 2 clips and 3 classes; logits \[2, 3\] are needed"),
        (".mean((1, 2))", ".view(7)", r"line 23: MyHead.forward, given 2 clips, raised RuntimeError: shape '\[7\]'"),
        ("batch[self.reads[0]]", "batch['maps']", r"line 23: .*KeyError: 'maps'\. forward gets: regions/tiny/res4\. "),
    ],
)  # fmt: skip
def test_a_head_that_does_not_fit_is_told_what_to_do(head_file: Path, old: str, new: str, words: str) -> None:
    code = head_file.read_text()
    assert old in code
    head_file.write_text(code.replace(old, new, 1))
    with pytest.raises(HeadError, match=words) as caught:
        build_head(f"{head_file}:MyHead", SPEC, 3)
    assert str(caught.value).startswith(str(head_file)), "each says in which file"
    assert not re.search(r"\.\.(\s|$)", str(caught.value))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{}['a']", r"my_heads\.py, line 23: MyHead\.forward, given 6 clips, raised KeyError: 'a'\. forward gets: "),
        ("exit(0)", r"my_heads\.py, line 23: MyHead\.forward, given 6 clips, raised SystemExit: 0\. docs/own_head"),
        ("return torch.zeros(2, 2)", r"returns \[2, 2\] for 6 clips and 2 classes; logits \[6, 2\] are needed\.$"),
        ("return None", r"returns NoneType for 6 clips and 2 classes; logits \[6, 2\] are needed\.$"),
        ("return torch.ones(6, 2).long()", r"returns torch\.int64; floating-point logits are needed\.$"),
        ("return torch.zeros(6, 2)", r"returns logits without a gradient, so nothing can be trained\. Compute them fr"),
    ],
)  # fmt: skip
def test_code_that_fails_only_in_training_is_blamed_as_well(
    trainable: Callable[..., Config], head_file: Path, line: str, words: str
) -> None:
    """The trial with zeros passes. An exit code of the user's own must not end the command either."""
    code = head_file.read_text()
    guarded = f"\n        if self.training: {line}\n        return self.layers("
    head_file.write_text(re.sub(r"  # arrays by name.*\n\s*return self\.layers\(", guarded, code))
    with pytest.raises(HeadError, match=words):
        train_runs(trainable())


def test_a_file_that_is_missing_and_an_option_that_is_unknown_are_named(head_file: Path) -> None:
    with pytest.raises(HeadError, match=r"head nowhere\.py:MyHead cannot be read: .*No such file"):
        build_head("nowhere.py:MyHead", SPEC, 3)
    with pytest.raises(HeadError, match=r"my_heads\.py: names no class\. Name it in train\.head as `file\.py:Class`"):
        build_head(f"{head_file}:", SPEC, 3)
    os.mkfifo(fifo := head_file.with_name("fifo.py"))
    with pytest.raises(HeadError, match=r"fifo\.py:MyHead cannot be read: .* is a named pipe"):
        build_head(f"{fifo}:MyHead", SPEC, 3)
    with pytest.raises(HeadError, match="Head MyHead: there is no option 'depth'; there are: array, dim"):
        build_head(f"{head_file}:MyHead", SPEC, 3, depth=2)

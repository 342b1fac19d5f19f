"""The first commands of the README, from the first to the last, with random weights: no network."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kinegraph.cli.app import app
from kinegraph.pipeline.caches.advice import advice, random_in_config
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.demo import CONFIG
from tests.conftest import moving_square, write_video

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "real_videos.yaml"
RANDOM = [f"--set {entry}.weights=random:0" for entry in ("backbones.r50", "backbones.i3d", "proposals")]
SMALL = [
    "clips.num_frames=8", "backbones.r50.size=64", "backbones.i3d.size=64", "proposals.short_side=64", "run.threads=1",
    "backbones.r50.precision=fp32", "backbones.i3d.precision=fp32",  # bf16 may be 100 times slower on a CPU
    "run.executor=inline", "train.epochs=1", "train.val_split=null", "train.test_split=train",
]  # fmt: skip


def commands() -> list[str]:
    """The lines of the block below `Your videos`."""
    block = re.search(r"## Your videos\n\n```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert block is not None
    return block[1].splitlines()


def run(line: str, *overrides: str) -> Any:
    words = line.removeprefix("kinegraph ").split()
    settings = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(app, [*words, *(settings if str(EXAMPLE.relative_to(ROOT)) in words else [])])


def random_weights(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("random weights: ")]


def test_the_demo_comes_before_your_videos_and_shows_what_it_prints() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    demo = text[text.index("## The demo") : text.index("## Your videos")]
    assert "kinegraph demo\n" in demo
    assert [name for name in load_config(CONFIG).train.variants if f"\n{name} " not in demo] == []


def test_the_first_example_names_published_weights_and_what_to_do_without_a_network() -> None:
    config = load_config(EXAMPLE)
    assert random_in_config(config) == []
    assert advice(config) == [], "clips are as the weights were trained"
    assert " ".join(RANDOM) in EXAMPLE.read_text(encoding="utf-8")


def test_the_first_commands_and_what_they_say_of_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for number in range(2):
        video = tmp_path / "my_videos" / ("left" if number % 2 else "right") / f"v{number}.mp4"
        write_video(video, moving_square(8, 96, 80, seed=number))
    overrides = [*(word.removeprefix("--set ") for word in RANDOM), *SMALL, "dataset.splits={train: 1}"]
    told = {}
    assert len(commands()) == 6
    for line in commands():
        done = run(line, *overrides)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        told[line.split()[1]] = random_weights(done.stderr)
    told["status"] = random_weights(run("kinegraph status out/real/cache").stderr)
    told["train"] = [text for text in caplog.messages if text.startswith("random weights: ")]
    (again,) = [text for text in run("kinegraph results out/real/strg").stderr.splitlines() if "random" in text]
    what_to_do = "name weights that `kinegraph models` lists, or a file, and a new `cache:`."
    entries = "random weights: backbones.r50, backbones.i3d, proposals. "
    assert {command: len(lines) for command, lines in told.items()} == {
        "index": 0, "plan": 1, "extract": 1, "status": 1, "verify": 0, "train": 1, "evaluate": 1,
    }  # fmt: skip
    assert all(line.endswith(what_to_do) for lines in told.values() for line in lines)
    assert all(told[command][0].startswith(entries) for command in ("plan", "extract"))
    assert told["status"][0].startswith("random weights: features/i3d, features/r50, proposals. ")
    read = "random weights: features/i3d, proposals. "  # strg reads no frames of r50
    assert all(line.startswith(read) for line in (*told["train"], *told["evaluate"], again))

"""Lines that fit a terminal, counts and names in words, and when a log gets a line."""

import io
import itertools
import re
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.machine.terminal import Bar, LineTimer, Pace, clock, columns, fitting, folded, speed
from tests.clock import Clock
from tests.terminal import Terminal

ADVICE = "random weights: backbones.i3d. Features and boxes of random networks tell little of a video."


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("kinegraph.pipeline.machine.terminal.time.monotonic", found)
    return found


def test_counts() -> None:
    told = [counted(count, noun) for count in (0, 1, 2) for noun in ("shard", "class")]
    assert told == ["0 shards", "0 classes", "1 shard", "1 class", "2 shards", "2 classes"]
    assert counted(3900, "video") == "3,900 videos"
    assert counted(1, "clip is", "clips are") == "1 clip is"
    assert counted(2, "clip is", "clips are") == "2 clips are"


def test_no_count_stands_before_a_plural_by_itself() -> None:
    """`1 shards` came from messages that wrote the plural themselves; `counted` knows both."""
    nouns = "videos|clips|shards|files|frames|rows|runs|classes|work units|documents|problems|seeds"
    pattern = rf"(?<!of )(?<!from )(?<!shard )(\{{[^{{}}]*\}}|%d) ({nouns})\b(?!/s)"
    root = Path(__file__).resolve().parent.parent.parent.parent
    paths = [path for room in ("cache_schemas", "stages", "pipeline", "cli") for path in (root / room).rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    assert len(texts) > 100
    found = [f"{path}: {hit.group()}" for path, text in texts.items() for hit in re.finditer(pattern, text)]
    assert found == []


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_break_between_words(width: int) -> None:
    text = f"{ADVICE}\n    a line of a log that is indented and is longer than any terminal of forty columns\nshort"
    lines = folded(text, width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(line.strip() for line in lines).split() == text.split()
    assert lines[-1] == "short"
    assert folded(text, None) == text


def test_what_follows_is_indented_and_long_words_stay_whole() -> None:
    assert folded("  one two", 7) == "  one\n    two"
    assert folded("a  b", 10) == "a  b"
    assert folded("see /a/path/of/twenty.px now", 10) == "see\n  /a/path/of/twenty.px\n  now"
    assert folded("走走走 走", 7) == "走走走\n  走", "two columns each"


def test_as_many_parts_as_fit() -> None:
    parts = ["6 of 12 clips", "3.2 clips/s", "0:12:30 left"]
    assert [fitting(parts, width) for width in (40, 39, 26, 13, 9)] == [
        "6 of 12 clips, 3.2 clips/s, 0:12:30 left",
        "6 of 12 clips, 3.2 clips/s",
        "6 of 12 clips, 3.2 clips/s",
        "6 of 12 clips",
        "6 of 1...",
    ]


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (1234.5, "1,234 clips/s"), (99.7, "100 clips/s"), (12.3, "12 clips/s"), (3.21, "3.2 clips/s"),
        (0.1, "0.1 clips/s"), (0.0999, "10 s/clip"), (0.034, "29 s/clip"), (0.0001, "10,000 s/clip"),
        (0.0, "0 clips/s"),
    ],
)  # fmt: skip
def test_speeds(rate: float, told: str) -> None:
    assert speed(rate) == told


def test_time_left(now: Clock) -> None:
    pace = Pace(2)
    assert pace.left(2, 10) == [], "nothing was done since"
    now.now += 30
    assert pace.seconds_left(5, 10) == 50
    assert pace.left(5, 10) == ["0:00:50 left"]
    assert pace.left(10, 10) == []
    assert clock(90061) == "1 day, 1:01:01"


def test_a_log_gets_a_line_each_half_minute_and_later_less_often(now: Clock) -> None:
    timer, told = LineTimer(), list[float]()
    for second in range(24 * 3600):
        now.now = 1000.0 + second
        if timer.is_due():
            told.append(second)
    assert told[:3] == [30, 60, 90]
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert gaps[-1] == 300
    assert gaps == sorted(gaps)


def test_the_width_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns(io.StringIO()) is None, "a file has none"
    assert columns(Terminal()) == 80, "a terminal that does not tell"
    monkeypatch.setenv("COLUMNS", "97")
    assert columns(Terminal()) == columns(io.StringIO()) == 97


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_and_its_words_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Terminal()
    monkeypatch.setattr(sys, "stderr", drawn)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    bar = Bar(4800)
    bar.show(0, 4800, ["loading networks: i3d\x1b[31m (i3d_r50)"])
    parts = ["1,200 of 4,800 clips", "3.2 clips/s", "0:12:30 left", "12 of 480 shards", "mostly waiting for decode"]
    bar.show(1200, 4800, parts)
    bar.close()
    lines = [line for line in drawn.getvalue().replace("\n", "\r").split("\r") if line.strip()]
    assert all(len(line) <= width for line in lines)
    assert r"loading networks: i3d\x1b[31m (i3d_r50)" in lines[1]
    assert lines[-1].startswith(" 25%|")
    drawn_bar = lines[-1].split("|")[1]
    assert len(drawn_bar) >= 10
    assert drawn_bar.rstrip(), "a quarter of it"
    assert "1,200 of 4,800 clips, 3.2 clips/s, 0:12:30 left" in lines[-1]
    assert ("mostly waiting for decode" in lines[-1]) == (width == 120)

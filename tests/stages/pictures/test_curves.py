"""Curves of scores over time."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from kinegraph.stages.errors import UsageError
from kinegraph.stages.pictures.curves import Curves, curves_file, label_places

CURVES = Curves(
    title="a $x^2$ video.mp4",
    spans=[(0, 2), (2, 4), (4, 7)],
    names=["_run", "jump $a$", "a\nb"],
    scores=np.array([[0.5, 0.3, 0.2], [np.nan] * 3, [0.1, 0.2, 0.7]]),
)
STARTS = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}


@pytest.mark.parametrize("ending", STARTS)
def test_each_format_is_written_the_same_each_time(ending: str) -> None:
    content = curves_file(CURVES, ending)
    assert content.startswith(STARTS[ending])
    assert content == curves_file(CURVES, ending)


def test_names_stand_as_they_are() -> None:
    content = curves_file(CURVES, ".svg").decode()
    for text in ("_run", "jump $a$", r"a\nb", "a $x^2$ video.mp4", "seconds"):
        assert f">{text}</text>" in content


def test_a_name_in_another_script_is_no_warning() -> None:
    assert ">跳</text>" in curves_file(replace(CURVES, names=["跳", "b", "c"]), ".svg").decode()


def test_a_failed_span_is_shaded_and_breaks_the_lines() -> None:
    whole = replace(CURVES, scores=np.nan_to_num(CURVES.scores))
    assert curves_file(CURVES, ".svg").count(b"fill: #808080; opacity: 0.2") == 1
    assert curves_file(whole, ".svg").count(b"fill: #808080; opacity: 0.2") == 0


def test_labels_do_not_overlap() -> None:
    places = label_places([0.5, 0.5, 0.99, 1.0, 0.0, 0.51])
    assert np.diff(sorted(places)).min() > 0.07
    assert max(places) <= 1
    assert places[3] > places[2] > places[5] > places[4]


def test_a_missing_package_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"need the package matplotlib: pip install 'kinegraph\[look\]'"):
        curves_file(CURVES, ".svg")

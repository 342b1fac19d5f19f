"""Videos that are written: their times, and that they appear whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.errors import UsageError
from kinegraph.stages.pictures import film
from kinegraph.stages.pictures.film import film_ending, writing_film

TIMES = [0.0, 0.04, 0.3, 0.31, 0.9, 2.0]


def written(target: Path, times: list[float] = TIMES) -> list[tuple[float, int]]:
    """Write a film of grey frames, and return the times and grey levels that it has."""
    with writing_film(target, (64, 48), 25) as new:
        for number, seconds in enumerate(times):
            new.add(np.full((48, 64, 3), 40 * number, np.uint8), seconds)
        new.end(0.5)
    with open_video(str(target)) as video:
        frames = [(shown.seconds, round(video.rgb(shown.frame).mean() / 40)) for shown in video.frames()]
        assert video.complaints == ""
    return frames


def test_each_frame_is_there_once_at_its_own_time(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.mp4"
    frames = written(target)
    assert [seconds for seconds, _ in frames] == pytest.approx(TIMES, abs=1e-4)
    assert [level for _, level in frames] == [*range(6)]
    assert probe(str(target)).duration == pytest.approx(2.5, abs=1e-3)
    content = target.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "players can begin before they have the whole file"
    assert [*target.parent.iterdir()] == [target]


def test_frames_with_one_time_all_stay(tmp_path: Path) -> None:
    frames = written(tmp_path / "a.mp4", [0.0, 0.1, 0.1, 0.1, 0.2])
    assert [level for _, level in frames] == [*range(5)]
    assert [seconds for seconds, _ in frames] == pytest.approx([0.0, 0.1, 0.1, 0.1, 0.2], abs=1e-4)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")

    def fail() -> None:
        with writing_film(target, (64, 48), 25) as new:
            new.add(np.zeros((48, 64, 3), np.uint8), 0.0)
            new.add(np.zeros((48, 64, 3), np.uint8), 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [target]


def test_a_build_without_h264_writes_vp9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert film_ending() == ".mp4"
    h264, vp9 = film.FORMS
    monkeypatch.setattr(film, "FORMS", (h264._replace(codec="not_built"), vp9))
    assert film_ending() == ".webm"
    frames = written(tmp_path / "a.webm")
    assert [seconds for seconds, _ in frames] == pytest.approx(TIMES, abs=1e-3)
    monkeypatch.setattr(film, "FORMS", (h264._replace(codec="not_built"),))
    with pytest.raises(UsageError, match="neither not_built"):
        film_ending()

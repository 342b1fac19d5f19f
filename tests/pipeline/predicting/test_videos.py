"""The names of the files for pictures of videos."""

from pathlib import Path

import pytest

from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.predicting.videos import listed_videos, picture_files
from kinegraph.stages.errors import UsageError

ENDINGS = (".mp4",)


def names(*videos: str, out: str = "out") -> list[str]:
    files = picture_files("--overlay", Path(out), videos, ENDINGS, overwrite=False)
    assert [*files] == [*videos]
    return [file.as_posix() for file in files.values()]


@pytest.mark.parametrize(
    ("videos", "expected"),
    [
        (["a/v1.mp4"], ["v1.mp4"]),
        (["a/v1.avi", "a/b/v2.mkv"], ["v1.mp4", "b/v2.mp4"]),
        (["a/v.mp4", "b/v.mp4"], ["a/v.mp4", "b/v.mp4"]),
        (["a/v.mp4", "a/v.avi", "a/w.avi"], ["v.mp4.mp4", "v.avi.mp4", "w.mp4"]),
        (["/one/a/v.mp4", "/one/v.mp4"], ["a/v.mp4", "v.mp4"]),
        (["https://host/x/a.mp4", "https://host/x/b/c.mp4"], ["a.mp4", "b/c.mp4"]),
        (["s3://bucket/a.mp4", "/data/a.mp4"], ["s3/bucket/a.mp4", "data/a.mp4"]),
        (["a/v.1.mp4", "a/v.2.mp4"], ["v.1.mp4", "v.2.mp4"]),
    ],
)
def test_each_video_has_a_file_below_the_folder(videos: list[str], expected: list[str]) -> None:
    assert names(*videos) == [f"out/{name}" for name in expected]


def test_one_video_may_have_one_file() -> None:
    assert names("a/v1.avi", out="some/OUT.MP4") == ["some/OUT.MP4"]
    with pytest.raises(UsageError, match=r"out\.mp4: this is one file, and there are 2 videos\. Name a folder"):
        names("a.mp4", "b.mp4", out="out.mp4")
    with pytest.raises(UsageError, match=r"out\.gif: allowed: a file that ends with \.mp4, or a folder"):
        names("a.mp4", out="out.gif")


def test_a_video_is_never_overwritten(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"video")
    (tmp_path / "link.mp4").symlink_to(video)
    for out in (video, tmp_path / "link.mp4", tmp_path):
        with pytest.raises(UsageError, match="is one of the videos"):
            picture_files("--overlay", out, [str(video)], ENDINGS, overwrite=True)


def test_a_video_without_a_row_has_a_reason() -> None:
    """A run on windows makes no row of a video that is shorter than a window."""
    told = Predictor.__new__(Predictor)._prediction("v.mp4", [])
    assert (told.scores, told.failure) == (None, "too_short: the video is shorter than a window of the run")


def test_a_video_is_listed_once_however_its_path_is_written(tmp_path: Path) -> None:
    """Two rows of one id would be refused, in words about labels."""
    (tmp_path / "a.mp4").touch()
    videos = ["x/b.mp4", "./x/b.mp4", "x//b.mp4", str(tmp_path), f"{tmp_path}/./a.mp4"]
    assert listed_videos(videos) == ["x/b.mp4", str(tmp_path / "a.mp4")]


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """A list of videos cannot hold it. Python reads its bytes as surrogates."""
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UsageError, match=r"b\\udcff\.mp4': this name is not UTF-8"):
        listed_videos([tmp_path, "b\udcff.mp4"])

"""The contract of data sets in their owners' layout. The test of an adapter writes a tiny directory."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import TypeAdapter

from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing
from kinegraph.stages.datasets.options import DatasetOptions

OPTIONS = TypeAdapter[DatasetOptions](DatasetOptions)


def write(root: Path, **files: str) -> None:
    """Writes label files. The keys are names without the ending `.txt`."""
    for name, text in files.items():
        (root / f"{name}.txt").write_bytes(text.encode())


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path, annotations: str = "", **options: Any) -> Listing:
    """Lists the videos below `root/videos`. `annotations` is a file or folder below `root`, by default `root`."""
    places = {"root": str(root / "videos"), "annotations": str(root / annotations)}
    return list_videos(OPTIONS.validate_python(places | options))


class OwnersContract:
    """What holds for every adapter. `kind` is its name, `files` are its label files, `videos` are their videos."""

    options: ClassVar[dict[str, Any]]
    label_files: tuple[str, ...]  # each of them is needed
    num_videos: int
    is_published = True  # whether the owners publish the number of videos

    def write(self, root: Path) -> None:
        """Writes the label files below `root` and every video below `root/videos`."""
        raise NotImplementedError

    def test_all_is_found(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        listing = listed(tmp_path, **self.options)
        assert len({video.path for video in listing.videos}) == self.num_videos == sum(listing.listed.values())
        assert not listing.missing
        assert bool(listing.published) == self.is_published
        assert listing.classes_from
        assert all(Path(video.path).exists() for video in listing.videos)

    def test_a_missing_video_has_no_row(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        whole = listed(tmp_path, **self.options)
        gone = whole.videos[0].path
        path = Path(gone)
        path.unlink() if path.is_file() else path.rename(tmp_path / "elsewhere")
        part = listed(tmp_path, **self.options)
        assert {video.path for video in part.videos} == {video.path for video in whole.videos} - {gone}
        assert len(part.missing) == 1
        assert part.listed == whole.listed
        assert part.classes == whole.classes

    def test_a_missing_label_file_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        for name in self.label_files:
            text = (tmp_path / name).read_bytes()
            (tmp_path / name).unlink()
            with pytest.raises(DatasetError, match=name):
                listed(tmp_path, **self.options)
            (tmp_path / name).write_bytes(text)

    def test_utf_16_is_refused_and_a_byte_order_mark_is_not(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        whole = listed(tmp_path, **self.options)
        for name in self.label_files:
            text = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text)
            assert listed(tmp_path, **self.options) == whole
            (tmp_path / name).write_bytes(text.decode().encode("utf-16"))
            with pytest.raises(DatasetError, match="UTF-16"):
                listed(tmp_path, **self.options)
            (tmp_path / name).write_bytes(text)

    def test_no_video_at_all(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "videos").rename(tmp_path / "elsewhere")
        touch(tmp_path, "videos/holiday.mp4")
        with pytest.raises(DatasetError, match=r"none of the .* Videos there: holiday\.mp4"):
            listed(tmp_path, **self.options)

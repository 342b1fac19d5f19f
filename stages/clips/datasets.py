"""Data set adapters: each lists its classes and videos. Torch-free.

To add one: an options model in options.py, a function here, a line in `list_videos`.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from stages.clips.options import DatasetOptions, FolderOptions, InteractionsOptions, SyncMnistOptions
from stages.errors import UsageError

VIDEO_SUFFIXES = frozenset(".mp4 .avi .mkv .webm .mov .m4v .mpg .mpeg .ts .flv .wmv .ogv .3gp".split())
SPLITS = ("train", "val", "test")


class DatasetError(UsageError):
    """A data set that cannot be listed; the message says what was looked for and where."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video as its data set lists it. `video_id` is unique; labels index `Listing.classes`."""

    video_id: str
    path: str
    split: str
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a data set holds: class names in order, and every listed video."""

    classes: tuple[str, ...]
    videos: tuple[Video, ...]


@dataclass(frozen=True)
class _Entry:
    path: Path
    label_names: tuple[str, ...]
    split: str


def list_videos(options: DatasetOptions, progress: Callable[[int], None] | None = None) -> Listing:
    """List a data set; the generated one is made first where it is missing.

    `progress` gets the number of videos made since its last call.

    Raises DatasetError for a missing folder or csv, a csv without the columns, or no video at all.
    """
    if isinstance(options, InteractionsOptions):
        return _list_interactions(options, progress)
    if isinstance(options, SyncMnistOptions):
        return _list_sync_mnist(options, progress)
    return _list_folder(options)


def _list_folder(options: FolderOptions) -> Listing:
    root = Path(options.root)
    if not root.is_dir():
        raise DatasetError(f"dataset.root: no folder {root} (looked from {Path.cwd()}).")
    entries = _from_csv(root, Path(options.annotations)) if options.annotations else _from_folders(root)
    if not entries:
        raise DatasetError(f"dataset.root: no video below {root}. Known endings: {', '.join(sorted(VIDEO_SUFFIXES))}.")
    return _listing(root, entries, options.splits)


def dealt_split(video_id: str, splits: Mapping[str, float]) -> str:
    """The split a video falls into: its digest as a number in [0, 1), held against the running shares."""
    point = xxhash.xxh3_64_intdigest(video_id.encode()) / 2**64 * sum(splits.values())
    for name, share in splits.items():
        point -= share
        if point < 0:
            return name
    return name


def _listing(root: Path, entries: list[_Entry], splits: Mapping[str, float], classes: tuple[str, ...] = ()) -> Listing:
    classes = classes or tuple(sorted({name for entry in entries for name in entry.label_names}))
    index = {name: number for number, name in enumerate(classes)}
    videos: dict[str, Video] = {}
    for entry in entries:
        video_id = entry.path.relative_to(root).as_posix() if entry.path.is_relative_to(root) else entry.path.as_posix()
        labels = tuple(sorted({index[name] for name in entry.label_names}))
        if video_id in videos:
            raise DatasetError(f"{video_id} is listed twice. Several labels go into one field, separated by `;`.")
        split = entry.split or dealt_split(video_id, splits)
        videos[video_id] = Video(video_id=video_id, path=str(entry.path), split=split, labels=labels)
    return Listing(classes=classes, videos=tuple(videos[key] for key in sorted(videos)))


def _from_folders(root: Path) -> list[_Entry]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    entries = []
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        split = folders[0] if folders and folders[0] in SPLITS else ""
        rest = folders[1:] if split else folders
        entries.append(_Entry(path, rest[:1], split))
    return entries


def _from_csv(root: Path, annotations: Path) -> list[_Entry]:
    if not annotations.is_file():
        raise DatasetError(f"dataset.annotations: no file {annotations} (looked from {Path.cwd()}).")
    with annotations.open(newline="", encoding="utf-8-sig") as file:
        try:
            return list(_csv_entries(root, annotations, csv.DictReader(file)))
        except UnicodeDecodeError as error:
            raise DatasetError(f"{annotations}: not UTF-8: {error}. Save it as UTF-8.") from error


def _csv_entries(root: Path, annotations: Path, reader: "csv.DictReader[str]") -> Iterator[_Entry]:
    if missing := {"path", "label"} - set(reader.fieldnames or ()):
        raise DatasetError(
            f"{annotations}: no column {', '.join(sorted(missing))} in its header {reader.fieldnames}; "
            "expected path,label[,split]."
        )
    for row in reader:
        if not row["path"]:
            raise DatasetError(f"{annotations}: line {reader.line_num}: no path")
        labels = filter(None, map(str.strip, (row["label"] or "").split(";")))
        yield _Entry(root / row["path"], tuple(labels), row.get("split") or "")


def _list_interactions(options: InteractionsOptions, progress: Callable[[int], None] | None) -> Listing:
    from stages.clips.interactions import generate

    root = Path(options.root)
    counts = {split: getattr(options, split) for split in SPLITS}
    generate(root, videos=counts, seed=options.seed, workers=os.cpu_count() or 1, progress=progress)
    return _list_folder(FolderOptions(kind="folder", root=str(root), annotations=str(root / "annotations.csv")))


def _list_sync_mnist(options: SyncMnistOptions, progress: Callable[[int], None] | None) -> Listing:
    from stages.clips.sync_mnist import classes, generate

    generate(options, workers=os.cpu_count() or 1, progress=progress)
    root = Path(options.root)
    return _listing(root, _from_csv(root, root / "annotations.csv"), {}, classes(options.digit_values))

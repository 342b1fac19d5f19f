"""Writes a first config for the videos below a folder, for `kinegraph init`. Torch-free."""

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.config_file import read_yaml
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.datasets.csv_list import REQUIRED
from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.listing import Listing
from kinegraph.stages.datasets.options import FolderOptions
from kinegraph.stages.remote.urls import is_url

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
IMAGES_A_SECOND = 25.0
MOST_NAMES = 8

TEMPLATE = """\
# Made by `kinegraph init`. It found {videos}.
# {classes}
#
#   kinegraph index   {config}
#   kinegraph plan    {config}
#   kinegraph extract {config}
#   kinegraph train   {config}
#
# The weights are published files. extract downloads each once. For a trial without a network give each command this
# line. Its weights are random, so its scores mean nothing, and it has a cache of its own.
#
#   --set backbones.i3d.weights=random:0 --set proposals.weights=random:0 --set cache=out/{name}/trial
#
# docs/config.md lists every key.
cache: out/{name}/cache
dataset:
  kind: folder
  root: {root}
{dataset}
# The frames of a clip: as many, at the rate, as the weights of i3d were trained on.
clips: {{num_frames: 8, fps: 3.75, sampling: centre}}
# Networks that extract runs once. `kinegraph models` lists others, their taps and their weights.
backbones:
  i3d: {{model: i3d_r50, weights: pytorchvideo_8x8, taps: [res5]}}
# Boxes around objects, and the features of i3d in each of them. Heads on whole frames need neither of the two sections.
proposals: {{source: torchvision, model: fasterrcnn_mobilenet_v3_large_320_fpn, weights: coco_v1, every: 2, top: 10}}
regions: {{backbones: [i3d]}}
# `kinegraph models --heads` lists other heads. A batch is of clips.
train:
  head: strg
  options: {{backbone: i3d}}
  epochs: 20
  batch_size: 16
{splits}
  run: out/{name}/strg
"""


@dataclass(frozen=True, kw_only=True)
class FirstConfig:
    """A config that is not written yet: its `text`, and the `path` of the file to write."""

    text: str
    path: Path
    # `num_videos`, `num_classes`: the numbers of videos and classes
    num_videos: int
    num_classes: int
    # The name of each split -> its number of videos
    splits: dict[str, int]
    # A tuple with the path of the csv file that lists the videos. Empty if there is no csv file.
    lists: tuple[str, ...]


def first_config(folder: str, path: Path | None = None, annotations: str | None = None) -> FirstConfig:
    """Lists the videos below `folder` and returns a config for them as a FirstConfig. Writes nothing.

    - `path`: the config file. Default: the name of the folder with .yaml, in the working directory.
    - `annotations`: a csv file that lists the videos. Default: the only such file in `folder`.

    Raises ConfigError if the config file exists, if `folder` is a URL, or if several csv files in `folder` list videos
    and `annotations` is None. Raises DatasetError if the videos cannot be listed.
    """
    if is_url(folder):
        raise ConfigError(
            f"{folder} is a URL; init looks into folders. Write its config after examples/real_videos.yaml."
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(folder).resolve().name).lstrip(".") or "videos"
    path = Path(f"{name}.yaml") if path is None else path
    _require_free(path)
    options, listing = _listed(folder, annotations or _only_list(Path(folder)))
    splits = Counter(video.split for video in listing.videos)
    text = TEMPLATE.format(
        config=_on_a_line(shlex.quote(str(path))),
        name=name,
        root=_quoted(folder),
        videos=_on_a_line(_videos_in_words(options, listing)),
        classes=_on_a_line(_classes_in_words(listing)),
        dataset="\n".join(f"  {line}" for line in _dataset_lines(options, listing)),
        splits="\n".join(f"  {line}" for line in _split_lines([*splits])),
    )
    document = read_yaml(text, str(path))
    check_config(document, str(path))
    if document["dataset"]["root"] != folder:
        raise ConfigError(f"the name {folder!r} cannot be written in a config. Rename the folder.")
    return FirstConfig(
        text=text,
        path=path,
        num_videos=len(listing.videos),
        num_classes=len(listing.classes),
        splits=dict(sorted(splits.items())),
        lists=() if options.annotations is None else (options.annotations,),
    )


def write_first_config(config: FirstConfig) -> None:
    """Writes the text of `config` to its path. Raises ConfigError if a file exists at this path."""
    try:
        with config.path.open("x", encoding="utf-8") as file:
            file.write(config.text)
    except FileExistsError:
        _require_free(config.path)


def _require_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists, and is left as it is. Name another file with --out, or remove it.")


def _only_list(folder: Path) -> str | None:
    """Returns the path of the csv file in `folder` that lists videos, or None if there is no such csv file.

    Raises ConfigError if several csv files list videos.
    """
    lists = [str(path) for path in sorted(folder.glob("*.csv")) if path.is_file() and _is_list(path)]
    if len(lists) > 1:
        raise ConfigError(
            f"{folder} has several lists of videos: {', '.join(lists[:MOST_NAMES])}. Name one with --annotations, or "
            "join them into one with a column split."
        )
    return lists[0] if lists else None


def _is_list(path: Path) -> bool:
    """Returns whether the csv file `path` has the columns of a list of videos."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {*REQUIRED} <= {*next(csv.reader(file), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _listed(folder: str, annotations: str | None) -> tuple[FolderOptions, Listing]:
    """Returns the options that list the videos of `folder`, and the list of these videos.

    Subfolders of numbered images count as videos if there are no video files, or if the csv file `annotations` is
    given.
    """
    options = FolderOptions(
        kind="folder", root=folder, annotations=annotations, splits=SHARES, frame_rate=IMAGES_A_SECOND
    )
    listing = list_videos(options)
    of_images = [video for video in listing.videos if video.frame_rate is not None]
    if of_images and (annotations is not None or len(of_images) == len(listing.videos)):
        return options, listing
    options = options.model_copy(update={"frame_rate": None})
    return options, list_videos(options) if of_images else listing


def _videos_in_words(options: FolderOptions, listing: Listing) -> str:
    of_images = sum(video.frame_rate is not None for video in listing.videos)
    what = counted(len(listing.videos), "video") + (f", {of_images:,} of them folders of images," if of_images else "")
    if options.annotations is not None:
        return f"{what} listed in {options.annotations}"
    folders = "class folders" if listing.uses_shares else "folders of splits"
    return f"{what} in {folders} below {options.root}" if listing.classes else f"{what} below {options.root}"


def _classes_in_words(listing: Listing) -> str:
    if not listing.classes:
        return "No labels were found: put the videos into class folders, or list them in a csv, before you train."
    more = ", ..." if len(listing.classes) > MOST_NAMES else ""
    return f"{counted(len(listing.classes), 'class')}: {', '.join(listing.classes[:MOST_NAMES])}{more}"


def _dataset_lines(options: FolderOptions, listing: Listing) -> list[str]:
    lines = []
    if options.annotations is not None:
        lines.append(f"annotations: {_quoted(options.annotations)}")
    if options.frame_rate is not None:
        lines.append(f"frame_rate: {options.frame_rate:g}  # a guess: write how many images a second there are")
    if listing.uses_shares:
        shares = ", ".join(f"{split}: {share:g}" for split, share in SHARES.items())
        lines.append(f"splits: {{{shares}}}  # shares of the videos without a split; a video keeps its split")
    if any(len(video.labels) > 1 for video in listing.videos):
        lines.append("multi_label: true  # some videos have several labels: the metric is mAP")
    return lines


def _split_lines(splits: Sequence[str]) -> list[str]:
    """Returns the three lines of a config that name the splits: `train_split`, `val_split` and `test_split`.

    `splits` are the splits of the data set. Without a split `train`, the alphabetically first split is the training
    split. Without a split `test`, the test split is `val`, or else the training split.
    """
    train = "train" if "train" in splits else min(splits)
    val = "val" if "val" in splits else None
    test = "test" if "test" in splits else val or train
    return [
        f"train_split: {_quoted(train)}",
        f"val_split: {val or 'null  # no video is in a split val, so the last epoch is kept'}",
        f"test_split: {_quoted(test)}" + ("" if test == "test" else "  # no video is in a split test"),
    ]


def _quoted(text: str) -> str:
    """Returns `text` as a YAML value, in quotes if YAML would otherwise read another value: `no` -> `"no"`."""
    if re.fullmatch(r"[A-Za-z_/][\w/.-]*", text, re.ASCII) and read_yaml(text, text) == text:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _on_a_line(text: str) -> str:
    """Returns `text` on one line, for a comment in the config. A line break becomes `?`, because it would end the
    comment.
    """
    return "".join(character if character.isprintable() else "?" for character in text)

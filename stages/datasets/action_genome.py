"""Lists the videos of the data set Action Genome: the annotated videos of Charades, with the labels of Charades.
Torch-free.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.action_genome.errors import ReleaseError
from kinegraph.stages.action_genome.frames import VOCABULARY, GenomeFrames
from kinegraph.stages.action_genome.release import FRAME_LIST, complaints_of_list, open_release
from kinegraph.stages.datasets.charades import CLASSES, NUM_CLASSES, Row, charades_rows
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import Release, Sample, label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import ActionGenomeOptions, CharadesOptions
from kinegraph.stages.remote.urls import FILE, is_url
from kinegraph.stages.scene_graphs.vocabulary import plain

SPLITS = {"train": "train", "test": "val"}  # set in the pickle -> split, as papers on Charades name it
NAMES = {"object_classes.txt": VOCABULARY.classes, "relationship_classes.txt": VOCABULARY.relations}
USUAL = {"train": (7584, 177_330), "test": (1750, 56_923)}  # videos and frames that papers count
APART_SECONDS = 0.001  # between the ends of two actions with the same bounds


def list_action_genome(options: ActionGenomeOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the annotated videos of Action Genome, or of the actions in them, with the splits train
    and val. `options.labels` chooses between videos and actions.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    a file is missing, damaged, or of another release, and if no listed video is below `options.root`.
    """
    if is_url(options.annotations.removeprefix(FILE)):
        raise DatasetError(f"dataset.annotations: {options.annotations} is a URL. Copy the two pickles to a folder.")
    for name, expected in NAMES.items():
        _check_names(name, label_text(options, name), expected)
    charades = CharadesOptions(kind="charades", root=options.root, annotations=options.charades or options.annotations)
    class_of, rows = charades_rows(charades, tries)
    try:
        frames = open_release(options.annotations)
    except ReleaseError as error:
        raise DatasetError(f"dataset.annotations: {error}") from error
    annotated = _annotated(rows, frames)
    changed: Counter[str] = Counter()
    samples = [sample for row in annotated for sample in _samples(row, options.labels, changed)]
    release = Release(
        title="Action Genome",
        classes=tuple(class_of.values()),
        classes_from=CLASSES,
        samples=samples,
        published={},
        num_classes=NUM_CLASSES,
        multi_label=options.labels == "video",
        notes=tuple(_notes(options, frames, len(rows) - len(annotated), changed)),
    )
    listing = listing_of_release(release, options.root, tries=tries)
    videos = [
        replace(video, annotated_frames=tuple((frames.numbers_of(PurePosixPath(video.path).stem) - 1).tolist()))
        for video in listing.videos
    ]
    return replace(listing, videos=tuple(videos))


def _check_names(name: str, text: str, expected: tuple[str, ...]) -> None:
    """Raises DatasetError if the file `name` with the content `text` does not list the names `expected` in this order.
    Only the letters of the names are compared.
    """
    listed = text.split()
    if [*map(plain, listed)] != [*map(plain, expected)]:
        raise DatasetError(
            f"{name}: has {counted(len(listed), 'name')}, and not the {len(expected)} of Action Genome in their order. "
            "Is it of another data set, or cut off?"
        )


def _annotated(rows: list[Row], frames: GenomeFrames) -> list[Row]:
    """Returns the rows of the videos that have an annotated frame.

    Raises DatasetError if an annotated video is in no row, or in another split than the pickle states.
    """
    names = {row.name for row in rows}
    if lacking := [name for name in frames.videos.tolist() if name not in names]:
        raise DatasetError(
            f"dataset.charades: {counted(len(lacking), 'video')} of Action Genome, first {lacking[0]}, in no csv. "
            "Are the csv files of Charades whole?"
        )
    annotated = [row for row in rows if row.name in frames]
    for row in annotated:
        if row.split != SPLITS[frames.split_of(row.name)]:
            raise DatasetError(
                f"{row.where}: {row.name} is in the set {frames.split_of(row.name)!r} of Action Genome, not in this "
                "csv. Is the csv a copy of the other?"
            )
    return annotated


def _samples(row: Row, labels: str, changed: Counter[str]) -> Iterator[Sample]:
    """Yields the Samples of the video of `row`. If `labels` is "video", this is one Sample with the classes of all its
    actions. If `labels` is "interval", each action is a Sample: an interval with one label.

    An interval ends with the video at the latest. An empty interval is dropped. If two actions have the same start and
    end, the second ends a millisecond later, because intervals must differ. `changed` counts the dropped and the
    changed intervals.
    """
    if labels == "video":
        names = tuple(dict.fromkeys(name for name, _, _ in row.actions))
        yield Sample(name=row.name, label_names=names, split=row.split, where=row.where)
        return
    taken: set[tuple[float, float]] = set()
    for name, start, end in dict.fromkeys(row.actions):
        interval = start, min(end, row.length)
        if interval[0] >= interval[1]:
            changed["empty"] += 1
            continue
        changed["apart"] += interval in taken
        while interval in taken:
            interval = start, round(interval[1] + APART_SECONDS, 6)
        taken.add(interval)
        yield Sample(name=row.name, label_names=(name,), split=row.split, where=row.where, interval=interval)


def _notes(options: ActionGenomeOptions, frames: GenomeFrames, without: int, changed: Counter[str]) -> Iterator[str]:
    """Yields sentences about what is left out or changed, and about numbers that differ from those of papers.

    `without` is the number of videos of Charades without an annotated frame. `changed` has the counts of `_samples`.
    """
    if without:
        yield f"{counted(without, 'video')} of Charades without an annotated frame: left out."
    if changed["empty"]:
        late = counted(changed["empty"], "action that begins", "actions that begin")
        yield f"{late} at the end of the video or later: left out."
    if changed["apart"]:
        ends = "ends" if changed["apart"] == 1 else "end"
        yield f"{counted(changed['apart'], 'action')} with the bounds of another action {ends} 1 ms later."
    counts = {split: (videos, num_frames) for split, videos, num_frames in frames.usual_counts()}
    if counts != USUAL:
        listed = ", ".join(
            f"{split} {counted(videos, 'video')} and {counted(n, 'frame')}" for split, (videos, n) in counts.items()
        )
        usual = ", ".join(f"{split} {videos:,} and {n:,}" for split, (videos, n) in USUAL.items())
        yield f"With a person and a visible object, in videos with over two such frames: {listed}. Published: {usual}."
    try:
        text = label_text(options, FRAME_LIST)
    except DatasetError:
        return
    yield from complaints_of_list(frames, text)

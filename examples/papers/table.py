"""Defines what the rows of all papers share. A row becomes one config, which `generate.py` writes."""

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import yaml

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.backbones.catalogue import entry

HERE = Path(__file__).parent
Keys = dict[str, Any]  # "section.key" -> value
TITLES = {
    "trg": "Temporal Reasoning Graph",
    "strg": "Videos as Space-Time Region Graphs",
    "atr": "Action-centric Temporal-relational Reasoning",
    "st_sgn": "Spatio-Temporal Scene Graph Network",
    "rstg": "Recurrent Space-time Graph Neural Networks",
}
TOP1_TOP5, MEAN_AP = "Something-Something V2 top-1/top-5", "Charades mAP"
TOP1_TOP5_V1 = "Something-Something V1 top-1/top-5"
NUM_VIDEOS = {  # of train and val, as published
    "charades": 9_848,
    "something_v1": 97_539,
    "something_v2": 193_690,
    "kinetics400": 266_440,
}
LARGE_VIEW_PX = 256  # side of the views in view_rows.py
FROZEN = "Below the cached tap all is frozen. The paper tunes it: `kinegraph finetune` does, from this run."
LARGE_BYTES = 20e12  # maps of which a config says more
# The networks of STRG and RSTG halve 32 frames once; those that the weights came from three times.
OWN = {"options": {"geometry": "paper"}}
THREE_CROPS = ("left", "center", "right")
PROTOCOLS: dict[tuple[str, str], tuple[str, int, tuple[str, ...]]] = {  # paper, data set -> row, clips, crops of a clip
    ("trg", "charades"): ("table2_resnet50_8", 10, THREE_CROPS),
    ("trg", "something_v1"): ("table1_resnet50_8_v1", 2, THREE_CROPS),
    ("trg", "something_v2"): ("table1_resnet50_8", 2, THREE_CROPS),
    ("strg", "charades"): ("s4_charades", 10, THREE_CROPS),
    ("strg", "something_v1"): ("s4_something_v1", 2, THREE_CROPS),
    ("atr", "something_v1"): ("a8_tsm_something_v1_atr", 2, THREE_CROPS),
    ("atr", "something_v2"): ("a8_tsm_something_v2_atr", 2, THREE_CROPS),
    ("atr", "kinetics400"): ("a8_tsm_kinetics400_atr", 10, THREE_CROPS),
    ("rstg", "something_v1"): ("table3_to_map_res3_4", 2, ("even_11",)),
}  # of the views in view_rows.py
ACCURATE = {("atr", "something_v1"), ("atr", "something_v2")}  # the paper has a second protocol, of one view
BELOW = {"res2": "stem", "res3": "res2", "res4": "res3", "res5": "res4"}  # where a tail begins


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a paper's table, which becomes the config `<paper>/<name>.yaml`.

    `about`: says what the row is.
    `published`: the figure that the paper reports.
    `base`, `keys`: {"section.key": value}. `keys` replace values of `base`.
    `notes`: further lines for the head of the config.
    `also`: (what the row is, published figure) of further rows of the papers that have the same config.
    """

    paper: str
    name: str
    about: str
    published: str
    base: Keys
    keys: Keys = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> Path:
        return HERE / self.paper / f"{self.name}.yaml"

    @property
    def config(self) -> dict[str, Any]:
        """Returns the config without the folders of its runs, because only these folders depend on the name of the
        row.
        """
        document: dict[str, Any] = {}
        for key, value in {**self.base, **self.keys}.items():
            *sections, last = key.split(".")
            place = document
            for section in sections:
                place = place.setdefault(section, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = copy.deepcopy(value)
        return document

    @property
    def document(self) -> dict[str, Any]:
        document, run = self.config, f"runs/papers/{self.paper}/{self.name}"
        document["train"]["run"] = run
        if "finetune" in document:
            document["finetune"]["run"] = f"{run}-tuned"
        return document

    @property
    def text(self) -> str:
        lines = [
            f"{TITLES[self.paper]}: {self.about}.",
            f"Published: {self.published}.",
            *(f"The same config is {about}: {figure}." for about, figure in self.also),
            *_protocol(self.document),
            *_test_views(self.paper, self.document),
            *self.notes,
            *_tuning_squares(self.document),
            *disk(self.document),
            "Made by `python -m examples.papers.generate`.",
        ]
        body = yaml.safe_dump(self.document, sort_keys=False, default_flow_style=None, width=100)
        return "".join(f"# {line}\n" for line in lines) + body


def merged(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields one row for each distinct config of the `rows`. A row with the config of an earlier row becomes an item of
    `also` of the earlier row.
    """
    first: dict[str, Row] = {}
    for row in rows:
        config = json.dumps([row.paper, row.config], sort_keys=True)
        earlier = first.get(config)
        if earlier is None:
            first[config] = row
        else:
            notes = tuple(dict.fromkeys((*earlier.notes, *row.notes)))
            first[config] = replace(earlier, also=(*earlier.also, (row.about, row.published)), notes=notes)
    yield from first.values()


def _protocol(document: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a config's head about the split, the aggregation and the views of the test."""
    train, clips = document["train"], document["clips"]
    views = num_views(clips)
    item = "an interval" if document["dataset"].get("labels") == "interval" else "a video"
    of_views = {"max": "the largest score of", "mean": "the mean score of"}[train["aggregate"]]
    scored = f"{of_views} {counted(views, 'view')} of a video" if views > 1 else f"one view of {item}"
    yield f"Scored on the split {train['test_split']}, as the paper's tables are: {scored}."
    if train["val_split"] is None:
        yield "No score on it chooses an epoch: the last epoch is kept."
    elif train.get("schedule") == "plateau":
        yield "The rate falls by the score on val, and the best epoch on val is kept: the protocol looks at val."
    else:
        yield "The loss on val ends the training and chooses the epoch: the protocol looks at val."


def num_views(clips: Keys) -> int:
    """Returns the number of rows that a video has in the cache. `clips` is the section `clips` of the config."""
    per_clip = sum(11 if crop == "even_11" else 1 for crop in clips.get("crops", ["center"]))
    return int(clips["per_video"] * per_clip)


def _test_views(paper: str, document: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a config's head that say how to make the views of the paper's test, if the config does not
    make them.
    """
    dataset_name = document["dataset"]["root"].rpartition("/")[2]
    if (paper, dataset_name) not in PROTOCOLS:
        return
    _, per_video, crops = PROTOCOLS[paper, dataset_name]
    clips, wanted, side = document["clips"], {"per_video": per_video, "crops": [*crops]}, LARGE_VIEW_PX
    changed = {f"clips.{key}": value for key, value in wanted.items() if clips.get(key, ["center"]) != value}
    for name, options in document["backbones"].items():
        own = options.get("size") or entry(options["model"], options.get("options", {}), options["weights"]).size
        side = max(own, LARGE_VIEW_PX)  # Inception-V3 and the R101 of STRG see larger squares in training
        if own < side:
            changed[f"backbones.{name}.size"] = side
    if changed:
        views = num_views({"per_video": per_video, "crops": crops})
        what = "The paper's accurate protocol" if (paper, dataset_name) in ACCURATE else "Views of the paper's test"
        cache = f"{document['cache']}_views"
        yield f"{what}: {counted(views, 'view')} of {side} px. `index` and `extract` this file with"
        sets = "".join(f" --set '{key}={json.dumps(value)}'" for key, value in changed.items()).replace('"', "")
        yield f"  --set cache={cache}{sets}"
        yield f"and then `kinegraph evaluate RUN --cache {cache}`. A tuned run has its own extract.yaml for this."


def _tuning_squares(document: dict[str, Any]) -> Iterator[str]:
    """Yields a line that says where the random squares of `finetune` lie, if the cache has one square of each frame."""
    if "finetune" in document and document["clips"].get("crops", ["center"]) == ["center"]:
        yield "The random squares of `finetune` lie in the cached square. Those of the paper lie in the whole frame."


def disk(document: dict[str, Any]) -> Iterator[str]:
    """Yields a line about the bytes of the cached maps of the config `document`. Yields a second line with advice if
    most disks are too small.
    """
    num_videos = NUM_VIDEOS.get(document.get("dataset", {}).get("root", "").rpartition("/")[2])
    if num_videos is None or "backbones" not in document:
        return
    clips, total = document["clips"], 0.0
    views = num_views(clips)
    below: dict[str, float] = {}  # tap below the cached one -> bytes of its maps
    for options in document["backbones"].values():
        backbone = entry(options["model"], options.get("options", {}), options["weights"])
        if "maps" in options["store"]:
            [cached] = options["taps"]
            for tap in backbone.taps:
                shape = tap.shape(clips["num_frames"], options.get("size") or backbone.size)
                below[tap.name] = 2.0 * prod(shape) * views * num_videos
                if tap.name == cached:
                    break
            total += below.pop(cached)
    if total:
        yield f"Cached maps: {total / 1e12:,.1f} TB in float16, for {num_videos:,} videos of {counted(views, 'view')}."
    if total > LARGE_BYTES:
        yield (
            f"With one view (`clips: {{per_video: 1, crops: [center]}}`) they are {total / views / 1e12:,.1f} TB. "
            "That is enough to train."
        )
        least = min(below, key=lambda tap: below[tap], default="")
        if "tail" in document["train"].get("options", {}) and least and below[least] < total:
            yield (
                f"Maps of {least} are {below[least] / 1e12:,.1f} TB (`taps: [{least}]`, `from: {least}` in the tail). "
                "The price: the network from there on runs in each pass."
            )


OWNERS: dict[str, Keys] = {  # name of a data set -> its adapter
    "charades": {"kind": "charades"},
    "something_v1": {"kind": "something_something", "version": 1},
    "something_v2": {"kind": "something_something", "version": 2},
    "kinetics400": {"kind": "kinetics", "version": 400},
    "action_genome": {"kind": "action_genome"},
}


def dataset(name: str) -> Keys:
    """Returns the section `dataset` for the data set `name`, in the folder layout of its owners."""
    return {"dataset": {**OWNERS[name], "root": f"videos/{name}", "annotations": f"annotations/{name}"}}


def clips_of(num_frames: int, per_video: int, **more: Any) -> Keys:
    return {"clips": {"num_frames": num_frames, "per_video": per_video, **more}}


def tuning(recipe: Keys, **more: Any) -> Keys:
    """Returns the section `finetune`, which trains the whole network from the run of the section `train`. `recipe` has
    keys of the training, such as the optimiser.
    """
    scored = {"aggregate": "mean", "val_split": None, "test_split": "val"}
    return {"finetune": {"unfreeze": "all", **recipe, **scored, **more}}


def training(head: str, *, aggregate: str, val_split: str | None = None, **more: Any) -> Keys:
    """Returns the section `train` for the head `head`. The test split is the validation split, as in the tables of all
    papers.

    `aggregate` says how the scores of a video's views become one score. A score on the validation split chooses the
    epoch only if `val_split` is given. `more` are further keys.
    """
    return {"train": {"head": head, "aggregate": aggregate, "val_split": val_split, "test_split": "val", **more}}

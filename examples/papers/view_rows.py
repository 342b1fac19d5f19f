"""Defines the configs of the views on which the papers test: more crops, of 256 px. There is one config for each
protocol.

The networks of a config are those of one row. `kinegraph evaluate RUN --cache CACHE` scores a trained run on the views.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from examples.papers.table import HERE, LARGE_VIEW_PX, PROTOCOLS, TITLES, Row, disk, num_views
from kinegraph.cache_schemas.words import counted

ABOUT = {
    "trg": "The paper tests whole frames of this height. Three squares cover them, as a cache holds squares alone. "
    "TSN's ten crops are `clips.crops=[center, center_flip, top_left, top_left_flip, ...]`.",
    "strg": "The paper tests whole frames of this height. Three squares cover them, as a cache holds squares alone.",
    "atr": "The accurate protocol of the paper. The efficient one is the config of the row.",
    "atr_kinetics400": "Short side 256 px, as the paper says. The configs of the rows have squares of 224 px.",
    "rstg": "Paper and README say 256 px. The released script, and the configs of the rows, have 224.",
}


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of one protocol, which become the config `examples/papers/views/<name>.yaml`. It has the networks of
    `row`.
    """

    name: str
    row: Row
    per_video: int
    crops: tuple[str, ...]

    @property
    def path(self) -> Path:
        return HERE / "views" / f"{self.name}.yaml"

    @property
    def document(self) -> dict[str, Any]:
        document = copy.deepcopy(self.row.document)
        document = {key: document[key] for key in document if key not in ("train", "finetune")}
        document["cache"] += "_views"
        document["clips"] |= {"per_video": self.per_video, "crops": [*self.crops]}
        for entry in document["backbones"].values():
            entry["size"] = LARGE_VIEW_PX
        return document

    @property
    def views(self) -> str:
        num_crops = num_views({"per_video": 1, "crops": self.crops})
        return f"{counted(self.per_video, 'clip')} x {counted(num_crops, 'crop')} of {LARGE_VIEW_PX} px"

    @property
    def text(self) -> str:
        row = f"{self.row.paper}/{self.row.name}.yaml"
        lines = [
            f"{TITLES[self.row.paper]}: the views of its test, {self.views}.",
            ABOUT.get(self.name, ABOUT[self.row.paper]),
            f"Networks and frames are those of {row}. The header of another row has the command for its views.",
            "",
            f"  kinegraph index examples/papers/views/{self.name}.yaml    # then extract",
            f"  kinegraph evaluate RUN --cache {self.document['cache']}",
            "",
            *islice(disk(self.document), 1),
            "Made by `python -m examples.papers.generate`.",
        ]
        body = yaml.safe_dump(self.document, sort_keys=False, default_flow_style=None, width=100)
        return "".join(f"# {line}".rstrip() + "\n" for line in lines) + body


def views(rows: Iterable[Row]) -> Iterator[Views]:
    """Yields the Views of all protocols. `rows` are the rows of all papers."""
    row_of = {(row.paper, row.name): row for row in rows}
    for (paper, dataset), (row, per_video, crops) in PROTOCOLS.items():
        yield Views(name=f"{paper}_{dataset}", row=row_of[paper, row], per_video=per_video, crops=crops)

"""Writes the configs of this folder and the list of rows in docs/papers.md: `python -m examples.papers.generate`.

There is one config for each row of the papers' tables. A row differs from its base by a few keys. Columns of a row that
share its cache are variants of training. The first lines of each file have the published figures. The user sets the
paths of data sets with `--set dataset.root=...`. Heads on the cached maps of the last tap are trained alone. Rows with
blocks inside the network train it from the cached tap on.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from examples.papers.absent import ABSENT
from examples.papers.atr_rows import atr_rows
from examples.papers.rstg_rows import rstg_rows
from examples.papers.st_sgn_rows import st_sgn_rows
from examples.papers.strg_rows import strg_rows
from examples.papers.table import HERE, TITLES, Row, merged
from examples.papers.trg_rows import trg_rows
from examples.papers.view_rows import views


def rows() -> list[Row]:
    return [*merged(chain(trg_rows(), strg_rows(), atr_rows(), st_sgn_rows(), rstg_rows()))]


PAGE = HERE.parents[1] / "docs" / "papers.md"
SYNC_MNIST = {  # variants of examples/sync_mnist/full_3.yaml and full_5.yaml -> the paper's name; its table is lost
    "mean_pool_lstm": "Mean + LSTM", "conv_then_lstm": "Conv + LSTM", "i3d_small": "I3D", "non_local": "Non-Local",
    "rstg_space_only": "RSTG space-only", "rstg_time_only": "RSTG time-only", "rstg_homogeneous": "RSTG homogeneous",
    "rstg_one_temp": "RSTG 1-temp", "rstg_all_temp": "RSTG all-temp", "rstg_positional": "RSTG positional all-temp",
}  # fmt: skip


def page() -> str:
    """Returns the text of docs/papers.md with a new list of rows."""
    made = "\n".join(["", *_lists(), ""])
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(r"(?s)(<!-- rows: .*? -->\n).*(<!-- end of rows -->)", lambda m: m[1] + made + m[2], text)


def texts() -> dict[Path, str]:
    """Returns {path: text} of all configs of this folder."""
    every = rows()
    return {row.path: row.text for row in every} | {each.path: each.text for each in views(every)}


def _lists() -> Iterator[str]:
    every = rows()
    yield from ("### Views of the tests", "", "| paper and data set | views | config |", "|---|---|---|")
    for of_test in views(every):
        link = f"[{of_test.name}](../examples/papers/views/{of_test.name}.yaml)"
        yield f"| {of_test.name} | {of_test.views} | {link} |"
    yield ""
    for paper, title in TITLES.items():
        yield from (f"### {title}", "", "| row | published | config |", "|---|---|---|")
        for row in every:
            if row.paper == paper:
                link = f"[{row.name}](../examples/papers/{paper}/{row.name}.yaml)"
                yield f"| {_cell(row.about)} | {_cell(row.published)} | {link} |"
                yield from (f"| {_cell(about)} | {_cell(figure)} | the same |" for about, figure in row.also)
        if paper == "rstg":
            for variant, name in SYNC_MNIST.items():
                config = "[full_3](../examples/sync_mnist/full_3.yaml), [full_5](../examples/sync_mnist/full_5.yaml)"
                yield f"| table 1 (SyncMNIST), {name} | we could not read the table | variant `{variant}` of {config} |"
            transfer = (
                "`kinegraph train examples/sync_mnist/full_5.yaml --head VARIANT --set train.start_from=RUN`. "
                "RUN is the run of the same variant of full_3"
            )
            reached = "90 % of the maximum after as many steps as random weights need for 17 %"
            yield f"| figure, from 3SyncMNIST to 5SyncMNIST | {reached} | {transfer} |"
        yield from ("", "| row without a config | why |", "|---|---|")
        yield from (f"| {_cell(row)} | {_cell(why)} |" for row, why in ABSENT[paper].items())
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    written = texts()
    for path in {*HERE.glob("*/*.yaml")} - written.keys():
        path.unlink()
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(written)} configs in {HERE}")


if __name__ == "__main__":
    main()

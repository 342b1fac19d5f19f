"""Draws the pictures of README.md: `make pictures`. They show videos that the script generates in a minute."""

import tempfile
from pathlib import Path

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.demo import CONFIG, demo_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.reports.look import Look

PICTURES = Path(__file__).resolve().parent / "pictures"
FEW = ("dataset.train=40", "dataset.val=10", "dataset.test=10", "run.executor=inline", "backbones.tiny.precision=fp32")
ROW, BOXES, BOX, FRAMES = 3, 5, 0, 4


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        config = demo_config(CONFIG, Path(folder), FEW)
        index(config)
        extract(config)
        look = Look(Cache(config.cache))
        look.strip(ROW, boxes=BOXES, frames=FRAMES, path=BOX).savefig(PICTURES / "strip.svg")
        look.neighbours(ROW, frame=0, box=BOX, count=3).savefig(PICTURES / "neighbours.svg")


if __name__ == "__main__":
    main()

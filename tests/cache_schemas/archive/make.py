"""Makes the archived cache of the present schema version: `python -m tests.cache_schemas.archive.make`.

Run it once per schema version; a cache that is committed is never made again.
"""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import write_config
from tests.conftest import moving_square, write_video

TARGET = Path(__file__).with_name(f"v{SCHEMA_VERSION}")
MACHINE = {"host": "archive", "versions": {}, "seconds": {}}  # says nothing about the format
DOCUMENT = {
    "cache": "cache",
    "dataset": {"kind": "folder", "root": "videos"},
    "clips": {"num_frames": 4, "sampling": "uniform", "crops": ["center"]},
    "backbones": {
        "tiny": {"model": "tiny_i3d", "weights": "random:0", "taps": ["res2"], "size": 16, "store": ["maps", "pooled"]}
    },
    "proposals": {"source": "tiny", "weights": "random:0", "every": 1, "top": 2},
    "regions": {"backbones": ["tiny"]},
    "store": {"shard_clips": 2},
    "run": {"executor": "inline", "threads": 1, "batch_size": 2},
}


def main() -> None:
    """Three videos in two shards, the last of them unreadable."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, label in enumerate(["left", "right"]):
            write_video(Path("videos", label, f"v{number}.mp4"), moving_square(8, 64, 48, seed=number))
        Path("videos/right/words.mp4").write_text("words")
        config = load_config(write_config(Path("config.yaml"), DOCUMENT))
        index(config)
        extract(config)
        for path in Path("cache/ledger").rglob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | MACHINE, sort_keys=True))
        shutil.copytree("cache", TARGET)


if __name__ == "__main__":
    main()

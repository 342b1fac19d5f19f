"""Measures the peak memory of `kinegraph extract` on 300 short videos, ten times more, and ten times longer.

The networks are the tiny shipped networks and proposals. One worker extracts. The generated videos have 340x256 px.
Most of the many videos are links. Prints the peak of each run and its ratio to the peak of the first run.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.seeking import write

SHORT_SECONDS, FEW, FILES = 10.0, 300, 4
SIZE, KEY_SECONDS = (340, 256), 2.0
CASES = {  # name -> number of videos, and seconds of each video
    "300 short videos": (FEW, SHORT_SECONDS),
    "ten times more": (10 * FEW, SHORT_SECONDS),
    "ten times longer": (FEW, 10 * SHORT_SECONDS),
}
DOCUMENT = {
    "clips": {"num_frames": 16, "sampling": "uniform", "crops": ["full"]},
    "backbones": {"tiny": {"model": "tiny_i3d", "weights": "shipped", "taps": ["res4"]}},
    "proposals": {"source": "tiny", "weights": "shipped", "every": 2, "top": 5},
    "regions": {"backbones": ["tiny"]},
    "store": {"shard_clips": 8},
    "run": {"workers": 1, "batch_size": 4},
}
RUN = "import atexit, resource, sys; sys.argv = sys.argv[1:]; atexit.register(lambda: print('peak', "
RUN += "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)); from kinegraph.pipeline.machine.memory import "
RUN += "keep_freed_memory as k; k(); from kinegraph.cli.app import app; app()"


def peak_mb(folder: Path, count: int, seconds: float) -> float:
    videos = folder / "videos" / "film"
    videos.mkdir(parents=True)
    for number in range(count):
        path = videos / f"{number:04}.mp4"
        if number < FILES:
            write(path, seconds, SIZE, KEY_SECONDS)
        else:
            path.hardlink_to(videos / f"{number % FILES:04}.mp4")
    config = folder / "config.yaml"
    dataset = {"kind": "folder", "root": str(folder / "videos")}
    config.write_text(yaml.safe_dump(DOCUMENT | {"cache": str(folder / "cache"), "dataset": dataset}))
    for command in ("index", "extract"):
        arguments = [sys.executable, "-c", RUN, "kinegraph", command, str(config)]
        told = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    found = re.search(r"peak (\d+)", told)
    assert found is not None, told
    return int(found.group(1)) / 1024


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kinegraph-") as folder:
        peaks = [peak_mb(Path(folder) / name, *case) for name, case in CASES.items()]
    for (name, (count, seconds)), peak in zip(CASES.items(), peaks, strict=True):
        print(f"{name}: {count} videos of {seconds:.0f} s, peak {peak:,.0f} MB, ratio {peak / peaks[0]:.2f}")


if __name__ == "__main__":
    main()

"""Makes `independent_digests.json`: what ffmpeg 5.1 decodes of the shared sample videos, to compare our frames with.

    python -m tests.stages.decode.independent_digests FOLDER     # with ffmpeg on the PATH

For each video `ffmpeg -noautorotate -i VIDEO -map 0:v:0 -fps_mode passthrough -f framehash -hash md5 -` prints the md5
of each frame's planes in the order of presentation. Kept are their number, the md5 over all of them, and the frames'
times as [ticks to the next frame, how often]. In an avi ffmpeg guesses times: there each frame is one tick.
"""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FFMPEG = "ffmpeg -v error -noautorotate -i {} -map 0:v:0 -fps_mode passthrough -f framehash -hash md5 -"
DIGESTS = Path(__file__).with_suffix(".json")


def digest(path: Path) -> dict[str, Any]:
    command = [str(path) if word == "{}" else word for word in FFMPEG.split()]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    base = next(line.split(": ")[1] for line in lines if line.startswith("#tb 0"))
    frames = [line.split(",") for line in lines if not line.startswith("#")]
    ticks = list(range(len(frames))) if path.suffix == ".avi" else [int(frame[2]) for frame in frames]
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    return {
        "frames": len(frames),
        "planes_md5": hashlib.md5("\n".join(frame[-1].strip() for frame in frames).encode()).hexdigest(),
        "tick_seconds": base,
        "steps": [[step, len([*group])] for step, group in itertools.groupby(steps)],
    }


if __name__ == "__main__":
    found = {path.name: digest(path) for path in sorted(Path(sys.argv[1]).glob("*.*"))}
    lines = [f"{json.dumps(name)}: {json.dumps(of_video)}" for name, of_video in found.items()]
    DIGESTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")

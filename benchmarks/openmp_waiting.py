"""Compares OpenMP threads that sleep while they wait (kinegraph's setting) with threads that spin (libgomp's default).

One worker extracts on all cores, with the demo's networks and generated videos. The machine is first quiet. Then other
processes use all cores, too. Prints the median ratio of clips per second over alternating runs, start-up included.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = Path(__file__).parent.parent / "pipeline" / "demo.yaml"
RUNS = 2
POLICIES = {"sleeping": {"OMP_WAIT_POLICY": "PASSIVE"}, "spinning": {"GOMP_SPINCOUNT": "300000"}}


def clips_per_second(config: list[str], policy: dict[str, str]) -> float:
    cache = next(value for value in config if value.startswith("cache=")).removeprefix("cache=")
    subprocess.run(["rm", "-rf", cache], check=True)
    environment = os.environ | policy
    for command in ("index", "extract"):
        arguments = [sys.executable, "-m", "kinegraph", command, str(CONFIG), *config]
        said = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment).stdout
    rate = re.search(r"\(([\d.]+) clips/s\)", said)
    assert rate is not None, said
    return float(rate.group(1))


def compare(config: list[str], busy: int) -> None:
    """Measures both settings while `busy` other processes compute, and prints the comparison. `config` are arguments of
    the command, such as `--set run.workers=1`.
    """
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        pairs = [tuple(clips_per_second(config, policy) for policy in POLICIES.values()) for _ in range(RUNS)]
    finally:
        for other in others:
            other.kill()
            other.wait()
    ours, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"extraction beside {busy} busy processes, sleeping / spinning threads: "
        f"{ours:.1f} / {theirs:.1f} clips/s, ratio {ratio:.2f}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = [f"cache={folder}/cache", f"dataset.root={folder}/videos", "dataset.train=256", "run.workers=1"]
        values += ["dataset.val=8", "dataset.test=8"]
        config = [word for value in values for word in ("--set", value)]
        clips_per_second(config, {})  # makes the videos, warms the page cache
        for busy in (0, os.cpu_count() or 1):
            compare(config, busy)


if __name__ == "__main__":
    main()

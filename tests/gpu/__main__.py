"""`python -m tests.gpu [PART ...]`: runs the parts, each in a process of its own, and prints one table.

A part that needs a package which is not installed is left out, and the table says so. The exit code is 1 if something
is wrong, and 2 if there is no GPU.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence

PARTS = {
    "networks": "tests.gpu.networks:part",
    "boxes": "tests.gpu.boxes:part",
    "gradients": "tests.gpu.boxes:gradients",
    "graphs": "tests.gpu.graphs:part",
    "copies": "tests.gpu.copies:part",
    "loop": "tests.gpu.loop:part",
    "training": "tests.gpu.training:part",
    "extraction": "tests.gpu.extraction:part",
    "decoding": "tests.gpu.decoding:part",
    "speed": "tests.gpu.speed:part",
    "whole": "tests.gpu.whole:part",
}
PART_SECONDS = 470  # of one part
LEFT_OUT, TOO_LATE = 3, -1  # exit code of a part whose package is missing, and of one that took longer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the parts without a GPU")
    parser.add_argument("--small", action="store_true", help="the smallest networks alone")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        return _in_process(given.parts[0], given.device, given.small)
    try:
        import torch
    except ModuleNotFoundError:
        print(f"{sys.executable} has no torch, so nothing was run. Try another PYTHON.")
        return 2
    if given.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device here, so nothing was run. Try --device cpu --small.")
        return 2
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {sys.version.split()[0]}", flush=True)
    options = ["--device", given.device, *(["--small"] if given.small else [])]
    failed = [part for part in given.parts or PARTS if not _run(part, options)]
    print(f"wrong: {', '.join(failed)}" if failed else "nothing is wrong")
    return 1 if failed else 0


def _run(part: str, options: Sequence[str]) -> bool:
    """Runs a part and prints its rows of the table. Returns whether nothing in it is wrong."""
    begun, command = time.monotonic(), [sys.executable, "-m", "tests.gpu", "--in-process", part, *options]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PART_SECONDS)
        returned, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        returned, output = TOO_LATE, (late.stdout or b"").decode()
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    for row in rows:
        print(_row(part, **row))
    ends = {0: "done", 1: "wrong", LEFT_OUT: "left out", TOO_LATE: "was stopped"}
    end = ends.get(returned, f"ended with exit code {returned}")
    print(f"{part:<11} {end} after {time.monotonic() - begun:.0f} s", flush=True)
    return returned in (0, LEFT_OUT)


def _row(part: str, what: str, found: float | None, allowed: float | None, unit: str) -> str:
    if found is None:
        return f"{part:<11} {what}"
    verdict = "" if allowed is None else "ok   " if found <= allowed else "WRONG"
    limit = "" if allowed is None else f"<= {allowed:g}"
    return f"{part:<11} {verdict:<5} {found:>10.4g} {limit:<9} {unit:<8} {what}"


def _in_process(part: str, device: str, small: bool) -> int:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # as `run.device` does
    module, function = PARTS[part].split(":")
    is_ok = True
    try:
        for check in getattr(importlib.import_module(module), function)(torch.device(device), small):
            print(json.dumps(check.document()), flush=True)
            is_ok = is_ok and check.is_ok
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] in ("", "kinegraph", "tests"):
            raise
        print(json.dumps({"what": f"left out: needs {missing.name}", "found": None, "allowed": None, "unit": ""}))
        return LEFT_OUT
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())

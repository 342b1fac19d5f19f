"""Compares whole extractions with their networks alone, with decoding alone, and with a plain loop.

The plain loop decodes with PyAV or torchcodec. All take turns, as in `kinegraph bench CONFIG`, which measures the same
on videos of the user. The videos are generated: 340x256 px, 25 frames a second, 10 s, h264. Weights are random. The
case `r50` takes 8 frames of a clip, and `i3d` takes 16. The RPN takes every second frame, at a short side of 192 px. In
the case `windows`, clips of 2 s overlap by half. With more clips (`--clips`), the first decoding counts less, as in a
long run.

    python -m benchmarks.extraction [--case r50] [--device cuda] [--precision bf16] [--quick] [--json FILE]
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import Case, arguments, report
from benchmarks.seeking import write
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.extraction.benchmark.comparison import compare
from kinegraph.pipeline.machine.devices import name_of_device
from kinegraph.pipeline.machine.memory import keep_freed_memory
from kinegraph.stages.device import pick_device

SIZE, SECONDS, KEY_SECONDS = (340, 256), 10.0, 2.0
R50 = {"model": "resnet50", "weights": "random:0", "taps": ["res5"]}
I3D = {"model": "i3d_r50", "weights": "random:0", "taps": ["res5"]}
RPN = {"source": "torchvision", "weights": "random:0", "short_side": 192, "every": 2, "top": 50}
I3D_CLIPS = {"num_frames": 16, "fps": 12.5, "sampling": "centre"}
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # case -> number of clips, and the sections of the config
    "r50": (6, {"clips": {"num_frames": 8, "sampling": "uniform"}, "backbones": {"r50": R50}}),
    "i3d": (3, {"clips": I3D_CLIPS, "backbones": {"i3d": I3D}}),
    "i3d + RPN + regions": (
        2,
        {"clips": I3D_CLIPS, "backbones": {"i3d": I3D}, "proposals": RPN, "regions": {"backbones": ["i3d"]}},
    ),
    "windows": (
        6,
        {"clips": {"num_frames": 8, "fps": 4, "sampling": "dense", "per_video": 9}, "backbones": {"r50": R50}},
    ),
}


def config_of(
    case: str,
    folder: Path,
    *,
    num_clips: int,
    device: str,
    precision: str,
    batch: int | None = None,
    compiled: bool = False,
) -> Config:
    """Returns the config of the case `case` on the videos in `folder`. The case measures `num_clips` clips. A batch has
    `batch` clips, by default a quarter of the clips, at most 8.

    The networks run on `device` in `precision`, and through torch.compile if `compiled` is true.
    """
    document = CASES[case][1]
    backbones = {name: options | {"precision": precision} for name, options in document["backbones"].items()}
    proposals = {"proposals": document["proposals"] | {"precision": precision}} if "proposals" in document else {}
    return check_config(
        document
        | proposals
        | {
            "cache": str(folder / case.replace(" ", "")),
            "dataset": {"kind": "folder", "root": str(folder / "videos")},
            "backbones": backbones,
            "store": {"shard_clips": max(1, num_clips // 2)},
            "run": {"device": device, "batch_size": batch or max(1, min(8, num_clips // 4)), "compile": compiled},
        },
        f"case {case}",
    )


def measured(names: Sequence[str], *, clips: int | None, rounds: int, **options: Any) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="kinegraph-") as name:
        folder = Path(name)
        (folder / "videos" / "film").mkdir(parents=True)
        most = max(clips or CASES[case][0] for case in names)
        for number in range(most):
            write(folder / "videos" / "film" / f"{number:04}.mp4", SECONDS, SIZE, KEY_SECONDS)
        for case in names:
            num_clips = clips or CASES[case][0]
            config = config_of(case, folder, num_clips=num_clips, **options)
            index(config)
            found = compare(config, Cache(config.cache), clips=num_clips, rounds=rounds)
            about = (
                f"{found.clips} clips of {found.videos} videos, {found.threads} threads, batches of {found.batch_size}"
            )
            yield Case(
                name=case, unit="clips", amount=found.clips, seconds=found.seconds, left_out=found.left_out, about=about
            )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this case; may be given several times")
    parser.add_argument("--clips", type=int, help="clips of each case; more for a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto", help="as run.device of a config")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--batch", type=int, help="clips of a batch")
    parser.add_argument("--compile", action="store_true", help="backbones through torch.compile")
    parser.add_argument("--quick", action="store_true", help="two clips and one round, to see that it runs")
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    run = partial(
        measured,
        options.case or [*CASES],
        clips=2 if options.quick else options.clips,
        rounds=1 if options.quick else options.rounds,
        device=options.device,
        precision=options.precision,
        batch=options.batch,
        compiled=options.compile,
    )
    report("extraction", run, options.json, device=name_of_device(pick_device(options.device)), quick=options.quick)


if __name__ == "__main__":
    main()
